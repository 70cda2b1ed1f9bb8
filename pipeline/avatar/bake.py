"""Baking: linear shapes in place of the deformation network.

Letters: n Gaussians, m of them moving, s sampled codes, r shapes (rank).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fidelity import draw_codes, loss_db, mean_psnr, sample_codes
from pipeline.core.errors import ConfigError
from pipeline.core.types import ExpressionCode
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked
from pipeline.system.progress import Progress, silent

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
    still = avatar.canonical
    wanted = sample_codes(avatar.layout, config.codes + config.held_out, config.seed)
    codes = wanted.to(avatar.device)
    offsets = still.means.new_empty(len(codes), len(still), 6)
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
    exact = draw_codes(avatar, held_out, config.size)
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
    psnr = mean_psnr(draw_codes(light, codes, size), exact)
    return BakeReport(
        rank=len(baked.shapes),
        moving=m,
        gaussians=len(light.canonical),
        error_mm=float(gap[..., :3].square().sum(-1).mean().sqrt()) * 1e3,
        error_color=float(gap[..., 3:].square().mean().sqrt()),
        psnr=psnr,
        loss_db=loss_db(psnr),
    )
