# pyright: basic, reportCallIssue=false, reportArgumentType=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""The CPU backend: kernels put together for a row of cameras, and joined to autograd.

Letters: v cameras, n Gaussians (N padded to a multiple of 16), m visible ones, c channels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import BackendError
from pipeline.core.types import Camera, Gaussians
from pipeline.render.cpu import binning, blend, blend_backward, projection
from pipeline.render.cpu.simd import WIDTH
from pipeline.render.cpu.threads import run, spread, thread_count
from pipeline.render.types import Rendering


def render_cpu(
    gaussians: Gaussians, camera: Camera, background: Tensor, *, antialiased: bool = False
) -> Rendering:
    """Draw Gaussians on the CPU in 32 bit, differentiably; the same bits for any number of threads.

    Raises:
        BackendError: If the tensors are not on the CPU.
    """
    if gaussians.means.device.type != "cpu":
        raise BackendError(
            f"The cpu backend draws tensors on the CPU; these are on {gaussians.means.device}.",
            "Move them with .cpu(), or choose --backend gsplat.",
        )
    _announce_compilation()
    single = camera.K.ndim == 2
    E = camera.world_to_camera[None] if single else camera.world_to_camera
    K = camera.K[None] if single else camera.K
    drawn = _Rasterize.apply(
        gaussians.means,
        gaussians.quats,
        gaussians.scales,
        gaussians.opacities,
        gaussians.colors,
        E,
        background,
        K.detach(),
        _Settings(camera.width, camera.height, antialiased, single),
    )
    return Rendering(*drawn)


log = logging.getLogger("fastgha")


@cache
def _announce_compilation() -> None:
    """Say, once, that the first picture takes long if no process has drawn one before."""
    kernel = blend_backward.blend_tiles_backward
    # numba names the index after module, function and line
    if not any(Path(kernel.stats.cache_path).glob("blend_backward.blend_tiles_backward-*.nbi")):
        log.info("compiling the CPU renderer: about 15 s, once on this machine")


@dataclass(frozen=True)
class _Settings:
    width: int
    height: int
    antialiased: bool
    single: bool
    """Give pictures without the leading dimension. Not by indexing afterwards: autograd would
    fill a picture with zeros and copy into it."""


@dataclass(frozen=True)
class _Set:
    """A set of Gaussians as the kernels read it; flat, padded to N."""

    count: int
    quats: np.ndarray
    scales: np.ndarray
    colors: np.ndarray
    extra: np.ndarray
    planes: np.ndarray

    @property
    def size(self) -> int:
        return len(self.quats) // 4


@dataclass(frozen=True)
class _Picture:
    """What the way back needs of one camera's picture."""

    view: np.ndarray
    records: np.ndarray
    pairs: np.ndarray
    tiles: np.ndarray
    masks: np.ndarray
    color: np.ndarray
    through: np.ndarray
    raw_depth: np.ndarray


