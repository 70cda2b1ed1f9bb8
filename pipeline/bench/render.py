"""How long drawing a head-like scene takes, forward and backward, and how much memory."""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pipeline.bench.roofline import Details, examine
from pipeline.bench.rows import BenchRow, alone, spread, table
from pipeline.core.config import nearest
from pipeline.core.errors import BackendError, ConfigError
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, Gaussians
from pipeline.evaluate.tables import Table
from pipeline.io.charts import new_figure
from pipeline.render.render import available_backends, device_of, render
from pipeline.render.types import Backend, Rendering
from pipeline.system.files import write_whole
from pipeline.system.machine import peak_mb, wait
from pipeline.system.progress import Progress, silent


class Row(BenchRow):
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
    forward_best_ms: float
    backward_best_ms: float
    peak_mb: float
    """Memory the process (or the CUDA device) took beyond what it held before."""
    threads: int


class CpuRow(Details, BenchRow):
    """A scene on the CPU backend: where the time goes, and the least it could take."""

    gaussians: int
    width: int
    height: int


COLUMNS = {
    "backend": "{backend}",
    "Gaussians": "{gaussians:,}",
    "pixels": "{width}x{height}",
    "forward": "{forward_ms:.1f} ({forward_spread_ms:.1f})",
    "backward": "{backward_ms:.1f} ({backward_spread_ms:.1f})",
    "peak MB": "{peak_mb:.0f}",
}
SIZES = (
    (2_048, 128), (16_384, 128), (65_536, 128), (262_144, 128),
    (16_384, 256), (65_536, 256), (262_144, 256), (1_048_576, 256),
    (16_384, 512), (65_536, 512), (262_144, 512), (1_048_576, 512),
    (65_536, 1024), (262_144, 1024), (1_048_576, 1024),
)  # fmt: skip
"""Gaussians and pixels along an edge."""
MAX_FOR_REFERENCE = 2**25
"""Gaussians times pixels: the plain backend holds some floats for each of these pairs."""


def parse_scenes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Read scenes written as GAUSSIANSxPIXELS.

    Raises:
        ConfigError: If one is written otherwise.
    """
    scenes: list[tuple[int, int]] = []
    for text in texts:
        count, _, size = text.partition("x")
        if not (count.isdecimal() and size.isdecimal() and int(count) and int(size)):
            raise ConfigError(
                f"{text!r} is not a scene.", "Write GAUSSIANSxPIXELS, such as 65536x256."
            )
        scenes.append((int(count), int(size)))
    return scenes


def parse_backends(names: Sequence[str] | None) -> list[Backend]:
    """Return the named backends; without names all that can run here.

    Raises:
        ConfigError: If there is no such backend.
        BackendError: If it cannot run here; says why.
    """
    states = available_backends()
    if names is None:
        return [backend for backend, state in states.items() if state == "ready"]
    unknown = set(names).difference(states)
    if unknown:
        name = min(unknown)
        raise ConfigError(f"There is no render backend {name!r}.", nearest(name, [*states]))
    chosen: list[Backend] = [backend for backend in states if names.count(backend)]
    for backend in chosen:
        if states[backend] != "ready":
            raise BackendError(
                f"The backend {backend} cannot run here: {states[backend]}.",
                "Choose another --backend; `fastgha doctor` shows all.",
            )
    return chosen


def head_scene(count: int, size: int, seed: int = 0) -> tuple[Gaussians, Camera]:
    """Return Gaussians on the surface of a head-sized ellipsoid and a camera in front of it.

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
    peers: Sequence[str] = (),
    repeats: int = 9,
    threads: int | None = None,
    device: str | None = None,
    progress: Progress = silent,
) -> list[Row]:
    """Measure each backend at each size: the median of `repeats` after one to warm up.

    Each measurement has a process of its own, so that the memory of one is not counted for the
    next. The plain backend is left out where it would not fit into memory.

    Args:
        sizes: Gaussians, and pixels along an edge.
        peers: Other renderers to measure beside ours; see `load_peer`.
        threads: As `torch.set_num_threads`; by default as torch has here.
        device: Where the tensors are; by default "cuda" for gsplat, "cpu" for the others.

    Raises:
        ConfigError: If nothing is left to measure.
    """
    for peer in peers:
        load_peer(peer)
    jobs: list[tuple[str, int, int]] = [
        (backend, count, size)
        for count, size in sizes
        for backend in (*backends, *peers)
        if backend != "reference" or count * size * size <= MAX_FOR_REFERENCE
    ]
    if not jobs:
        raise ConfigError(
            "The reference backend has no memory for these scenes, and no other was asked for.",
            "Name smaller scenes, such as --scene 2048x128, or another --backend.",
        )
    rows: list[Row] = []
    for done, (backend, count, size) in enumerate(jobs, start=1):
        used = threads or torch.get_num_threads()
        rows.append(alone(_measure, backend, count, size, repeats, used, device))
        progress(done, len(jobs))
    return rows


