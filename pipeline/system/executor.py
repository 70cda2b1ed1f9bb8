"""Executors: call one function for many items, in local processes or on a Ray cluster.

Items are small values; results are files, so nothing comes back.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

from pipeline.core.errors import FastGHAError, MissingPackageError, WorkerError
from pipeline.system.progress import Progress, silent

Item = TypeVar("Item")
Taken = TypeVar("Taken", contravariant=True)

RETRIES = 3
"""An item that so many Ray workers were lost over is given up."""


class Executor(Protocol[Taken]):
    """Calls a function for items; workers are kept between calls."""

    def run(self, items: Sequence[Taken], progress: Progress = silent) -> None:
        """Call the function for each item."""
        ...

    def __enter__(self) -> Executor[Taken]: ...

    def __exit__(self, *_: object) -> None: ...


def make_executor(
    work: Callable[[Item], object], workers: int, *, ray: str | None = None, gpus: float = 0.0
) -> Executor[Item]:
    """Return local workers, or those of a Ray cluster.

    Args:
        work: Function to call; goes to each worker once.
        workers: Number of workers.
        ray: Address of a cluster; `auto` for the running one, `local` to start one here. Local
            processes if not given.
        gpus: GPUs that each worker of a cluster asks for.
    """
    return Workers(work, workers) if ray is None else RayWorkers(work, workers, ray, gpus)


class Workers(Generic[Item]):
    """One process (this) or several spawned ones that call `work` for items; kept between calls.

    Spawned, not forked: a fork inherits the threads' locks of numba and torch, and hangs. Each
    process gets `work` once, so what it loads when first called is loaded once.
    """

    def __init__(self, work: Callable[[Item], object], count: int) -> None:
        self._work = work
        self._pool = (
            ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
                initargs=(work,),
            )
            if count > 1
            else None
        )

    def run(self, items: Sequence[Item], progress: Progress = silent) -> None:
        """Call `work` for each item.

        Raises:
            FastGHAError: The first error of any item; items not yet started are left out.
        """
        if self._pool is None or len(items) <= 1:
            for i, item in enumerate(items):
                self._work(item)
                progress(i + 1, len(items))
            return
        try:
            futures = [self._pool.submit(_call_work, item) for item in items]
            for i, future in enumerate(as_completed(futures)):
                future.result()
                progress(i + 1, len(items))
        except BrokenProcessPool as error:
            raise WorkerError(
                "A worker process was killed, probably for want of memory.",
                "Run the same command again with fewer --workers; it goes on where it was.",
            ) from error
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            raise

    def __enter__(self) -> Workers[Item]:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def run_items(
    items: Sequence[Item], work: Callable[[Item], object], workers: int, progress: Progress = silent
) -> None:
    """Call `work` for each item, as `Workers` does.

    Raises:
        FastGHAError: The first error of any item.
    """
    with Workers(work, min(workers, len(items))) as pool:
        pool.run(items, progress)


_worker: list[Callable[[Any], object]] = []
"""The work of this worker process: a pool hands items only."""


def _begin_worker(work: Callable[[Any], object]) -> None:
    _worker[:] = [work]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    """End this process when its parent is gone: killed, it could not tell its workers."""
    wait([sentinel])
    os._exit(1)


def _call_work(item: Any) -> None:
    _worker[0](item)


@dataclass
class RayWorkers(Generic[Item]):
    """Workers on a Ray cluster; what a lost one had is done again.

    All machines see the same raw data and the same folder of results.
    """

    work: Callable[[Item], object]
    workers: int
    address: str
    gpus: float = 0.0
    """That each worker asks for."""

    def run(self, items: Sequence[Item], progress: Progress = silent) -> None:
        """Call `work` for each item.

        Raises:
            MissingPackageError: If Ray is not installed.
            WorkerError: If the cluster cannot be reached, or an item loses worker after worker.
            FastGHAError: The first error of any item.
        """
        try:
            import ray  # noqa: PLC0415
            from ray.exceptions import RayActorError, RayTaskError  # noqa: PLC0415
        except ImportError as error:
            raise MissingPackageError(
                "--ray needs the package ray.", "Install it: pip install 'fastgha[cluster]'"
            ) from error
        if not items:
            return
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, include_dashboard=None)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise WorkerError(
                    f"The Ray cluster {self.address} cannot be reached.",
                    "Start it: ray start --head; or give its address.",
                ) from error

        @ray.remote(num_cpus=1, num_gpus=self.gpus)
        class Worker:
            def __init__(self, work: Callable[[Item], object]) -> None:
                self.work = work

            def call(self, item: Any) -> None:
                self.work(item)

        shared = ray.put(self.work)
        left = deque((item, 0) for item in items)
        idle: list[Any] = [
            Worker.remote(shared) for _ in range(min(max(self.workers, 1), len(items)))
        ]
        running: dict[Any, tuple[Any, Any, int]] = {}
        done = 0
        while left or running:
            while left and idle:
                actor, (item, lost) = idle.pop(), left.popleft()
                running[actor.call.remote(item)] = actor, item, lost
            (ready,), _ = ray.wait(list(running), num_returns=1)
            actor, item, lost = running.pop(ready)
            try:
                ray.get(ready)
            except RayActorError as error:
                if lost + 1 == RETRIES:
                    raise WorkerError(
                        f"{RETRIES} workers were lost over {item}.", "Give the workers more memory."
                    ) from error
                left.append((item, lost + 1))
                idle.append(Worker.remote(shared))
                continue
            except RayTaskError as error:
                if isinstance(error.cause, FastGHAError):
                    raise error.cause from error
                raise
            done += 1
            idle.append(actor)
            progress(done, len(items))
        for actor in idle:
            ray.kill(actor)

    def __enter__(self) -> RayWorkers[Item]:
        return self

    def __exit__(self, *_: object) -> None: ...
