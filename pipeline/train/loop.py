"""The training loop."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.config import to_dict
from pipeline.errors import ConfigError, StaleOutputError, TrainingError
from pipeline.losses import Perceptual, Prediction, losses, motion
from pipeline.model.activate import kept
from pipeline.model.fastgha import FastGHA, Precision
from pipeline.render import render
from pipeline.shards.reader import Shard, find_shards
from pipeline.shards.sampling import Sample, Samples, load
from pipeline.stage import Progress, digest, silent, write_whole
from pipeline.train import checkpoint as checkpoints
from pipeline.train.checkpoint import Origin
from pipeline.train.config import TrainConfig
from pipeline.train.log import Log, picture

RUN = "run.json"
DEAD_STEPS = 20
"""With no gradient at all for this many steps in a row, no later step would bring one back."""


@dataclass(frozen=True)
class RunConfig:
    """How a run is carried out; nothing here changes its result."""

    checkpoint_every: int = 500
    picture_every: int = 500
    workers: int = 1
    device: str = "cpu"
    precision: Precision = "auto"


@dataclass(frozen=True)
class TrainReport:
    """How a run ended."""

    out: Path
    step: int
    stopped_by: str
    """Name of the signal that stopped it; empty if it reached its last step."""
    checkpoint: Path


def train(
    shards: Path,
    out: Path,
    config: TrainConfig,
    run: RunConfig = RunConfig(),
    *,
    perceptual: Perceptual | None = None,
    origin: Origin | None = None,
    stop_after: int | None = None,
    progress: Progress = silent,
) -> TrainReport:
    """Train a model on a folder of shards; go on where an earlier run into `out` stopped.

    The result depends on the settings and the shards alone: stopping and resuming gives the
    same bits on a CPU.

    Args:
        shards: Folder of shards.
        out: Folder of the run.
        config: Settings.
        run: How to carry it out.
        perceptual: Net of the perceptual term; without one the term is off.
        origin: Weights to begin with; random ones without.
        stop_after: End after this many more steps, with a checkpoint, as a signal would.
        progress: Called after each step.

    Raises:
        StaleOutputError: If `out` holds a run with other settings or shards.
        TrainingError: If a loss or gradient is not a finite number, or there is no gradient.
    """
    paths = find_shards(shards)
    layout = _layout(paths)
    _claim(out, config, paths, origin)
    torch.manual_seed(config.seed)
    device = torch.device(run.device)
    model = FastGHA(config.model, run.precision).to(device=device)
    model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.deformation.set_layout(layout)
    optimizer = _optimizer(model, config)
    start = _resume(out, model, optimizer)
    if origin is not None and start == 0:
        origin.take_over(model, layout)
    header: dict[str, Any] = {"layout": layout, "train": to_dict(config)}
    samples = Samples(paths, config.sampling, config.climb, config.seed)
    end = min(len(samples), start + stop_after) if stop_after is not None else len(samples)

    def save(step: int) -> Path:
        path = out / f"step-{step:08d}.safetensors"
        checkpoints.save(path, model, optimizer, {**header, "step": step})
        for old in sorted(out.glob("step-*.safetensors"))[: -checkpoints.KEPT]:
            old.unlink()
        return path

    step, dead = start, 0
    with Log(out, start) as log, _signals() as stopped:
        batches = iter(load(samples, start, run.workers)) if start < end else iter(())
        while step < end and not stopped():
            clock = Clock()
            sample = next(batches)
            clock.lap("data")
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * config.lr_factor(step)
            terms, drawn, inputs = _step(model, optimizer, sample, config, perceptual, step, clock)
            step += 1
            log.write(
                step,
                {name: float(term) for name, term in terms.items()},
                clock.laps,
                {"size": sample.targets.camera.width, "lr": optimizer.param_groups[0]["lr"]},
            )
            if step % run.picture_every == 0 or step == len(samples):
                picture(out / "pictures" / f"step-{step:08d}.jpg", inputs, drawn, sample)
            if step % run.checkpoint_every == 0 and step < end:
                save(step)
            progress(step, len(samples))
            dead = 0 if terms["gradient"] > 0 else dead + 1
            if dead == DEAD_STEPS:
                raise TrainingError(
                    f"Steps {step - dead + 1} to {step} have no gradient: nothing of the head is "
                    "in the pictures drawn.",
                    "Start again with a lower lr and deform_lr; the pictures in the run's folder "
                    "show when it went wrong.",
                )
    path = checkpoints.newest(out)
    if step > start or path is None:
        path = save(step)
    return TrainReport(out, step, stopped(), path)


def _step(
    model: FastGHA,
    optimizer: torch.optim.Optimizer,
    sample: Sample,
    config: TrainConfig,
    perceptual: Perceptual | None,
    step: int,
    clock: Clock,
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    device = next(model.parameters()).device
    inputs, targets = sample.inputs.to(device), sample.targets.to(device)
    prepared = model.prepare(model.reconstruct(inputs))
    gaussians = model.animate(prepared, sample.code.values.to(device))
    clock.lap("forward")
    white = torch.ones(3, device=device)
    rendering = render(gaussians, targets.camera, background=white)
    drawn = Prediction(
        rendering.color.permute(0, 3, 1, 2),
        rendering.alpha.permute(0, 3, 1, 2),
        rendering.depth.permute(0, 3, 1, 2),
    )
    clock.lap("render")
    truth = Prediction(targets.image, targets.alpha, sample.depth.to(device))
    terms = losses(drawn, truth, config.loss, perceptual)
    if config.loss.motion > 0 and len(sample.target_mesh):
        terms["motion"] = config.loss.motion * motion(
            gaussians.means - prepared.head.gaussians.means,
            prepared.head.gaussians.means,
            torch.nonzero(kept(inputs, config.model))[:, 0],
            sample.input_meshes.to(device),
            sample.target_mesh.to(device),
        )
    for name, term in terms.items():
        if not torch.isfinite(term):
            value = float(term.detach())
            raise TrainingError(
                f"Step {step + 1}: the {name} loss is {value} (subject {sample.subject}).",
                "Resume from the last checkpoint with a lower lr, and check this subject's shard.",
            )
    clock.lap("loss")
    optimizer.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    clock.lap("backward")
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
    if not torch.isfinite(norm):
        raise TrainingError(
            f"Step {step + 1}: the gradient is {float(norm)} (subject {sample.subject}).",
            "Resume from the last checkpoint with a lower lr, and check this subject's shard.",
        )
    optimizer.step()
    clock.lap("optimizer")
    figures = {name: term.detach() for name, term in terms.items()}
    return {**figures, "gradient": norm}, drawn.image.detach(), inputs.image


class Clock:
    """Seconds of the parts of a step."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last call for a part."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name] = now - self._last
        self._last = now