def show(rows: Sequence[Row], repeats: int) -> Table:
    """Return the rows as they are printed."""
    title = f"Milliseconds, median of {repeats} (spread), {rows[0]['threads']} threads"
    return table(title, COLUMNS, rows)


def examine_cpu(
    sizes: Sequence[tuple[int, int]], threads: int, progress: Progress = silent
) -> list[CpuRow]:
    """Tell for each scene where the CPU backend's time goes, and the least it could take."""
    rows: list[CpuRow] = []
    for done, (count, size) in enumerate(sizes, start=1):
        found = examine(*head_scene(count, size), threads=threads)
        rows.append(CpuRow(gaussians=count, width=size, height=size, **found))
        progress(done, len(sizes))
    return rows


def remark(row: CpuRow, threads: int) -> str:
    """Say in a line what is known of a scene on the CPU backend."""
    parts = ", ".join(f"{name} {ms:.1f}" for name, ms in row["phases_ms"].items())
    least = row["limit"]
    return (
        f"{row['gaussians']:,} at {row['width']}x{row['height']}, one thread, ms: {parts}; "
        f"least possible with {threads} threads: {least['forward_ms']:.1f} forward, "
        f"{least['backward_ms']:.1f} backward"
    )


def load_peer(name: str) -> Callable[[Gaussians, Camera, Tensor], Rendering]:
    """Return a renderer of somebody else's, named as FILE.py:FUNCTION.

    The function takes Gaussians, one camera and a background [c], and gives a `Rendering`.

    Raises:
        ConfigError: If there is no such file or function, or what it needs is not installed.
    """
    file, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location(f"peer_{Path(file).stem}", file)
    if spec is None or spec.loader is None or not Path(file).is_file():
        raise ConfigError(f"{name!r} names no Python file.", "Write FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        return getattr(module, function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"Cannot load {name}: {error}.", "Install what it needs.") from error


def _renderer(name: str) -> Callable[[Gaussians, Camera], Rendering]:
    if ":" in name:
        peer = load_peer(name)
        return lambda gaussians, camera: peer(
            gaussians, camera, gaussians.colors.new_zeros(gaussians.colors.shape[1])
        )
    return lambda gaussians, camera: render(gaussians, camera, backend=name)


def _measure(
    backend: str, count: int, size: int, repeats: int, threads: int, device: str | None
) -> Row:
    torch.set_num_threads(threads)
    # What the backend's libraries and compiled code take is not the scene's.
    small, camera = head_scene(64, 16)
    small.means.requires_grad_()
    warm = torch.device(device or device_of(backend))
    draw = _renderer(backend)
    draw(small.to(warm), camera.to(warm)).color.sum().backward()
    where = device or device_of(backend)
    gaussians, camera = head_scene(count, size)
    gaussians, camera = gaussians.to(where), camera.to(where)
    leaves = [
        tensor.requires_grad_()
        for tensor in (
            gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
            gaussians.colors,
        )
    ]  # fmt: skip
    before = peak_mb(where)
    grads = [torch.rand(size, size, c, device=where) for c in (3, 1)]
    forward: list[float] = []
    backward: list[float] = []
    for _ in range(repeats + 1):
        wait(where)
        start = time.perf_counter()
        drawn = draw(gaussians, camera)
        wait(where)
        middle = time.perf_counter()
        torch.autograd.grad([drawn.color, drawn.alpha], leaves, grads)
        wait(where)
        forward.append(1e3 * (middle - start))
        backward.append(1e3 * (time.perf_counter() - middle))
    forward, backward = forward[1:], backward[1:]
    return Row(
        backend=Path(backend.split(":")[0]).stem,
        gaussians=count,
        width=size,
        height=size,
        forward_ms=statistics.median(forward),
        backward_ms=statistics.median(backward),
        forward_spread_ms=spread(forward),
        backward_spread_ms=spread(backward),
        forward_best_ms=min(forward),
        backward_best_ms=min(backward),
        peak_mb=max(0.0, peak_mb(where) - before),
        threads=torch.get_num_threads(),
    )


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draw how time grows with the number of Gaussians: a line for each backend and size."""
    figure = new_figure(10, 4)
    panes = figure.subplots(1, 2, sharey=True)
    pictures = sorted({(row["backend"], row["width"]) for row in rows})
    parts: tuple[tuple[str, Callable[[Row], float]], ...] = (
        ("forward", lambda row: row["forward_ms"]),
        ("backward", lambda row: row["backward_ms"]),
    )
    for pane, (title, time_of) in zip(panes, parts):
        for backend, width in pictures:
            line = [r for r in rows if (r["backend"], r["width"]) == (backend, width)]
            pane.plot(
                [r["gaussians"] for r in line],
                [time_of(r) for r in line],
                marker="o",
                label=f"{backend}, {width} px",
            )
        pane.set(title=title, xlabel="Gaussians", xscale="log", yscale="log")
        pane.grid(visible=True, which="both", alpha=0.3)
    panes[0].set_ylabel(f"ms, median, {rows[0]['threads']} threads")
    panes[1].legend()
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=120))
