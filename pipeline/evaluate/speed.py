"""How long a model takes to make an avatar of 2 to 6 pictures, and to animate it (Table 2)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.core.types import ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import neutral_code
from pipeline.model.fastgha import FastGHA
from pipeline.system.machine import wait
from pipeline.system.progress import Progress, silent

PAPER = {2: (0.68, 128.0), 3: (0.83, 83.0), 4: (0.98, 62.0), 5: (1.15, 48.0), 6: (1.40, 32.0)}
"""Inputs to seconds and frames a second, on an H800 (Table 2)."""


@dataclass(frozen=True)
class Speed:
    """For one number of inputs; medians, and smallest and largest."""

    inputs: int
    reconstruct_s: float
    reconstruct_range_s: tuple[float, float]
    animate_fps: float
    animate_range_fps: tuple[float, float]
    gaussians: int


@torch.no_grad()
def speed(
    model: FastGHA,
    views: View,
    layout: str,
    mesh: TrackedMesh | None = None,
    *,
    inputs: Sequence[int] = (2, 3, 4, 5, 6),
    repeats: int = 5,
    frames: int = 20,
    progress: Progress = silent,
) -> list[Speed]:
    """Measure a model; cameras and expressions are known, nothing is read or written.

    Args:
        model: On the device that is measured.
        views: At least as many pictures as the largest of `inputs`.
        layout: Of the codes.
        mesh: As tracked in the views, for a guided model; drawing its guide is counted.
        inputs: Numbers of pictures.
        repeats: Reconstructions, after one that is not counted.
        frames: Animated and drawn frames, after three that are not counted.
        progress: Called after each number of pictures.
    """
    device = next(model.parameters()).device
    views = views.to(device)
    rows: list[Speed] = []
    for done, count in enumerate(inputs, start=1):
        seen = None if mesh is None else mesh[:count]
        make = partial(Avatar.create, model, views[:count], layout, {}, seen)
        made = _time(make, repeats, 1, device)
        avatar = make()
        drawn = _time(_frames(avatar, views.camera.width, layout, device), frames, 3, device)
        fps = [1 / s for s in drawn]
        rows.append(Speed(
            count, statistics.median(made), (min(made), max(made)),
            statistics.median(fps), (min(fps), max(fps)), len(avatar.canonical),
        ))  # fmt: skip
        progress(done, len(inputs))
    return rows


def _frames(avatar: Avatar, size: int, layout: str, device: torch.device) -> Callable[[], object]:
    """Return what draws a frame, each under another expression."""
    camera = orbit(1, size)[0].to(device)
    rng = np.random.default_rng(0)
    rest = neutral_code(layout).values

    def frame() -> object:
        code = rest.clone()
        code[:20] += torch.from_numpy(rng.normal(0, 0.3, 20)).float()
        return avatar.render(ExpressionCode(code.to(device), layout), camera)

    return frame


def _time(work: Callable[[], object], repeats: int, warm: int, device: torch.device) -> list[float]:
    seconds: list[float] = []
    for _ in range(repeats + warm):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return seconds[warm:]
