"""A few seconds of gradient steps on the pictures that an avatar was made of.

Letters: v pictures.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fit import PRIOR, corrected
from pipeline.avatar.learnt import BETAS, Rates
from pipeline.core.errors import ConfigError, ShapeError
from pipeline.core.types import ExpressionCode, Gaussians, View
from pipeline.losses import ssim
from pipeline.model.baked import Baked
from pipeline.render import render
from pipeline.system.progress import Progress, silent


@dataclass(frozen=True)
class RefineConfig:
    """How an avatar is refined."""

    seconds: float = 10.0
    max_steps: int = 40
    """More steps learn by heart what the tracker is off."""
    means_lr: float = 2e-4
    """Metres a step; the largest share of what is gained comes from places."""
    scales_lr: float = 5e-3
    """Of the logarithm."""
    opacities_lr: float = 5e-3
    """Of the logit."""
    colors_lr: float = 1e-3
    ssim: float = 0.5
    """Weight of 1 - SSIM beside the L1 terms of colour and silhouette."""
    hold: float = 0.02
    """Weight of what changes cost, in `WIDTHS`."""
    prior: float = 1e-3
    """Weight of what the pictures' own corrections cost, in the widths of a video's."""


FARTHEST = 4.0
"""Times the rate that one number moves in a step at most."""
WIDTHS = (0.004, 0.2, 0.5, 0.1)
"""Usual changes: of places, metres; of sizes, logarithm; of opacities, logit; and of colours."""
OWN = ("turn", "shift", "exposure")
"""What is a picture's own, not the head's: what tracker and light are off, as in a video."""


@dataclass(frozen=True)
class RefineReport:
    """How it went."""

    steps: int
    seconds: float


class _EvenAdam(torch.optim.Optimizer):
    """Adam whose steps are measured by the gradients of all Gaussians, not by each one's own.

    A Gaussian that is hardly seen, whose gradient is little more than noise, hardly moves.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})
        self._steps = 0

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take one step."""
        self._steps += 1
        fade, slow = (1 - beta**self._steps for beta in BETAS)
        for group in self.param_groups:
            for x in group["params"]:
                if x.grad is None:
                    continue
                own = self.state[x]
                if not own:
                    own["mean"], own["square"] = torch.zeros_like(x), x.new_zeros(())
                own["mean"].lerp_(x.grad, 1 - BETAS[0])
                seen = (x.grad != 0).sum().clamp(min=1)
                own["square"].lerp_(x.grad.square().sum() / seen, 1 - BETAS[1])
                size = (own["square"] / slow).sqrt().clamp(min=1e-12)
                x.add_((own["mean"] / fade / size).clamp(-FARTHEST, FARTHEST), alpha=-group["lr"])


class _Shift:
    """The changes that are learnt: of the Gaussians, and each picture's own."""

    def __init__(self, still: Gaussians, pictures: int, config: RefineConfig) -> None:
        self.still = still
        shapes = (still.means, still.scales, still.opacities, still.colors)
        self.values = [torch.zeros_like(x, requires_grad=True) for x in shapes]
        rates = (config.means_lr, config.scales_lr, config.opacities_lr, config.colors_lr)
        groups = [{"params": [v], "lr": lr} for v, lr in zip(self.values, rates)]
        self.own = [
            {name: torch.zeros_like(still.means[0], requires_grad=True) for name in OWN}
            for _ in range(pictures)
        ]
        own_rates = vars(Rates())
        groups += [{"params": [x[n]], "lr": own_rates[n]} for x in self.own for n in OWN]
        self.adam = _EvenAdam(groups)
        self.config = config

    def cost(self, picture: int) -> Tensor:
        """Return what the changes cost."""
        held = sum(
            (x / width).square().mean() for x, width in zip(self.values, WIDTHS, strict=True)
        )
        own = sum((self.own[picture][n] / PRIOR[n]).square().sum() for n in OWN)
        return self.config.hold * torch.as_tensor(held) + self.config.prior * torch.as_tensor(own)

    def gaussians(self) -> Gaussians:
        means, scales, opacities, colors = self.values
        still = self.still
        return Gaussians(
            still.means + means,
            still.quats,
            still.scales * scales.exp(),
            torch.sigmoid(torch.logit(still.opacities.clamp(1e-4, 1 - 1e-4)) + opacities),
            (still.colors + colors).clamp(0, 1),
        )