def _optimizer(model: FastGHA, config: TrainConfig) -> torch.optim.Adam:
    """Give Adam with two step sizes (section 4.1: 5e-5, and 5e-4 for the deformation)."""
    deform = list(model.deformation.parameters())
    mine = {id(p) for p in deform}
    rest = [p for p in model.parameters() if id(p) not in mine]
    groups = [
        {"params": rest, "lr": config.lr, "base_lr": config.lr},
        {"params": deform, "lr": config.deform_lr, "base_lr": config.deform_lr},
    ]
    return torch.optim.Adam(groups, fused=True)


def _resume(out: Path, model: FastGHA, optimizer: torch.optim.Optimizer) -> int:
    path = checkpoints.newest(out)
    if path is None:
        return 0
    checkpoint = checkpoints.load(path)
    checkpoints.restore(model, checkpoint.tensors, "model.", path)
    checkpoints.restore_optimizer(optimizer, model, checkpoint, path)
    return int(checkpoint.header["step"])


def _claim(out: Path, config: TrainConfig, paths: list[Path], origin: Origin | None) -> None:
    """Stamp the run's folder with its settings and shards, or refuse another run's folder."""
    made_of: dict[str, Any] = {"settings": to_dict(config), "shards": [p.name for p in paths]}
    if origin is not None:
        made_of["origin"] = {"sha256": digest(origin.checkpoint), "anew": list(origin.anew)}
    wanted = json.dumps(made_of, indent=1, sort_keys=True)
    stamp = out / RUN
    if stamp.exists() and stamp.read_text() != wanted:
        raise StaleOutputError(
            f"{out} holds a run with other settings or shards (see {stamp}).",
            "Choose another folder, or the settings of that run to go on with it.",
        )
    if not stamp.exists() and checkpoints.newest(out):
        raise StaleOutputError(f"{out} holds checkpoints of another run.", "Choose another folder.")
    write_whole(stamp, lambda part: part.write_text(wanted))


def _layout(paths: list[Path]) -> str:
    layouts: dict[str, Path] = {}
    for path in paths:
        with Shard(path) as shard:
            layouts.setdefault(shard.layout, path)
    if len(layouts) > 1:
        (a, first), (b, second), *_ = layouts.items()
        raise ConfigError(
            f"{first.name} has codes of {a}, {second.name} of {b}.",
            "Train on shards of one expression layout.",
        )
    return next(iter(layouts))


@contextmanager
def _signals() -> Generator[Callable[[], str]]:
    """Give a question whether SIGTERM or SIGINT came; the step in progress ends first."""
    came: list[str] = []

    def note(number: int, _: object) -> None:
        if came:  # the second time, the user means it
            raise KeyboardInterrupt
        came.append(signal.Signals(number).name)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, where signals do not arrive
        before = {}
    try:
        yield lambda: came[0] if came else ""
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
