"""Where the CPU backend's time goes, and the least it could take on this machine.

Letters: n Gaussians of a tile, p pixels of a tile.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypedDict

import numpy as np
import torch

from pipeline.core.types import Camera, Gaussians
from pipeline.render.cpu import binning, blend, blend_backward, projection, rasterize
from pipeline.render.cpu.rasterize import render_cpu
from pipeline.render.types import MAX_ALPHA, MIN_TRANSMITTANCE

KERNELS: dict[str, tuple[Any, str]] = {
    "pack": (projection, "pack_shapes"),
    "project": (projection, "project"),
    "sort": (binning, "sort_by_depth"),
    "fill tiles": (binning, "fill_tiles"),
    "blend": (blend, "blend_tiles"),
    "blend backward": (blend_backward, "blend_tiles_backward"),
    "add slots": (blend_backward, "add_slots"),
    "project backward": (projection, "project_backward"),
    "unpack": (projection, "unpack_shapes"),
}
"""Phase, and the kernel that does it."""

FORWARD_OPERATIONS = 36
"""Arithmetic of one Gaussian at one pixel, counted in `blend`; a fused multiply-add is two."""
BACKWARD_OPERATIONS = 62
"""Likewise in `blend_backward`."""


class Counts(TypedDict):
    """What a picture needs."""

    gaussians: int
    tile_pairs: int
    """Gaussians listed, over all tiles."""
    drawn_tile_pairs: int
    """Of these, the ones that reach a pixel."""
    lane_pairs: int
    """Gaussian at a pixel, as computed: whole blocks of 16 pixels."""
    pixel_pairs: int
    """Gaussian at a pixel, as blended."""
    bytes: int
    """Gaussians read once and pictures written once; the way back moves as much again."""


class Limit(TypedDict):
    """The least time, by arithmetic and by memory, of the way there and back."""

    gflops: float
    """This machine's 32-bit rate in a matrix product, all threads."""
    gb_per_s: float
    """Its rate of copying memory."""
    forward_ms: float
    backward_ms: float


class Details(TypedDict):
    """All that is known of a scene on the CPU backend."""

    phases_ms: dict[str, float]
    counts: Counts
    limit: Limit


def examine(gaussians: Gaussians, camera: Camera, threads: int) -> Details:
    """Return the phases, the counts and the limit of a scene and one camera."""
    counts = count(gaussians, camera)
    return Details(phases_ms=phases(gaussians, camera), counts=counts, limit=limit(counts, threads))


