"""What a renderer gives back, and the numbers every backend must agree on."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

Backend = str
"""A name of `pipeline.render.render.BACKENDS`, or "auto"."""

NEAR, FAR = 0.01, 1e10
"""Centres nearer or farther than this along z are not drawn, metres."""
BLUR = 0.3
"""Added to both variances of a projected Gaussian, square pixels."""
MAX_ALPHA = 0.999
MIN_ALPHA = 1.0 / 255.0
"""A Gaussian leaves out the pixels where it would cover less."""
MIN_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would let through no more than this."""
MIN_COVER = 1e-10
"""Least alpha that accumulated depth is divided by."""
MARGIN = 0.3
"""The Jacobian of a centre outside the picture is taken at most this share of half the picture
beyond its edge."""


@dataclass(frozen=True)
class Rendering:
    """Pictures of a set of Gaussians."""

    color: Float[Tensor, "*v h w c"]
    """Premultiplied, plus transmittance times the background; not clamped."""
    alpha: Float[Tensor, "*v h w 1"]
    """Coverage, in [0, 1]."""
    depth: Float[Tensor, "*v h w 1"]
    """Mean z of what covers the pixel, weighted by its share, metres; 0 where nothing does."""
