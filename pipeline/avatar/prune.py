"""Pruning: leave out the Gaussians that hardly any picture shows.

Letters: n Gaussians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.avatar.fidelity import draw_codes, loss_db, mean_psnr, sample_codes
from pipeline.core.errors import ConfigError
from pipeline.core.types import Camera, ExpressionCode, Gaussians
from pipeline.faces.layouts import (
    neutral_code,
)
from pipeline.model.baked import Baked
from pipeline.render import render
from pipeline.system.progress import Progress, silent


@dataclass(frozen=True)
class Kept:
    """A pruned avatar's place on the keep-ratio curve."""

    share: float
    gaussians: int
    psnr: float
    """Against the full avatar, dB."""
    loss_db: float


@torch.no_grad()
def contributions(avatar: Avatar, size: int = 256, codes: int = 6) -> Float[Tensor, "n"]:
    """Return how much of all pictures each Gaussian makes: its blending weights added up.

    Looked at from a full turn to both sides of 90 degrees, under several expressions.
    """
    total = avatar.canonical.means.new_zeros(len(avatar.canonical))
    cameras = orbit(9, size, degrees=90.0).to(avatar.device)
    sampled = [neutral_code(avatar.layout).values, *sample_codes(avatar.layout, codes - 1, 1)]
    for code in sampled:
        gaussians = avatar.animate(ExpressionCode(code, avatar.layout))
        for i in range(8):
            total += blending(gaussians, cameras[i])
    return total


def blending(gaussians: Gaussians, camera: Camera) -> Float[Tensor, "n"]:
    """Return how many pixels of a picture each Gaussian makes: its blending weights added up."""
    # A picture's sum is linear in the colours, so its gradient is the blending weights.
    with torch.enable_grad():
        colors = gaussians.means.new_ones(len(gaussians), 1).requires_grad_()
        black = gaussians.means.new_zeros(1)
        drawn = render(replace(gaussians, colors=colors), camera, background=black)
        (found,) = torch.autograd.grad(drawn.color.sum(), colors)
    return found[:, 0]


@torch.no_grad()
def prune(
    avatar: Avatar,
    *,
    tolerance_db: float = 0.05,
    shares: Sequence[float] = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2),
    size: int = 256,
    progress: Progress = silent,
) -> tuple[Avatar, list[Kept]]:
    """Leave out the Gaussians that make least of the pictures: hidden, transparent, doubled.

    Returns:
        The smallest avatar within the tolerance, and the whole curve.
    """
    weight = contributions(avatar, size)
    order = weight.argsort(descending=True)
    tests = sample_codes(avatar.layout, 6, 2)
    full = draw_codes(avatar, tests, size)
    curve: list[Kept] = []
    best = avatar
    for done, share in enumerate(shares, start=1):
        keep = order[: max(int(share * len(order)), 1)].sort().values
        light = select(avatar, keep)
        psnr = mean_psnr(draw_codes(light, tests, size), full)
        curve.append(Kept(share, len(keep), psnr, loss_db(psnr)))
        if curve[-1].loss_db <= tolerance_db:
            best = light
        progress(done, len(shares))
    return best, curve


def select(avatar: Avatar, keep: Tensor) -> Avatar:
    """Return an avatar with only some of its Gaussians."""
    if isinstance(avatar.deformation, Baked):
        raise ConfigError("This avatar is baked already.", "Prune before baking.")
    head = avatar.head[keep]
    refined_gaussians = None if avatar.refined_gaussians is None else avatar.refined_gaussians[keep]
    return replace(avatar, head=head, refined_gaussians=refined_gaussians)