def phases(gaussians: Gaussians, camera: Camera, repeats: int = 9) -> dict[str, float]:
    """Return the milliseconds of each phase of a picture and its way back, on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    runs: list[dict[str, float]] = []
    try:
        _there_and_back(gaussians, camera)
        for _ in range(repeats):
            with _clocks() as seconds:
                start = time.perf_counter()
                _there_and_back(gaussians, camera)
                total = time.perf_counter() - start
            runs.append({**seconds, "the rest": total - sum(seconds.values())})
    finally:
        torch.set_num_threads(before)
    return {name: 1e3 * statistics.median(run[name] for run in runs) for name in runs[0]}


@contextmanager
def _clocks() -> Generator[dict[str, float]]:
    """Count the seconds inside each kernel while it lasts."""
    seconds = dict.fromkeys(KERNELS, 0.0)
    kernels = {name: getattr(module, kernel) for name, (module, kernel) in KERNELS.items()}

    def timed(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.perf_counter()
            found = kernel(*args)
            seconds[name] += time.perf_counter() - start
            return found

        return call

    for name, (module, kernel) in KERNELS.items():
        setattr(module, kernel, timed(name, kernels[name]))
    try:
        yield seconds
    finally:
        for name, (module, kernel) in KERNELS.items():
            setattr(module, kernel, kernels[name])


def _there_and_back(gaussians: Gaussians, camera: Camera) -> None:
    leaves = [
        part.detach().requires_grad_()
        for part in (
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
            gaussians.colors,
        )
    ]  # fmt: skip
    background = torch.zeros(gaussians.colors.shape[1])
    drawn = render_cpu(Gaussians(*leaves), camera, background)
    torch.autograd.grad(drawn.color.sum() + drawn.alpha.sum(), leaves)


def count(gaussians: Gaussians, camera: Camera) -> Counts:
    """Count what one camera's picture needs; in plain numpy, tile by tile."""
    channels = gaussians.colors.shape[1]
    shapes = rasterize.pack(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
        gaussians.colors, 1,
    )  # fmt: skip
    view = projection.camera_numbers(
        camera.world_to_camera.double().numpy(), camera.K.double().numpy(),
        camera.width, camera.height,
    )  # fmt: skip
    pixels = camera.width * camera.height
    out = tuple(np.empty(pixels * c, np.float32) for c in (channels, 1, 1))
    back = np.zeros(channels, np.float32)
    size = (camera.width, camera.height)
    picture = rasterize.draw(shapes, view, size, False, back, out, 1)
    blocks = np.bitwise_count(picture.masks)
    records = picture.records.reshape(-1, projection.RECORD)
    across = -(-camera.width // projection.TILE)
    blended = 0
    for tile in range(len(picture.tiles) - 1):
        part = slice(picture.tiles[tile], picture.tiles[tile + 1])
        listed = picture.pairs[part][picture.masks[part] != 0]
        corner = tile % across * projection.TILE, tile // across * projection.TILE
        blended += _blended(records[listed], corner, size)
    return Counts(
        gaussians=len(gaussians.means),
        tile_pairs=len(picture.pairs),
        drawn_tile_pairs=int((picture.masks != 0).sum()),
        lane_pairs=int(blocks.sum(dtype=np.int64)) * 16,
        pixel_pairs=blended,
        bytes=4 * (len(gaussians.means) * (11 + channels) + pixels * (channels + 2)),
    )


def _blended(records: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> int:
    """Count the pairs of a Gaussian and a pixel that one tile blends."""
    x = np.arange(corner[0], min(corner[0] + projection.TILE, size[0])) + 0.5
    y = np.arange(corner[1], min(corner[1] + projection.TILE, size[1])) + 0.5
    grid = np.stack(np.meshgrid(x, y), -1).reshape(1, -1, 2).astype(np.float32)
    r = records[:, None, :]
    dx, dy = grid[..., 0] - r[..., projection.U], grid[..., 1] - r[..., projection.V]
    p = r[..., projection.PX] * dx + r[..., projection.PY] * dy
    q = r[..., projection.QY] * dy
    power = r[..., projection.LOG_OPACITY] - (p * p + q * q)
    alpha = np.where(power >= blend.LEAST, np.minimum(np.exp2(power), MAX_ALPHA), 0.0)
    open_after = np.cumprod(1.0 - alpha, axis=0) > MIN_TRANSMITTANCE
    return int(((alpha > 0) & open_after).sum())


def limit(counts: Counts, threads: int) -> Limit:
    """Return the least time of a picture, from its counts and this machine's measured rates."""
    gflops, gb_per_s = _flops(threads), _bandwidth()
    memory = counts["bytes"] / gb_per_s * 1e-6
    forward, backward = (
        max(memory, counts["pixel_pairs"] * operations / gflops * 1e-6)
        for operations in (FORWARD_OPERATIONS, BACKWARD_OPERATIONS)
    )
    return Limit(gflops=gflops, gb_per_s=gb_per_s, forward_ms=forward, backward_ms=backward)


def _flops(threads: int, size: int = 1024) -> float:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a = torch.rand(size, size)
    seconds = _fastest(lambda: torch.mm(a, a))
    torch.set_num_threads(before)
    return 2 * size**3 / seconds * 1e-9


def _bandwidth(size: int = 1 << 26) -> float:
    a, b = torch.ones(size), torch.empty(size)
    return 2 * 4 * size / _fastest(lambda: b.copy_(a)) * 1e-9


def _fastest(work: Callable[[], object], repeats: int = 5) -> float:
    seconds: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
