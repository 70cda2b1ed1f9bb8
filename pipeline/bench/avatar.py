"""How fast and how good an avatar is in its light forms, side by side."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import bake
from pipeline.avatar.camera_path import orbit
from pipeline.avatar.distill import distill
from pipeline.avatar.fidelity import sample_codes
from pipeline.avatar.prune import prune
from pipeline.avatar.refine import refine
from pipeline.bench.rows import BenchRow, spread, table
from pipeline.core.types import ExpressionCode, Gaussians
from pipeline.evaluate.metrics import psnr
from pipeline.evaluate.protocol import Task, read, tasks
from pipeline.evaluate.run import Scene, scene
from pipeline.evaluate.tables import Table
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.model.deform import Deformation
from pipeline.prep.synthetic import SyntheticConfig
from pipeline.prep.synthetic import run as make_people
from pipeline.system.machine import wait
from pipeline.system.progress import Progress, silent


class Row(BenchRow):
    """One form of the avatars at one size; medians over frames, means over people."""

    variant: str
    width: int
    deform_ms: float
    render_ms: float
    fps: float
    fps_spread: float
    """Between three groups of the frames, taken in turn: largest minus smallest."""
    gaussians: int
    file_mb: float
    psnr_to_exact: float
    psnr_to_truth: float


COLUMNS = {
    "": "{variant}",
    "width": "{width}",
    "deform ms": "{deform_ms:.1f}",
    "render ms": "{render_ms:.1f}",
    "FPS": "{fps:.1f}",
    "Gaussians": "{gaussians:,}",
    "MB": "{file_mb:.2f}",
    "to exact": "{psnr_to_exact:.1f}",
    "to truth": "{psnr_to_truth:.2f}",
}


@dataclass(frozen=True)
class Form:
    """A way to animate an avatar."""

    avatar: Avatar
    animate: Callable[[ExpressionCode], Gaussians]


@torch.no_grad()
def bench(
    checkpoint: Path | None = None,
    shards: Path | None = None,
    *,
    people: int = 2,
    sizes: Sequence[int] = (256, 512),
    frames: int = 24,
    device: str = "cpu",
    progress: Progress = silent,
) -> list[Row]:
    """Measure avatars of held-out people: exact in two ways, pruned, baked, distilled, refined.

    The truth is the people's own pictures, from cameras and under expressions that no input
    shows; it exists at the protocol's size only, so all sizes state that figure.

    Args:
        checkpoint: Of the model; the shipped one if not given.
        shards: Held-out people; synthetic ones are made if not given.
        people: How many.
        sizes: Picture sizes whose speed is measured.
        frames: Animated frames at each size.
        device: Where avatars are made and drawn.
        progress: Called after each person.
    """
    model, loaded = load_model(checkpoint_path(checkpoint))
    model = model.to(device)
    found: dict[tuple[str, int], list[Row]] = {}
    with TemporaryDirectory(prefix="fastgha-") as place:
        if shards is None:
            shards = Path(place) / "shards"
            make_people(shards, SyntheticConfig(people, expressions=6, split="test"))
        protocol = read("synthetic-same")
        chosen = tasks(protocol, shards, loaded.header["layout"])[:: protocol.avatars][:people]
        for done, task in enumerate(chosen, start=1):
            seen, truth = scene(_few(task), protocol)
            mesh = seen.mesh() if model.config.guide == "mesh" else None
            exact = Avatar.create(model, seen.inputs.to(device), loaded.header["layout"], {}, mesh)
            for name, form in forms(exact, seen).items():
                close, right = _quality(form, exact, seen, truth)
                form.avatar.save(file := Path(place) / "x.avatar")
                for size in sizes:
                    times = _speed(form, size, frames)
                    deform, draw = map(statistics.median, zip(*times, strict=True))
                    found.setdefault((name, size), []).append(
                        Row(
                            variant=name,
                            width=size,
                            deform_ms=deform,
                            render_ms=draw,
                            fps=1e3 / (deform + draw),
                            fps_spread=_spread(times),
                            gaussians=len(form.avatar.canonical),
                            file_mb=file.stat().st_size / 1e6,
                            psnr_to_exact=close,
                            psnr_to_truth=right,
                        )
                    )
            progress(done, len(chosen))
    return [_mean(rows) for rows in found.values()]


def show(rows: Sequence[Row], people: int, frames: int) -> Table:
    """Return the rows as they are printed."""
    title = f"Mean of {people} people, medians of {frames} frames; PSNR in dB"
    return table(title, COLUMNS, rows)


def forms(exact: Avatar, seen: Scene) -> dict[str, Form]:
    """Return an avatar as it is, in its light forms, and refined on its inputs."""
    pruned, _ = prune(exact)
    baked, _ = bake(pruned)
    refined, _ = refine(exact, seen.inputs, seen.input_codes)
    few, _ = distill(exact)

    def plain(code: ExpressionCode) -> Gaussians:
        assert isinstance(exact.deformation, Deformation)
        values = code.values.to(exact.device)
        return exact.deformation(exact.deformation.prepare(exact.head), values)

    return {
        "plain": Form(exact, plain),
        "first layer kept": Form(exact, exact.animate),
        "pruned": Form(pruned, pruned.animate),
        "pruned and baked": Form(baked, baked.animate),
        "distilled": Form(few, few.animate),
        "refined": Form(refined, refined.animate),
    }


def _few(task: Task) -> Task:
    return Task(task.shard, task.subject, task.avatar, task.inputs, task.targets[:12])


def _quality(form: Form, exact: Avatar, seen: Scene, truth: Tensor) -> tuple[float, float]:
    """Return PSNR against the exact avatar and against the truth, over the targets."""
    drawn: list[Tensor] = []
    wanted: list[Tensor] = []
    for i in range(len(truth)):
        code = seen.codes[i]
        drawn.append(form.avatar.draw(form.animate(code), seen.camera[i]).color.cpu())
        wanted.append(exact.render(code, seen.camera[i]).color.cpu())
    pictures = torch.stack(drawn).permute(0, 3, 1, 2)
    close = psnr(pictures, torch.stack(wanted).permute(0, 3, 1, 2).clamp(0, 1))
    return float(close.mean()), float(psnr(pictures, truth).mean())


def _speed(form: Form, size: int, frames: int) -> list[tuple[float, float]]:
    """Return the milliseconds that each frame took to deform and to draw, without the first."""
    layout, device = form.avatar.layout, form.avatar.device
    cameras = orbit(frames, size).to(device)
    times: list[tuple[float, float]] = []
    for i, code in enumerate(sample_codes(layout, frames, 0)):
        start = time.perf_counter()
        gaussians = form.animate(ExpressionCode(code, layout))
        wait(device)
        middle = time.perf_counter()
        form.avatar.draw(gaussians, cameras[i])
        wait(device)
        times.append((1e3 * (middle - start), 1e3 * (time.perf_counter() - middle)))
    return times[min(3, frames - 1) :]


def _spread(times: Sequence[tuple[float, float]]) -> float:
    """Return how far the frames/s of three groups of frames, taken in turn, lie apart."""
    groups = (times[i::3] for i in range(min(3, len(times))))
    return spread([1e3 / statistics.median(map(sum, group)) for group in groups])


def _mean(rows: list[Row]) -> Row:
    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    deform, draw = mean([r["deform_ms"] for r in rows]), mean([r["render_ms"] for r in rows])
    return Row(
        variant=rows[0]["variant"],
        width=rows[0]["width"],
        deform_ms=deform,
        render_ms=draw,
        fps=1e3 / (deform + draw),
        fps_spread=mean([r["fps_spread"] for r in rows]),
        gaussians=round(mean([r["gaussians"] for r in rows])),
        file_mb=mean([r["file_mb"] for r in rows]),
        psnr_to_exact=mean([r["psnr_to_exact"] for r in rows]),
        psnr_to_truth=mean([r["psnr_to_truth"] for r in rows]),
    )
