# pyright: basic
"""Work on a Ray cluster: each worker loads its models once; what a lost one had is done again.

All machines see the same raw data and the same folder of results.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.core.errors import FastGHAError, MissingPackageError, WorkerError
from pipeline.system.stage import Progress, silent

RETRIES = 3
"""An item that so many workers were lost over is given up."""


def run_on_ray(
    items: Sequence[Any],
    work: Callable[[Any], Any],
    address: str,
    workers: int,
    *,
    gpus: float = 0.0,
    progress: Progress = silent,
) -> None:
    """Call `work` for each item on a cluster.

    Args:
        items: Small values; results are files, so nothing comes back.
        work: Goes to each worker once.
        address: Of the cluster; `auto` for the running one, `local` to start one here.
        workers: How many.
        gpus: That each worker asks for.
        progress: Told after each item.

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
            ray.init(address=address, log_to_driver=False, include_dashboard=None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise WorkerError(
                f"The Ray cluster {address} cannot be reached.",
                "Start it: ray start --head; or give its address.",
            ) from error

    @ray.remote(num_cpus=1, num_gpus=gpus)
    class Worker:
        def __init__(self, work: Callable[[Any], Any]) -> None:
            self.work = work

        def call(self, item: Any) -> None:
            self.work(item)

    shared = ray.put(work)
    left = deque((item, 0) for item in items)
    idle: list[Any] = [Worker.remote(shared) for _ in range(min(max(workers, 1), len(items)))]
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
