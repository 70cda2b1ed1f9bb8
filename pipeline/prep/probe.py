"""A look at raw data before days of work: one person, some twenty timesteps, all stages, measured.

Letters: v views.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from pipeline.captures.registry import find_captures, open_capture
from pipeline.prep.items import WORK, load_item
from pipeline.prep.plan import Job, Plan, PrepConfig, make_plan, save_plan
from pipeline.prep.run import STAGES, Call, Tick, untold
from pipeline.prep.stages.pack import PackStage
from pipeline.system.executor import make_executor

MOST = 20
"""Timesteps, spread over the capture."""
LIMIT = 180.0
"""Seconds that the look may take, about."""


@dataclass(frozen=True)
class Probe:
    """What was met."""

    plan: Plan
    """Of the whole capture."""
    timesteps: int
    """That went through all stages."""
    pictures: int
    kept: int
    """Timesteps that can be packed."""
    reasons: Mapping[str, int]
    """Why others, and views of these, cannot, with how often."""
    doubted: int
    """Views whose matte is not where the mesh is."""
    reprojection: float
    """Median distance from the landmarks in space to where they were detected, pixels of the raw
    picture; nan if there are none."""
    miss: float
    """Median by which our own fit misses the landmarks, as a share of the face; nan if none."""
    seconds: float
    """Of one picture, on all workers."""
    bytes: float
    """Of one picture, work and shard."""
    captures: int

    @property
    def rest(self) -> int:
        """Pictures of all captures, if the others are like this one."""
        return len(self.plan.timesteps) * len(self.plan.cameras) * self.captures

    def lines(self) -> list[str]:
        """Return it as lines for a terminal."""
        plan = self.plan
        expected = len(plan.missing) - len(plan.unexpected)
        out = [f"{plan.capture}: colours {plan.color}"]
        out += [f"  {name}: {value}" for name, value in plan.facts.items()]
        out.append(f"  missing as known of the data set: {expected}; otherwise: "
                   f"{len(plan.unexpected)}")  # fmt: skip
        out += [f"    {gap}" for gap in plan.unexpected[:10]]
        out.append(f"  {self.kept} of {self.timesteps} timesteps can be packed")
        out += [f"    {count} times: {why}" for why, count in list(self.reasons.items())[:8]]
        if self.doubted:
            out.append(f"  {self.doubted} of {self.pictures} views: mesh and matte do not meet")
        if np.isfinite(self.reprojection):
            out.append(f"  landmarks in space: {self.reprojection:.2f} px from the detected ones")
        if np.isfinite(self.miss):
            out.append(f"  our own fit misses the landmarks by {self.miss:.2%} of the face")
        out.append(f"  {self.seconds:.2f} s and {self.bytes / 1e6:.2f} MB a picture")
        out.append(
            f"all: about {self.captures} captures, {self.rest} pictures, "
            f"{self.rest * self.bytes / 1e9:.1f} GB, {self.rest * self.seconds / 3600:.1f} hours, "
            "if the others are like this one"
        )
        return out


def probe(root: Path, config: PrepConfig, *, workers: int = 1, tick: Tick = untold) -> Probe:
    """Take a few timesteps of the first capture through all stages, in a folder that goes again.

    Raises:
        InputError: If there is no capture, or no way to its codes or head poses.
    """
    found = find_captures(config.source, root)
    name, path = next(iter(found.items()))
    capture = open_capture(config.source, path)
    plan = make_plan(capture, path, config, len(found) == 1)
    capture.close()
    with TemporaryDirectory(prefix="fastgha-probe-") as folder:
        first = _few(plan, 1)
        seconds = _run(Job.of(Path(folder) / "one", config, {name: first}), 1, untold)
        count = int(np.clip(LIMIT / max(seconds, 1e-3) * workers, 1, MOST))
        some = _few(plan, count)
        job = Job.of(Path(folder) / "all", config, {name: some})
        seconds = _run(job, workers, tick)
        return _measured(job, plan, some, seconds, len(found))


def _few(plan: Plan, count: int) -> Plan:
    steps = plan.timesteps
    chosen = np.unique(np.linspace(0, len(steps) - 1, min(count, len(steps))).round().astype(int))
    return replace(plan, timesteps=tuple(steps[i] for i in chosen))


def _run(job: Job, workers: int, tick: Tick) -> float:
    """Run all stages; return how long they took, seconds."""
    for plan in job.plans.values():
        save_plan(job.out, plan)
    start = time.perf_counter()
    call = Call(job)
    with make_executor(call, workers) as executor:
        for stage in STAGES:
            items, _ = call.items(stage)
            executor.run(items, lambda done, total, s=stage: tick(s, done, total))
    return time.perf_counter() - start


def _measured(job: Job, plan: Plan, some: Plan, seconds: float, captures: int) -> Probe:
    pack, name = PackStage(job), plan.capture
    report = json.loads(pack.report(name).read_text(encoding="utf-8"))
    reasons = [*report["dropped_timesteps"].values(), *report["dropped_views"].values()]
    counts = {why: reasons.count(why) for why in sorted(set(reasons), key=reasons.count)[::-1]}
    misses: list[float] = []
    errors: list[float] = []
    for i in range(len(some.timesteps)):
        track = load_item(job.path("track", name, i)).arrays
        points = load_item(job.path("landmarks", name, i)).arrays["points"]
        errors += track["error"][np.isfinite(track["error"])].tolist()
        E, K, marks = track["world_to_camera"], track["K"], track["landmarks"]
        known = np.isfinite(marks).all(1)
        for v in np.flatnonzero(np.isfinite(E).all((1, 2)) & known.any()):
            inside = (marks[known] @ E[v, :3, :3].T + E[v, :3, 3]) @ K[v].T
            pixels = inside[:, :2] / inside[:, 2:]
            off = np.linalg.norm(pixels - points[v][known], axis=1)
            misses += off[np.isfinite(off)].tolist()
    pictures = len(some.timesteps) * len(some.cameras)
    files = [*(job.out / WORK).rglob("*.npz"), *job.out.glob("*.h5")]
    return Probe(
        plan, len(some.timesteps), pictures, int(report["kept"]), counts,
        len(report["doubted_views"]),
        float(np.median(misses)) if misses else float("nan"),
        float(np.median(errors)) if errors else float("nan"),
        seconds / pictures, sum(file.stat().st_size for file in files) / pictures, captures,
    )  # fmt: skip
