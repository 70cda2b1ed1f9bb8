"""How long drawing a head-like scene takes, forward and backward, and how much memory."""

from __future__ import annotations

import math
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import TypedDict

import torch

from pipeline.geometry import look_at
from pipeline.render.render import render
from pipeline.render.types import Backend, Rendering
from pipeline.types import Camera, Gaussians


class Row(TypedDict):
    """One measurement; times are medians."""

    backend: str
    gaussians: int
    width: int
    height: int
    forward_ms: float
    backward_ms: float
    forward_spread_ms: float
    """Largest minus smallest."""
    backward_spread_ms: float
    peak_mb: float
    """Memory the process (or the CUDA device) took beyond what it held before."""
    threads: int


SIZES = (
    (16_384, 128), (65_536, 256), (65_536, 512), (262_144, 256), (262_144, 512),
)  # fmt: skip
"""Gaussians and pixels along an edge."""


def head_scene(count: int, size: int, seed: int = 0) -> tuple[Gaussians, Camera]:
    """Give Gaussians on the surface of a head-sized ellipsoid and a camera in front of it.

    Each is flat, turned at random, 1 to 3 pixels wide in a picture of 256 pixels (as large on
    the head in any other picture of 65,536 Gaussians, smaller where there are more), opaque by
    about 0.9.
    """
    draw = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=draw), dim=-1)
    means = direction * torch.tensor([0.08, 0.12, 0.10])
    focal = 3.0 * size
    pixel = 1.0 / focal
    scales = pixel * (0.5 + torch.rand(count, 3, generator=draw))
    quats = torch.randn(count, 4, generator=draw)
    opacities = torch.sigmoid(2.2 + 0.5 * torch.randn(count, generator=draw))
    colors = torch.rand(count, 3, generator=draw)
    middle = size / 2
    K = torch.tensor([[focal, 0, middle], [0, focal, middle], [0, 0, 1.0]])
    E = look_at(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3))
    return Gaussians(means, quats, scales, opacities, colors), Camera(E, K, size, size)


def bench(
    backends: Sequence[Backend] = ("cpu",),
    sizes: Sequence[tuple[int, int]] = SIZES,
    *,
    repeats: int = 9,
    device: str | None = None,
) -> list[Row]:
    """Measure each backend at each size: the median of `repeats` after one to warm up.

    Args:
        sizes: Gaussians, and pixels along an edge.
        device: Where the tensors are; by default "cuda" for gsplat, "cpu" for the others.
    """
    return [
        _measure(backend, count, size, repeats, device)
        for count, size in sizes
        for backend in backends
    ]


def _measure(backend: Backend, count: int, size: int, repeats: int, device: str | None) -> Row:
    where = device or ("cuda" if backend == "gsplat" else "cpu")
    gaussians, camera = head_scene(count, size)
    gaussians, camera = gaussians.to(where), camera.to(where)
    leaves = [
        tensor.requires_grad_()
        for tensor in (
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
            gaussians.colors,
        )
    ]  # fmt: skip
    before = _memory_mb(where)
    grads = [torch.rand(size, size, c, device=where) for c in (3, 1)]
    forward: list[float] = []
    backward: list[float] = []
    for _ in range(repeats + 1):
        _wait(where)
        start = time.perf_counter()
        drawn: Rendering = render(gaussians, camera, backend=backend)
        _wait(where)
        middle = time.perf_counter()
        torch.autograd.grad([drawn.color, drawn.alpha], leaves, grads)
        _wait(where)
        forward.append(1e3 * (middle - start))
        backward.append(1e3 * (time.perf_counter() - middle))
    forward, backward = forward[1:], backward[1:]
    return Row(
        backend=backend,
        gaussians=count,
        width=size,
        height=size,
        forward_ms=statistics.median(forward),
        backward_ms=statistics.median(backward),
        forward_spread_ms=max(forward) - min(forward),
        backward_spread_ms=max(backward) - min(backward),
        peak_mb=max(0.0, _memory_mb(where) - before),
        threads=torch.get_num_threads(),
    )


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _memory_mb(device: str) -> float:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return math.ceil(most) / (1e6 if sys.platform == "darwin" else 1e3)
