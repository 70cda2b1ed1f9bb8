"""Recipes: raw captures to shards, the stages one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import Any

from pipeline.core.config import from_dict
from pipeline.core.errors import FormatError, InputError
from pipeline.prep.plan import Announce, Job, PrepConfig, load_plans, plan_all, save_plan
from pipeline.prep.stages.crop import CropStage
from pipeline.prep.stages.landmarks import LandmarksStage
from pipeline.prep.stages.matte import MatteStage
from pipeline.prep.stages.pack import PackStage
from pipeline.prep.stages.track import TrackStage
from pipeline.system.executor import make_executor
from pipeline.system.files import inside, read_object, sweep
from pipeline.system.locks import locked
from pipeline.system.stage import STAMP, StageReport, claim

STAGES = ("landmarks", "track", "crop", "matte", "pack")
"""In order: landmarks and tracking see the raw pictures, so that crops know the head's pose."""
BYTES_PER_PIXEL = {"work": 1.65, "shard": 0.61}
"""Of one view: measured on seven photographs, crops of 512 pixels, mattes made here."""
SECONDS = 1.2
"""Of one core for one photograph, all stages, loading included: seven of them by `bench prep`."""

Tick = Callable[[str, int, int], None]
"""Called with the stage, how many items are done, and how many there are."""


@dataclass(frozen=True)
class PrepEstimate:
    """What a run would do."""

    captures: int
    timesteps: int
    pictures: int
    seconds: float
    """Of one worker."""
    bytes_needed: int
    bytes_free: int


def untold(stage: str, done: int, total: int) -> None:
    """Report progress to nobody."""


def estimate(root: Path, out: Path, config: PrepConfig) -> PrepEstimate:
    """Count what a run would make, without writing anything."""
    plans = plan_all(root, config)
    timesteps = sum(len(plan.timesteps) for plan in plans.values())
    pictures = sum(len(plan.timesteps) * len(plan.cameras) for plan in plans.values())
    there = next(p for p in [out, *out.resolve().parents] if p.exists())
    need = int(pictures * config.size**2 * sum(BYTES_PER_PIXEL.values()))
    seconds = pictures * SECONDS
    return PrepEstimate(len(plans), timesteps, pictures, seconds, need, disk_usage(there).free)


def run(
    root: Path,
    out: Path,
    config: PrepConfig,
    *,
    workers: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    until: str = "pack",
    overwrite: bool = False,
    tick: Tick = untold,
    announce: Announce = lambda _: None,
) -> StageReport:
    """Take raw captures to shards; go on where an earlier run stopped.

    `announce` is called with what the user should know before the work begins.

    Raises:
        InputError: If there is no capture, or nothing of one can be packed.
        StaleOutputError: If `out` holds results of other settings, or another run works there.
    """
    _known(until)
    _refuse_inside(root, out)
    plans = plan_all(root, config, announce)
    with locked(out):
        claim(out, config, made="*.h5", overwrite=overwrite)
        sweep(out)
        known = load_plans(out)
        for name, plan in plans.items():
            if overwrite or known.get(name) != plan:
                _forget(out, name)
                save_plan(out, plan)
        job = Job.of(out, config, plans, device)
        return _stages(job, STAGES[: STAGES.index(until) + 1], workers, ray, tick)


def run_stage(
    out: Path,
    stage: str,
    *,
    workers: int = 1,
    ray: str | None = None,
    device: str = "cpu",
    tick: Tick = untold,
) -> StageReport:
    """Run one stage on a folder that a recipe began.

    Raises:
        InputError: If the folder has no work in it, or an earlier stage is not done.
    """
    _known(stage)
    with locked(out):
        plans = load_plans(out)
        if not plans:
            raise InputError(
                f"{out} has no work in it.", "Begin with a recipe, such as `fastgha prep ava256`."
            )
        job = Job.of(out, _settings(out), plans, device)
        sweep(out)
        for before in STAGES[: STAGES.index(stage)]:
            left, _ = job.todo(before)
            if left:
                raise InputError(
                    f"{before} is not done for {len(left)} timesteps of {out}.",
                    f"Run `fastgha prep {before} {out}` first.",
                )
        return _stages(job, (stage,), workers, ray, tick)


def _stages(
    job: Job, stages: tuple[str, ...], workers: int, ray: str | None, tick: Tick
) -> StageReport:
    report = StageReport(job.out)
    call = Call(job)
    with make_executor(call, workers, ray=ray) as executor:
        for stage in stages:
            items, done = call.items(stage)
            report.done += len(items)
            report.skipped += done
            executor.run(items, partial(tick, stage))
    if stages[-1] == "pack":
        pack = PackStage(job)
        for name in job.plans:
            if not pack.path(name).exists():
                report.dropped[name] = pack.reason(name)
        if len(report.dropped) == len(job.plans):
            name, reason = next(iter(report.dropped.items()))
            raise InputError(
                f"Nothing of {name} can be packed: {reason}.",
                f"See {pack.report(name)} for the reason of each timestep.",
            )
    return report


class Call:
    """Calls any stage for an item (stage, key): one set of workers serves all stages."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._track = TrackStage(job)
        self._works: dict[str, Callable[[Any], None]] = {
            "landmarks": LandmarksStage(job),
            "track": self._track,
            "crop": CropStage(job),
            "matte": MatteStage(job),
            "pack": PackStage(job),
        }

    def __call__(self, item: tuple[str, Any]) -> None:
        """Make one item."""
        self._works[item[0]](item[1])

    def items(self, stage: str) -> tuple[list[tuple[str, Any]], int]:
        """Return what a stage has to make, and how much of it is there."""
        if stage == "pack":
            pack = PackStage(self._job)
            left = [name for name in self._job.plans if not pack.path(name).exists()]
            return [(stage, name) for name in left], len(self._job.plans) - len(left)
        todo, done = self._job.todo(stage)
        keys = self._track.groups(todo) if stage == "track" else todo
        return [(stage, key) for key in keys], done


def _settings(out: Path) -> PrepConfig:
    try:
        return from_dict(PrepConfig, read_object(out / STAMP, "a stamp of results")["config"])
    except (InputError, FormatError, KeyError) as error:
        raise FormatError(
            f"{out} has no readable {STAMP}.", "Begin with a recipe, such as `fastgha prep ava256`."
        ) from error


def _forget(out: Path, name: str) -> None:
    """Remove the work of a capture whose plan changed."""
    import shutil  # noqa: PLC0415

    shutil.rmtree(inside(out / "work", name), ignore_errors=True)
    inside(out, f"{name}.h5").unlink(missing_ok=True)


def _known(stage: str) -> None:
    if stage not in STAGES:
        raise InputError(f"There is no stage {stage!r}.", f"Known: {', '.join(STAGES)}.")


def _refuse_inside(root: Path, out: Path) -> None:
    """Keep results out of the raw data."""
    inner, outer = out.resolve(), root.resolve()
    if inner == outer or (outer.is_dir() and outer in inner.parents):
        raise InputError(f"{out} is inside the raw data.", "Choose a folder outside of it.")
