"""How long the model takes to make a head of pictures, and the least it could take."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from pipeline.bench.rows import Timed, alone, table, timed
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, View
from pipeline.evaluate.tables import Table
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import Head, Identity
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import FastGHA
from pipeline.system.machine import peak_mb, wait
from pipeline.system.progress import Progress, silent

REPEATS = 5
COLUMNS = {"views": "{inputs}", "ms": "{ms:.0f} ({spread_ms:.0f})", "peak MB": "{peak_mb:.0f}"}


class Row(Timed):
    """One reconstruction, measured; memory is beyond what the process held with the model."""

    part: str
    inputs: int


def bench(
    config: ModelConfig,
    inputs: Sequence[int],
    repeats: int = REPEATS,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Row]:
    """Measure reconstruction with random weights, each number of views in a process of its own."""
    rows: list[Row] = []
    for done, views in enumerate(inputs, start=1):
        rows.append(alone(_measure, config, views, repeats, torch.get_num_threads(), device))
        progress(done, len(inputs))
    return rows


def show(rows: Sequence[Row]) -> Table:
    """Return the rows as they are printed."""
    return table(f"Reconstruction, ms, median of {REPEATS} (spread)", COLUMNS, rows)


def _measure(config: ModelConfig, views: int, repeats: int, threads: int, device: str) -> Row:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = FastGHA(config, source="random").eval().requires_grad_(False).to(device)
    size = config.image_size
    angles = torch.linspace(-0.6, 0.6, views)
    centers = torch.stack([angles.sin(), torch.zeros(views), angles.cos()], -1)
    K = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]])
    cameras = Camera(look_at(centers, torch.zeros(views, 3)), K.repeat(views, 1, 1), size, size)
    pictures = View(torch.rand(views, 3, size, size), torch.ones(views, 1, size, size), cameras)
    neutral = Head(Identity()).neutral
    mesh = TrackedMesh(MAKEHUMAN, neutral, np.stack([neutral] * views))
    there = pictures.to(device)
    before = peak_mb(device)
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        guide = model.guide(mesh, cameras)
        model.reconstruct(there, None if guide is None else guide.to(device))
        wait(device)
        times.append(1e3 * (time.perf_counter() - start))
    return Row(part="reconstruct", inputs=views, **timed(times[1:], peak_mb(device) - before))