class _Rasterize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, means, quats, scales, opacities, colors, E, background, K, settings):
        width, height, antialiased = settings.width, settings.height, settings.antialiased
        threads = thread_count()
        shapes = pack(means, quats, scales, opacities, colors, threads)
        views = len(E)
        channels = colors.shape[1]
        color = torch.empty(views, height, width, channels, dtype=torch.float32)
        cover = torch.empty(views, height, width, 1, dtype=torch.float32)
        depth = torch.empty(views, height, width, 1, dtype=torch.float32)
        E_np, K_np = E.detach().double().numpy(), K.double().numpy()
        back = _flat(background)
        pictures: list[_Picture | None] = [None] * views

        def each(v: int, threads: int) -> None:
            pictures[v] = draw(
                shapes,
                projection.camera_numbers(E_np[v], K_np[v], width, height),
                (width, height),
                antialiased,
                back,
                (color[v].numpy().ravel(), cover[v].numpy().ravel(), depth[v].numpy().ravel()),
                threads,
            )

        _each_view(each, views, threads)
        ctx.shapes, ctx.pictures, ctx.settings = shapes, pictures, settings
        drawn = [part.to(means.dtype) for part in (color, cover, depth)]
        if settings.single:
            drawn = [part.reshape(part.shape[1:]) for part in drawn]
        # The kernels read these through numpy; saving them lets torch notice changes in place.
        ctx.save_for_backward(means, quats, scales, opacities, colors, drawn[0])
        ctx.set_materialize_grads(False)
        return tuple(drawn)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, v_color, v_cover, v_depth):
        width, height = ctx.settings.width, ctx.settings.height
        antialiased = ctx.settings.antialiased
        shapes: _Set = ctx.shapes
        threads = thread_count()
        colors = ctx.saved_tensors[4]
        views, channels, N = len(ctx.pictures), colors.shape[1], shapes.size
        v_color, v_cover, v_depth = (
            np.zeros((views, height * width * size), np.float32)
            if gradient is None
            else _flat(gradient).reshape(views, height * width * size)
            for gradient, size in ((v_color, channels), (v_cover, 1), (v_depth, 1))
        )
        spans = -(-N // projection.SPAN)
        v_E = np.zeros((views, 4, 4), np.float64)
        planes = np.zeros((views, projection.SHAPE_PLANES * N), np.float32)
        v_colors = np.zeros((views, shapes.count, channels), np.float32)

        def back(v: int, threads: int) -> None:
            picture = ctx.pictures[v]
            moments, v_extra = _blend_back(
                picture, shapes, (width, height), (v_color[v], v_cover[v], v_depth[v]), threads
            )
            camera = np.zeros((spans, 16), np.float32)
            spread(
                lambda start, stop: projection.project_backward(
                    shapes.planes, picture.view, antialiased, moments, planes[v],
                    camera.reshape(-1), start, stop,
                ),
                N, threads, projection.SPAN,
            )  # fmt: skip
            v_E[v, :3] = camera.astype(np.float64).sum(0)[:12].reshape(3, 4)
            few = min(channels, 3)
            at = projection.GRADIENT_COLOR
            sums = moments.reshape(N, projection.GRADIENT)[: shapes.count]
            v_colors[v, :, :few] = sums[:, at : at + few]
            v_colors[v, :, few:] = v_extra[: shapes.count, : channels - few]

        _each_view(back, views, threads)
        total = planes.sum(0) if views != 1 else planes[0]
        out = [np.empty(k * N, np.float32) for k in (3, 4, 3, 1)]
        spread(
            lambda start, stop: projection.unpack_shapes(
                shapes.quats, shapes.scales, total, *out, np.empty(7 * WIDTH, np.float32),
                start, stop,
            ),
            N, threads, projection.SPAN,
        )  # fmt: skip
        v_background = None
        if ctx.needs_input_grad[6]:
            shares = [
                p.through.astype(np.float64) @ g.reshape(-1, channels)
                for p, g in zip(ctx.pictures, v_color)
            ]
            v_background = torch.from_numpy(np.sum(shares, 0) + np.zeros(channels)).to(colors.dtype)
        grads = [
            torch.from_numpy(values[: shape.numel()]).reshape(shape).to(colors.dtype)
            for values, shape in zip(out, (t.shape for t in ctx.saved_tensors[:4]))
        ]
        summed = v_colors.sum(0) if views != 1 else v_colors[0]
        grads.append(torch.from_numpy(summed).to(colors.dtype))
        return *grads, torch.from_numpy(v_E).to(colors.dtype), v_background, None, None


def _each_view(work: Callable[[int, int], None], views: int, threads: int) -> None:
    """Return each thread whole pictures while there are enough, then share each picture."""
    whole = views // threads * threads if threads > 1 else 0
    if whole:
        run(lambda v: work(v, 1), whole, threads)
    for v in range(whole, views):
        work(v, threads)


def _flat(tensor: Tensor, size: int | None = None) -> np.ndarray:
    """Numbers of a tensor one after the other, 32 bit, writable, padded with 0 to a length."""
    values = tensor.detach().to(torch.float32).contiguous().numpy().reshape(-1)
    if size is None or len(values) == size:
        return values
    padded = np.zeros(size, np.float32)
    padded[: len(values)] = values
    return padded


def pack(means, quats, scales, opacities, colors, threads: int) -> _Set:
    """Lay a set of Gaussians out for the kernels."""
    N = -(-len(means) // WIDTH) * WIDTH
    parts = [_flat(t, k * N) for t, k in ((means, 3), (quats, 4), (scales, 3), (opacities, 1))]
    planes = np.empty(projection.SHAPE_PLANES * N, np.float32)
    spread(
        lambda start, stop: projection.pack_shapes(*parts, planes, start, stop),
        N, threads, projection.SPAN,
    )  # fmt: skip
    channels = colors.shape[1]
    more = -(-max(channels - 3, 0) // WIDTH) * WIDTH
    extra = np.zeros((N if more else 0, more), np.float32)
    if more:
        extra[: len(means), : channels - 3] = colors.detach()[:, 3:].numpy()
    return _Set(len(means), parts[1], parts[2], _flat(colors, channels * N), extra, planes)


def draw(shapes: _Set, view, size, antialiased, background, out, threads: int) -> _Picture:
    """Draw one camera's picture.

    Args:
        view: From `projection.camera_numbers`.
        size: Width and height.
        out: Colour, alpha and depth, flat, written.
    """
    width, height = size
    N, channels = shapes.size, len(background)
    across, down = -(-width // projection.TILE), -(-height // projection.TILE)
    records = np.empty(N * projection.RECORD, np.float32)
    boxes = np.empty(2 * N, np.int64)
    listed, keys = np.empty(N, np.int32), np.empty(N, np.uint32)
    found: dict[int, tuple[int, np.ndarray]] = {}

    def project(start: int, stop: int) -> None:
        counts = np.zeros(across * down, np.int32)
        edges = np.empty(4 * WIDTH, np.float32)
        number = projection.project(
            shapes.planes, shapes.colors, channels, view, width, height, antialiased,
            records, boxes, listed, keys, counts, edges, start, stop,
        )  # fmt: skip
        found[start] = number, counts

    spread(project, N, threads, projection.SPAN)
    parts = [slice(start, start + found[start][0]) for start in sorted(found)]
    order = binning.sort_by_depth(
        np.concatenate([keys[part] for part in parts]),
        np.concatenate([listed[part] for part in parts]),
    )
    tiles = np.zeros(across * down + 1, np.int32)
    np.cumsum(sum(counts for _, counts in found.values()), out=tiles[1:])
    pairs = np.empty(tiles[-1], np.int32)
    heads = tiles[:-1].copy()
    # Rows of tiles, shared so that each thread has about equally many pairs to write.
    rows = np.searchsorted(tiles[::across], tiles[-1] * np.arange(1, threads) / threads)
    rows = [0, *rows.tolist(), down]
    run(
        lambda part: binning.fill_tiles(
            order, boxes, across, rows[part], rows[part + 1], heads, pairs
        ),
        threads, threads,
    )  # fmt: skip
    extra = shapes.extra
    masks = np.empty(len(pairs), np.uint16)
    schedule, jobs = _schedule(tiles, threads)
    through = np.empty(width * height, np.float32)
    raw_depth = np.empty(width * height, np.float32)
    color, cover, depth = out
    run(
        lambda job: blend.blend_tiles(
            records, extra, pairs, tiles, schedule, masks, width, height, background,
            color, through, cover, depth, raw_depth, blend.scratch_arrays(extra.shape[1]),
            jobs[job], jobs[job + 1],
        ),
        len(jobs) - 1, threads,
    )  # fmt: skip
    return _Picture(view, records, pairs, tiles, masks, color, through, raw_depth)


def _schedule(tiles: np.ndarray, threads: int) -> tuple[np.ndarray, list[int]]:
    """Order the tiles so that equal shares are about equally much work."""
    count = len(tiles) - 1
    shares = 1 if threads == 1 else min(count, 4 * threads)
    heaviest_first = np.argsort(-np.diff(tiles), kind="stable").astype(np.int32)
    if shares == 1:
        return np.arange(count, dtype=np.int32), [0, count]
    dealt = [heaviest_first[share::shares] for share in range(shares)]
    return np.concatenate(dealt), [0, *np.cumsum([len(d) for d in dealt]).tolist()]


def _blend_back(
    picture: _Picture, shapes: _Set, size, gradients, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the moments of each Gaussian and the gradients of its channels after the third."""
    width, height = size
    v_color, v_cover, v_depth = gradients
    channels = len(v_color) // (width * height)
    more = shapes.extra.shape[1]
    offsets = np.empty(len(picture.tiles), np.int64)
    blend_backward.count_drawn(picture.tiles, picture.masks, offsets)
    slots = np.empty(int(offsets[-1]) * projection.GRADIENT, np.float32)
    slots_more = np.empty((int(offsets[-1]), more), np.float32)
    schedule, jobs = _schedule(picture.tiles, threads)
    run(
        lambda job: blend_backward.blend_tiles_backward(
            picture.records, shapes.extra, picture.pairs, picture.tiles, schedule,
            picture.masks, width, height, channels, picture.color, picture.through,
            picture.raw_depth, v_color, v_cover, v_depth, offsets, slots, slots_more,
            blend_backward.scratch_arrays(more), jobs[job], jobs[job + 1],
        ),
        len(jobs) - 1, threads,
    )  # fmt: skip
    moments = np.zeros(shapes.size * projection.GRADIENT, np.float32)
    v_extra = np.zeros((shapes.size, more), np.float32)
    spread(
        lambda start, stop: blend_backward.add_slots(
            picture.pairs, picture.masks, slots, slots_more, moments, v_extra, start, stop
        ),
        shapes.size, threads, WIDTH,
    )  # fmt: skip
    return moments, v_extra
