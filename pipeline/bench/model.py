"""How long the model takes to make a head of pictures, and the least it could take."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypedDict

import numpy as np
import torch

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import Head, Identity
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import FastGHA
from pipeline.system.progress import Progress, silent


class Row(TypedDict):
    """One reconstruction, measured."""

    part: str
    inputs: int
    ms: float
    """Median."""
    spread_ms: float
    """Largest minus smallest."""
    peak_mb: float
    """Memory beyond what the process held with the model loaded."""


def bench(
    config: ModelConfig, inputs: Sequence[int], repeats: int = 5, progress: Progress = silent
) -> list[Row]:
    """Measure reconstruction with random weights, each number of views in a process of its own."""
    rows: list[Row] = []
    context = multiprocessing.get_context("spawn")
    for done, views in enumerate(inputs, start=1):
        with ProcessPoolExecutor(1, mp_context=context) as alone:
            threads = torch.get_num_threads()
            rows.append(alone.submit(_measure, config, views, repeats, threads).result())
        progress(done, len(inputs))
    return rows


def _measure(config: ModelConfig, views: int, repeats: int, threads: int) -> Row:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = FastGHA(config, source="random").eval().requires_grad_(False)
    size = config.image_size
    angles = torch.linspace(-0.6, 0.6, views)
    centers = torch.stack([angles.sin(), torch.zeros(views), angles.cos()], -1)
    K = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]])
    cameras = Camera(look_at(centers, torch.zeros(views, 3)), K.repeat(views, 1, 1), size, size)
    pictures = View(torch.rand(views, 3, size, size), torch.ones(views, 1, size, size), cameras)
    neutral = Head(Identity()).neutral
    mesh = TrackedMesh(MAKEHUMAN, neutral, np.stack([neutral] * views))
    before = _memory_mb()
    times: list[float] = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        model.reconstruct(pictures, model.guide(mesh, cameras))
        times.append(1e3 * (time.perf_counter() - start))
    times = times[1:]
    return Row(
        part="reconstruct",
        inputs=views,
        ms=statistics.median(times),
        spread_ms=max(times) - min(times),
        peak_mb=_memory_mb() - before,
    )


def _memory_mb() -> float:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (1e6 if sys.platform == "darwin" else 1e3)
