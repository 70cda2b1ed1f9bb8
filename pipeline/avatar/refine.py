"""A few seconds of gradient steps on the pictures that an avatar was made of.

Letters: v pictures, n Gaussians, h w size.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool
from torch import Tensor

from pipeline.avatar.avatar import Avatar
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
    max_steps: int = 400
    means_lr: float = 4e-4
    """Metres a step; the largest share of what is gained comes from places."""
    scales_lr: float = 1e-2
    """Of the logarithm."""
    opacities_lr: float = 1e-2
    """Of the logit."""
    colors_lr: float = 1e-3
    ssim: float = 0.5
    """Weight of 1 - SSIM beside the L1 terms of colour and silhouette."""
    block: int = 16
    """Pixels along a side of the blocks that are held back to tell when to stop."""
    held_back: float = 0.1
    """Share of the blocks."""
    every: int = 10
    """Steps between looks at the held-back blocks."""
    patience: int = 60
    """Steps without an improvement there after which it ends."""


@dataclass(frozen=True)
class RefineReport:
    """How it went."""

    steps: int
    seconds: float
    before: float
    """Mean absolute error of the held-back blocks."""
    after: float


class _Shift:
    """The changes that are learnt: of places, sizes, opacities and colours."""

    def __init__(self, still: Gaussians, config: RefineConfig) -> None:
        self.still = still
        shapes = (still.means, still.scales, still.opacities, still.colors)
        self.values = [torch.zeros_like(x, requires_grad=True) for x in shapes]
        rates = (config.means_lr, config.scales_lr, config.opacities_lr, config.colors_lr)
        groups = [{"params": [v], "lr": lr} for v, lr in zip(self.values, rates)]
        self.adam = torch.optim.Adam(groups, betas=(0.9, 0.99))

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
    costs only drawing. The state with the smallest error on held-back blocks of the pictures is
    given back, which is the first one if nothing got better.

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
    back = _held_back(views, config)
    shift = _Shift(still, config)
    start = time.perf_counter()
    best, best_step, before = still, 0, 0.0
    least = float("inf")
    step = 0
    while True:
        if step % config.every == 0:
            now = _error(shift.gaussians(), offsets, views, back)
            if step == 0:
                before = now
            if now < least:
                least, best, best_step = now, _frozen(shift.gaussians()), step
            spent = time.perf_counter() - start
            progress(min(round(spent), round(config.seconds)), round(config.seconds))
            over = spent > config.seconds or step >= config.max_steps
            if over or step - best_step >= config.patience:
                break
        v = step % len(views)
        loss = _loss(_posed(shift.gaussians(), *offsets[v]), views[v : v + 1], ~back[v], config)
        shift.adam.zero_grad(set_to_none=True)
        loss.backward()
        shift.adam.step()
        step += 1
    refined = replace(avatar, refined_gaussians=best)
    return refined, RefineReport(best_step, time.perf_counter() - start, before, least)


def _posed(canonical: Gaussians, means: Tensor, colors: Tensor) -> Gaussians:
    posed = (canonical.colors + colors).clamp(0, 1)
    return replace(canonical, means=canonical.means + means, colors=posed)


def _loss(
    gaussians: Gaussians, view: View, known: Bool[Tensor, "h w"], config: RefineConfig
) -> Tensor:
    drawn = render(gaussians, view.camera[0], background=gaussians.means.new_ones(3))
    picture = drawn.color.permute(2, 0, 1)
    # Held-back blocks show the truth, so that no window of SSIM learns from them.
    picture = torch.where(known, picture, view.image[0])
    color = (picture - view.image[0]).abs().mean()
    alpha = ((drawn.alpha[..., 0] - view.alpha[0, 0]).abs() * known).mean()
    return color + alpha + config.ssim * (1 - ssim(picture[None], view.image))


@torch.no_grad()
def _error(
    canonical: Gaussians,
    offsets: list[tuple[Tensor, Tensor]],
    views: View,
    back: Bool[Tensor, "v h w"],
) -> float:
    total, count = 0.0, 0
    for i, offset in enumerate(offsets):
        posed = _posed(canonical, *offset)
        drawn = render(posed, views.camera[i], background=posed.means.new_ones(3))
        gap = (drawn.color.permute(2, 0, 1) - views.image[i]).abs().mean(0)[back[i]]
        total += float(gap.sum())
        count += gap.numel()
    return total / max(count, 1)


def _held_back(views: View, config: RefineConfig) -> Bool[Tensor, "v h w"]:
    """Choose blocks in which the head is seen."""
    h, w = views.image.shape[-2:]
    b = config.block
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(len(views), -(-h // b), -(-w // b), generator=generator)
    blocks = (chosen < config.held_back).repeat_interleave(b, 1).repeat_interleave(b, 2)
    return blocks[:, :h, :w].to(views.alpha.device) & (views.alpha[:, 0] > 0.5)


def _frozen(gaussians: Gaussians) -> Gaussians:
    return Gaussians(*(value.detach().clone() for value in vars(gaussians).values()))