@torch.enable_grad()
def refine(
    avatar: Avatar,
    views: View,
    codes: ExpressionCode,
    config: RefineConfig = RefineConfig(),
    progress: Progress = silent,
) -> tuple[Avatar, RefineReport]:
    """Fit an avatar's Gaussians more closely to its pictures; the deformation stays as it is.

    How far each Gaussian moves for each picture's expression is computed once and kept, so a step
    costs only drawing. Each picture has a small turn, shift and exposure of its own beside it.

    Args:
        avatar: An exact avatar.
        views: The pictures it was made of.
        codes: Their expressions, [v, 120].
        config: How.
        progress: Called with the seconds spent, and there are.

    Raises:
        ConfigError: If the avatar is baked.
        ShapeError: If there is not one code for each picture.
    """
    if isinstance(avatar.deformation, Baked):
        raise ConfigError("A baked avatar cannot be refined.", "Refine first, then bake.")
    if len(codes) != len(views):
        raise ShapeError(f"{len(views)} pictures, {len(codes)} codes.", "Give a code for each.")
    still = avatar.canonical
    views = views.to(avatar.device)
    moved = [avatar.animate(codes[i]) for i in range(len(codes))]
    offsets = [(g.means - still.means, g.colors - still.colors) for g in moved]
    shift = _Shift(still, len(views), config)
    start = time.perf_counter()
    step = 0
    while step < config.max_steps and (spent := time.perf_counter() - start) < config.seconds:
        progress(round(spent), round(config.seconds))
        v = step % len(views)
        own = corrected(_posed(shift.gaussians(), *offsets[v]), shift.own[v])
        loss = _loss(own, views[v : v + 1], config) + shift.cost(v)
        shift.adam.zero_grad(set_to_none=True)
        loss.backward()
        shift.adam.step()
        step += 1
    refined = replace(avatar, refined_gaussians=_frozen(shift.gaussians())) if step else avatar
    progress(round(config.seconds), round(config.seconds))
    return refined, RefineReport(step, time.perf_counter() - start)


def held_back(
    make: Callable[[list[int]], Avatar],
    views: View,
    codes: ExpressionCode,
    config: RefineConfig = RefineConfig(),
) -> tuple[int, float, float]:
    """Tell whether refinement brings an avatar closer to a picture that it has not seen.

    Args:
        make: Makes the avatar of some of the pictures.
        views: The pictures, two or more.
        codes: Their expressions, [v, 120].
        config: How it is refined.

    Returns:
        The picture that is held back, the one seen most from the middle of the others; and its
        `error` before and after the others' avatar is refined.
    """
    ways = functional.normalize(views.camera.centers, dim=-1)
    held = int((ways @ ways.mT).sum(1).argmax())
    rest = [i for i in range(len(views)) if i != held]
    less = make(rest)
    views = views.to(less.device)
    tried, _ = refine(less, views[rest], codes[rest], config)
    was, now = (error(one, views[[held]], codes[[held]]) for one in (less, tried))
    return held, was, now


@torch.no_grad()
def error(avatar: Avatar, views: View, codes: ExpressionCode) -> float:
    """Return the mean absolute error of an avatar where pictures show the head."""
    total, count = 0.0, 0.0
    for i in range(len(views)):
        drawn = avatar.render(codes[i], views.camera[i])
        gap = (drawn.color.permute(2, 0, 1) - views.image[i]).abs().mean(0)
        seen = views.alpha[i, 0] > 0.5
        total, count = total + float(gap[seen].sum()), count + float(seen.sum())
    return total / max(count, 1.0)


def _posed(canonical: Gaussians, means: Tensor, colors: Tensor) -> Gaussians:
    posed = (canonical.colors + colors).clamp(0, 1)
    return replace(canonical, means=canonical.means + means, colors=posed)


def _loss(gaussians: Gaussians, view: View, config: RefineConfig) -> Tensor:
    drawn = render(gaussians, view.camera[0], background=gaussians.means.new_ones(3))
    picture = drawn.color.permute(2, 0, 1)
    color = (picture - view.image[0]).abs().mean()
    alpha = (drawn.alpha[..., 0] - view.alpha[0, 0]).abs().mean()
    return color + alpha + config.ssim * (1 - ssim(picture[None], view.image))


def _frozen(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(value.detach().clone() for value in vars(gaussians).values()))
