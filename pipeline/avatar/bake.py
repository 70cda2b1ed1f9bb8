"""Light avatars: fewer Gaussians, and linear shapes in place of the deformation network.

Letters: n Gaussians, m of them moving, s sampled codes, r shapes (rank).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log10

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.avatar.animate import orbit
from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import ConfigError
from pipeline.core.types import Camera, ExpressionCode, Gaussians
from pipeline.faces.layouts import (
    EXPRESSION,
    JAW,
    MAKEHUMAN,
    arkit_to_code,
    neutral_code,
    rot6d_from_matrix,
)
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked
from pipeline.render import render
from pipeline.synthetic.expressions import sample_expression
from pipeline.system.stage import Progress, silent

REFERENCE_DB = 25.0
"""What the exact avatar is taken to reach against the truth. A tolerance is the loss from there if
the error that is added has nothing to do with the error that is there."""
STILL_M, STILL_COLOR = 1e-4, 1 / 510
"""A Gaussian that no sampled code moves or recolours by more stays as it is."""
RANKS = (4, 8, 12, 16, 24, 32, 48, 64)
RIDGE = 1e-3


@dataclass(frozen=True)
class BakeConfig:
    """How an avatar is baked."""

    tolerance_db: float = 0.1
    codes: int = 256
    """Sampled expressions that the shapes are fitted to."""
    held_out: int = 24
    """Others, on which the error is measured."""
    size: int = 256
    """Pictures that are compared, pixels."""
    seed: int = 0


@dataclass(frozen=True)
class BakeReport:
    """What was lost."""

    rank: int
    moving: int
    gaussians: int
    error_mm: float
    """Root of the mean square over moving Gaussians and held-out codes."""
    error_color: float
    psnr: float
    """Of the pictures against the exact avatar's, dB, over held-out codes."""
    loss_db: float
    """See `REFERENCE_DB`."""


@dataclass(frozen=True)
class Kept:
    """A pruned avatar's place on the keep-ratio curve."""

    share: float
    gaussians: int
    psnr: float
    """Against the full avatar, dB."""
    loss_db: float


def sample_codes(layout: str, count: int, seed: int) -> Float[Tensor, "s 120"]:
    """Draw expressions as they occur: of the synthetic captures, or FLAME's own spread.

    FLAME's expression numbers have unit spread by construction; a third of it, and the jaw opened
    by up to 25 degrees, stay within faces.
    """
    rng = np.random.default_rng(seed)
    if layout == MAKEHUMAN:
        weights = np.stack([sample_expression(rng) for _ in range(count)]).astype(np.float32)
        return arkit_to_code(weights).values
    from scipy.spatial.transform import Rotation

    codes = neutral_code(layout).values.repeat(count, 1)
    codes[:, EXPRESSION] = torch.from_numpy(rng.normal(0, 1 / 3, (count, 100))).float()
    jaw = np.zeros((count, 3))
    jaw[:, 0] = np.radians(rng.uniform(0, 25, count)) * rng.integers(0, 2, count)
    codes[:, JAW] = rot6d_from_matrix(
        torch.from_numpy(Rotation.from_rotvec(jaw).as_matrix()).float()
    )
    return codes


def loss_db(psnr: float) -> float:
    """Give the loss that an error of a size would mean for a picture of `REFERENCE_DB`."""
    return 10 * log10(1 + 10 ** ((REFERENCE_DB - psnr) / 10))


