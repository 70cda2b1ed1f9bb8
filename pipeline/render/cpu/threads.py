"""Run compiled functions, which let go of Python's lock, in a few threads of our own.

Not numba's parallel loops: those share a thread pool that a forked child cannot use, that
other libraries resize, and that gives each loop its own compilation. Every function called here
works on its own part of the output, so that who runs it does not change the result.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import torch

_pools: dict[tuple[int, int], ThreadPoolExecutor] = {}


def thread_count() -> int:
    """Return the number of threads to use: torch's."""
    return torch.get_num_threads()


def run(work: Callable[[int], object], jobs: int, threads: int) -> None:
    """Call work(0) ... work(jobs - 1), each once, in up to `threads` threads."""
    helpers = min(threads, jobs) - 1
    turn = count()

    def take() -> None:
        # next() of a counter is atomic under Python's lock
        while (job := next(turn)) < jobs:
            work(job)

    futures = [_pool(threads).submit(take) for _ in range(helpers)]
    try:
        take()
    finally:
        for future in futures:
            future.result()


def spread(
    work: Callable[[int, int], object], size: int, threads: int, grain: int, each: int = 1
) -> None:
    """Call work(start, stop) for parts of range(size) that begin at multiples of `grain`.

    Args:
        each: Parts for each thread.
    """
    grains = -(-size // grain)
    jobs = max(1, min(grains, threads * each if threads > 1 else 1))

    def part(job: int) -> None:
        start, stop = grains * job // jobs * grain, grains * (job + 1) // jobs * grain
        work(start, min(stop, size))

    run(part, jobs, threads)


def _pool(threads: int) -> ThreadPoolExecutor:
    # A forked child inherits the object without its threads: it needs a pool of its own.
    key = (os.getpid(), threads)
    if key not in _pools:
        _pools[key] = ThreadPoolExecutor(threads, thread_name_prefix="fastgha-render")
    return _pools[key]
