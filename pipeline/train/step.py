"""One sample through the model: from pictures to the terms of the loss."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.core.errors import TrainingError
from pipeline.core.types import Gaussians, View
from pipeline.faces.guide import Guide
from pipeline.losses import Perceptual, Prediction, losses, motion
from pipeline.model.activate import kept
from pipeline.model.deform import PreparedHead
from pipeline.model.fastgha import FastGHA
from pipeline.model.hub import WeightsSource
from pipeline.model.rerun import rerun_backward
from pipeline.render import render
from pipeline.shards.sampling import Sample
from pipeline.system.machine import wait
from pipeline.train.config import RunConfig, TrainConfig


@dataclass(frozen=True)
class Outcome:
    """What a sample gave."""

    terms: dict[str, Tensor]
    """Weighted terms of the loss by name."""
    drawn: Tensor
    """[v, 3, h, w], the targets as they were drawn."""
    inputs: Tensor
    """[i, 3, h, w]."""


class Clock:
    """Seconds of the parts of a step.

    Args:
        device: Waited for at the end of each part, so that its time counts; none if not given.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._device = device
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Count the time since the last call for a part."""
        if self._device is not None:
            wait(self._device)
        now = time.perf_counter()
        self.laps[name] = self.laps.get(name, 0.0) + now - self._last
        self._last = now


class TrainingModule(nn.Module):
    """The model as training calls it: pictures, guide and code in, the animated head out.

    One call makes all of it, so that a wrapper around this module sees every parameter used.
    """

    def __init__(self, model: FastGHA) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, inputs: list[View], guides: list[Guide | None], codes: list[Tensor]
    ) -> list[tuple[PreparedHead, Gaussians]]:
        """Return the heads of samples with as many inputs, and their Gaussians under the codes."""
        found: list[tuple[PreparedHead, Gaussians]] = []
        for head, code in zip(self.model.reconstruct_sets(inputs, guides), codes, strict=True):
            prepared = self.model.prepare(head)
            found.append((prepared, self.model.animate(prepared, code)))
        return found


def make_model(
    config: TrainConfig,
    run: RunConfig,
    device: torch.device,
    layout: str,
    source: WeightsSource = "pretrained",
) -> FastGHA:
    """Make the model of a run; what is not downloaded begins with random weights.

    Raises:
        ConfigError: If a part that is to learn is none of the model.
    """
    torch.manual_seed(config.seed)
    model = FastGHA(config.model, run.precision, source).to(device=device)
    if run.channels_last:
        model = model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    model.deformation.set_layout(layout)
    if config.only:
        model.requires_grad_(False)
        for part in model.parts(config.only):
            part.requires_grad_(True)
    if run.gradient_checkpointing:
        rerun_backward(model)
    if run.compile:
        model.transformer.compile()
        model.decoder.compile()
    return model


def compute_losses(
    training_module: nn.Module,
    samples: Sequence[Sample],
    config: TrainConfig,
    perceptual: Perceptual | None,
    clock: Clock,
    device: torch.device,
) -> list[Outcome]:
    """Make and draw the heads of samples, and compare them with the truth.

    Args:
        training_module: A `TrainingModule`, or a wrapper of one.
        samples: What to look at, with as many inputs each: they share one pass of the model.
        config: Settings.
        perceptual: Net of the perceptual term; without one the term is off.
        clock: Counts forward, render and loss.
        device: Where the model is.
    """
    here = [sample.to(device) for sample in samples]
    made = training_module(
        [sample.inputs for sample in here],
        [sample.guide for sample in here],
        [sample.code.values for sample in here],
    )
    clock.lap("forward")
    return [
        _compare(sample, prepared, gaussians, config, perceptual, clock)
        for sample, (prepared, gaussians) in zip(here, made, strict=True)
    ]


def _compare(
    sample: Sample,
    prepared: PreparedHead,
    gaussians: Gaussians,
    config: TrainConfig,
    perceptual: Perceptual | None,
    clock: Clock,
) -> Outcome:
    inputs, targets = sample.inputs, sample.targets
    white = gaussians.means.new_ones(3)
    rendering = render(gaussians, targets.camera, background=white)
    drawn = Prediction(
        rendering.color.permute(0, 3, 1, 2),
        rendering.alpha.permute(0, 3, 1, 2),
        rendering.depth.permute(0, 3, 1, 2),
    )
    clock.lap("render")
    truth = Prediction(targets.image, targets.alpha, sample.depth)
    terms = losses(drawn, truth, config.loss, perceptual)
    if config.loss.motion > 0 and sample.guide is None and len(sample.target_mesh):
        terms["motion"] = config.loss.motion * motion(
            gaussians.means - prepared.head.gaussians.means,
            prepared.head.gaussians.means,
            torch.nonzero(kept(inputs, config.model))[:, 0],
            sample.input_meshes,
            sample.target_mesh,
        )
    clock.lap("loss")
    return Outcome(terms, drawn.image.detach(), inputs.image)


def finite(values: dict[str, Tensor], step: int, subject: str) -> None:
    """Refuse numbers that are not.

    Raises:
        TrainingError: Naming the step, the term and the subject.
    """
    for name, value in values.items():
        if not torch.isfinite(value):
            raise TrainingError(
                f"Step {step + 1}: the {name} is {float(value.detach())} (subject {subject}).",
                "Resume from the last checkpoint with a lower lr, and check this subject's shard.",
            )


@contextmanager
def attention(fused: bool) -> Generator[None]:
    """Compute attention in one fused kernel, or written out (to compare the two)."""
    if fused:
        yield
    else:
        with sdpa_kernel(SDPBackend.MATH):
            yield
