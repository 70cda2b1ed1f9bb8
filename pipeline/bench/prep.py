"""How fast prep's stages are on this machine, and reading what they made."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TypedDict

import numpy as np

from pipeline.bench.rows import BenchRow, table
from pipeline.captures.registry import find_captures, open_capture
from pipeline.evaluate.tables import Table
from pipeline.prep import run as recipes
from pipeline.prep.plan import PrepConfig
from pipeline.shards.reader import Shard, find_shards

COLUMNS = {"stage": "{stage}", "workers": "{workers}", "pictures/s": "{images_per_s:.2f}"}


class Row(BenchRow):
    """One stage with so many workers."""

    stage: str
    workers: int
    images_per_s: float


class Figures(TypedDict):
    """How fast captures become shards, and are read."""

    pictures: int
    stages: list[Row]
    shard_views_per_s: float
    """Views read and decoded at the stored size."""
    raw_per_s: float
    """Raw pictures decoded."""


def bench(root: Path, config: PrepConfig, workers: tuple[int, ...] = (1, 2)) -> Figures:
    """Time each stage on a folder of photographs, then reading of the shards.

    The first stage that needs a network or a head model loads it; that is part of its time, in
    each worker.
    """
    plan = recipes.estimate(root, root.parent / "never-written", config)
    rows: list[Row] = []
    reading = 0.0
    for count in workers:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out"
            for stage in recipes.STAGES:
                start = time.perf_counter()
                if stage == recipes.STAGES[0]:
                    recipes.run(root, out, config, workers=count, until=stage)
                else:
                    recipes.run_stage(out, stage, workers=count)
                seconds = time.perf_counter() - start
                rows.append(Row(stage=stage, workers=count, images_per_s=plan.pictures / seconds))
            reading = _reading(out)
    return Figures(
        pictures=plan.pictures, stages=rows, shard_views_per_s=reading,
        raw_per_s=_raw(root, config),
    )  # fmt: skip


def show(figures: Figures) -> Table:
    """Return the figures as they are printed."""
    return table(
        f"{figures['pictures']} pictures, loading of networks included", COLUMNS,
        figures["stages"],
        [f"shards: {figures['shard_views_per_s']:.0f} views/s; "
         f"raw pictures: {figures['raw_per_s']:.1f}/s"],
    )  # fmt: skip


def _reading(out: Path) -> float:
    views, start = 0, time.perf_counter()
    while time.perf_counter() - start < 1:
        for path in find_shards(out):
            with Shard(path) as shard:
                for t, v in np.argwhere(shard.valid).tolist():
                    shard.read([(t, v)], shard.width)
                    views += 1
    return views / (time.perf_counter() - start)


def _raw(root: Path, config: PrepConfig) -> float:
    pictures, start = 0, time.perf_counter()
    for path in find_captures(config.source, root).values():
        capture = open_capture(config.source, path)
        for step in capture.timesteps:
            for camera in capture.cameras:
                if capture.has(step, camera):
                    capture.view(step, camera)
                    pictures += 1
        capture.close()
    return pictures / (time.perf_counter() - start)
