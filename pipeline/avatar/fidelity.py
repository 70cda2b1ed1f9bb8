"""How close a light avatar stays to the exact one, over sampled expressions and views."""

from __future__ import annotations

from math import log10

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import (
    EXPRESSION,
    JAW,
    MAKEHUMAN,
    arkit_to_code,
    neutral_code,
    rot6d_from_matrix,
)
from pipeline.synthetic.expressions import sample_expression

REFERENCE_DB = 25.0
"""What the exact avatar is taken to reach against the truth. A tolerance is the loss from there if
the error that is added has nothing to do with the error that is there."""


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
    """Return the loss that an error of a size would mean for a picture of `REFERENCE_DB`."""
    return 10 * log10(1 + 10 ** ((REFERENCE_DB - psnr) / 10))


def draw_codes(avatar: Avatar, codes: Tensor, size: int) -> list[Tensor]:
    """Draw each code from another camera of an orbit."""
    cameras = orbit(len(codes), size)
    return [
        avatar.render(ExpressionCode(code, avatar.layout), cameras[i]).color.clamp(0, 1)
        for i, code in enumerate(codes)
    ]


def mean_psnr(drawn: list[Tensor], truth: list[Tensor]) -> float:
    """Return the PSNR of the mean squared error over several pictures, dB."""
    error = torch.stack([(a - b).square().mean() for a, b in zip(drawn, truth)]).mean()
    return float(-10 * torch.log10(error.clamp(min=1e-10)))