@torch.no_grad()
def bake(
    avatar: Avatar, config: BakeConfig = BakeConfig(), progress: Progress = silent
) -> tuple[Avatar, BakeReport]:
    """Distil an avatar's deformation network into linear shapes over its Gaussians.

    Offsets of position and colour are taken under many codes; their principal components are the
    shapes. A linear map from the code to their weights is fitted by least squares; where it is
    not enough for the tolerance, a small network. The smallest rank within the tolerance is taken.

    Raises:
        ConfigError: If the avatar is baked already, or no rank is within the tolerance.
    """
    if isinstance(avatar.deformation, Baked):
        raise ConfigError("This avatar is baked already.", "Bake the exact one.")
    codes = sample_codes(avatar.layout, config.codes + config.held_out, config.seed)
    still = avatar.canonical
    offsets = torch.empty(len(codes), len(still), 6)
    for i, code in enumerate(codes):
        moved = avatar.animate(ExpressionCode(code, avatar.layout))
        offsets[i, :, :3] = moved.means - still.means
        offsets[i, :, 3:] = moved.colors - still.colors
        progress(i + 1, len(codes))
    far = offsets[..., :3].norm(dim=-1).amax(0) > STILL_M
    moving = far | (offsets[..., 3:].abs().amax((0, 2)) > STILL_COLOR)
    order = torch.cat([torch.nonzero(moving)[:, 0], torch.nonzero(~moving)[:, 0]])
    head = CanonicalHead(still[order], avatar.head.features[order][:, :0])
    m = int(moving.sum())
    offsets = offsets[:, order[:m]].flatten(1)
    fitted, test = offsets[: config.codes], offsets[config.codes :]
    mean = fitted.mean(0)
    centred = fitted - mean
    # The s x s matrix of products has the same components as the (6 m) x (6 m) one.
    values, left = torch.linalg.eigh(centred @ centred.T)
    strength, left = values.flip(0).clamp(min=1e-12).sqrt(), left.flip(1)
    held_out = codes[config.codes :]
    exact = _draw(avatar, held_out, config.size)
    found: tuple[Avatar, BakeReport] | None = None
    for rank in [r for r in RANKS if r < config.codes]:
        shapes = (left[:, :rank].T @ centred) / strength[:rank, None]
        weights = left[:, :rank] * strength[:rank]
        for hidden in (0, 64):
            mapping = Baked.fit(codes[: config.codes], weights, hidden, RIDGE)
            baked = Baked.of(mapping, shapes.reshape(rank, m, 6), mean.reshape(m, 6))
            light = Avatar(head, baked, avatar.layout, dict(avatar.made), avatar.precision)
            found = light, _report(light, baked, held_out, test, exact, config.size)
            if found[1].loss_db <= config.tolerance_db:
                return found
    assert found is not None
    raise ConfigError(
        f"No rank up to {found[1].rank} is within {config.tolerance_db:g} dB: the last loses "
        f"{found[1].loss_db:.2f} dB.",
        "Allow more with --tolerance, or use the exact avatar.",
    )


@torch.no_grad()
def contributions(avatar: Avatar, size: int = 256, codes: int = 6) -> Float[Tensor, "n"]:
    """Give how much of all pictures each Gaussian makes: its blending weights added up.

    Looked at from a full turn to both sides of 90 degrees, under several expressions.
    """
    total = torch.zeros(len(avatar.canonical))
    cameras = orbit(9, size, degrees=90.0)
    sampled = [neutral_code(avatar.layout).values, *sample_codes(avatar.layout, codes - 1, 1)]
    for code in sampled:
        gaussians = avatar.animate(ExpressionCode(code, avatar.layout))
        for i in range(8):
            total += _weights(gaussians, cameras[i])
    return total


def _weights(gaussians: Gaussians, camera: Camera) -> Float[Tensor, "n"]:
    # A picture's sum is linear in the colours, so its gradient is the blending weights.
    with torch.enable_grad():
        colors = torch.ones(len(gaussians), 1, requires_grad=True)
        drawn = render(replace(gaussians, colors=colors), camera, background=torch.zeros(1))
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
    full = _draw(avatar, tests, size)
    curve: list[Kept] = []
    best = avatar
    for done, share in enumerate(shares, start=1):
        keep = order[: max(int(share * len(order)), 1)].sort().values
        light = select(avatar, keep)
        psnr = _psnr(_draw(light, tests, size), full)
        curve.append(Kept(share, len(keep), psnr, loss_db(psnr)))
        if curve[-1].loss_db <= tolerance_db:
            best = light
        progress(done, len(shares))
    return best, curve


def select(avatar: Avatar, keep: Tensor) -> Avatar:
    """Give an avatar with only some of its Gaussians."""
    if isinstance(avatar.deformation, Baked):
        raise ConfigError("This avatar is baked already.", "Prune before baking.")
    head = CanonicalHead(avatar.head.gaussians[keep], avatar.head.features[keep])
    shown = None if avatar.shown is None else avatar.shown[keep]
    return replace(avatar, head=head, shown=shown)


def _report(
    light: Avatar,
    baked: Baked,
    codes: Tensor,
    truth: Float[Tensor, "s 6*m"],
    exact: list[Tensor],
    size: int,
) -> BakeReport:
    m = baked.mean.shape[0]
    gap = torch.stack([baked.offsets(code) for code in codes]) - truth.reshape(len(codes), m, 6)
    psnr = _psnr(_draw(light, codes, size), exact)
    return BakeReport(
        rank=len(baked.shapes),
        moving=m,
        gaussians=len(light.canonical),
        error_mm=float(gap[..., :3].square().sum(-1).mean().sqrt()) * 1e3,
        error_color=float(gap[..., 3:].square().mean().sqrt()),
        psnr=psnr,
        loss_db=loss_db(psnr),
    )


def _draw(avatar: Avatar, codes: Tensor, size: int) -> list[Tensor]:
    """Draw each code from another camera of an orbit."""
    cameras = orbit(len(codes), size)
    return [
        avatar.render(ExpressionCode(code, avatar.layout), cameras[i]).color.clamp(0, 1)
        for i, code in enumerate(codes)
    ]


def _psnr(drawn: list[Tensor], truth: list[Tensor]) -> float:
    error = torch.stack([(a - b).square().mean() for a, b in zip(drawn, truth)]).mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))
