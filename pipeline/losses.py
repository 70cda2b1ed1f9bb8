"""The training losses. Each is a function outside the model.

Letters: v views, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Perceptual = Callable[[Tensor, Tensor], Tensor]
"""Distance of two pictures [v, 3, h, w], sRGB in [0, 1], as one number."""

DEPTH_UNIT_M = 0.1
"""The depth loss is in units of 0.1 m, about a head's radius; the paper does not state its own."""
MOTION_UNIT_M, MOTION_REACH_M, MOTION_SAMPLES = 0.01, 0.03, 4096
WINDOW, SIGMA = 11, 1.5


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms. The defaults are the paper's."""

    rgb: float = 1.0
    ssim: float = 1.0
    perceptual: float = 0.5
    perceptual_of: Literal["color", "brightness"] = "color"
    """brightness: the perceptual net sees grey pictures, and the other terms alone say what colour
    eyes and mouths have: MobileNetV2 wants them violet."""
    silhouette: float = 1.0
    depth: float = 0.5
    motion: float = 0.0
    """Of `motion`, which the paper does not have: for captures whose mesh is known. A guided model
    moves with the mesh anyway, and goes without."""


@dataclass(frozen=True)
class Prediction:
    """What was drawn, or what should have been."""

    image: Float[Tensor, "v 3 h w"]
    alpha: Float[Tensor, "v 1 h w"]
    depth: Float[Tensor, "v 1 h w"]
    """Metres; in the truth 0 where unknown."""


def losses(
    drawn: Prediction, truth: Prediction, config: LossConfig, perceptual: Perceptual | None
) -> dict[str, Tensor]:
    """Return the weighted terms by name; their sum is the loss.

    Without a perceptual net, or with weight 0, that term is absent.

    Source:
        FastGHA section 4.1: L1 colour + 1.0 (1 - SSIM) + 0.5 perceptual + 1.0 L1 silhouette
        + 0.5 L1 depth where it is known.
    """
    known = truth.depth > 0
    error = torch.where(known, (drawn.depth - truth.depth).abs(), 0.0)
    terms = {
        "rgb": config.rgb * (drawn.image - truth.image).abs().mean(),
        "ssim": config.ssim * (1.0 - ssim(drawn.image, truth.image)),
        "silhouette": config.silhouette * (drawn.alpha - truth.alpha).abs().mean(),
        "depth": config.depth * error.sum() / known.sum().clamp(min=1) / DEPTH_UNIT_M,
    }
    if perceptual is not None and config.perceptual > 0:
        pictures = drawn.image, truth.image
        if config.perceptual_of == "brightness":
            pictures = tuple(_brightness(picture) for picture in pictures)
        terms["perceptual"] = config.perceptual * perceptual(*pictures)
    return terms


def _brightness(image: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
    """Return a picture without its colours: luma of Rec. 601."""
    share = torch.tensor([0.299, 0.587, 0.114]).to(image)[:, None, None]
    return (share * image).sum(1, keepdim=True).expand_as(image)


def motion(
    offsets: Float[Tensor, "n 3"],
    means: Float[Tensor, "n 3"],
    view_of: Int[Tensor, "n"],
    input_meshes: Float[Tensor, "v m 3"],
    target_mesh: Float[Tensor, "m 3"],
) -> Float[Tensor, ""]:
    """Compare how far the deformation moves the Gaussians with how far the mesh moved.

    A Gaussian goes with the mesh's nearest vertex in the picture that it came from; those
    farther than 3 cm from any are left out. Some thousand of the Gaussians are looked at.

    Args:
        offsets: What the deformation adds to the means, metres.
        means: Canonical means, head frame, metres.
        view_of: Which input each Gaussian came from.
        input_meshes: Vertices at the time of each input.
        target_mesh: The same vertices at the time of the targets.

    Returns:
        Smooth L1 in units of 1 cm (square below, linear above).
    """
    from scipy.spatial import KDTree

    some = slice(None, None, -(-len(means) // MOTION_SAMPLES) or 1)
    offsets, places, views = offsets[some], means[some].detach(), view_of[some]
    if offsets.device.type != "cpu":
        return _motion_there(offsets, places, views, input_meshes, target_mesh)
    if not torch.isfinite(places).all():
        return places.sum()  # not finite either: the training loop names the term and the step
    truth = torch.zeros_like(offsets)
    known = torch.zeros_like(views, dtype=torch.bool)
    for v, mesh in enumerate(input_meshes):
        here = views == v
        distance, index = KDTree(mesh.cpu().numpy()).query(places[here].cpu().numpy())
        nearest = torch.from_numpy(index).to(views.device)
        truth[here] = target_mesh[nearest] - mesh[nearest]
        known[here] = torch.from_numpy(distance < MOTION_REACH_M).to(views.device)
    if not known.any():
        return offsets.sum() * 0.0
    error = torch.nn.functional.smooth_l1_loss(
        offsets[known] / MOTION_UNIT_M, truth[known] / MOTION_UNIT_M, reduction="sum"
    )
    return error / known.sum()


def _motion_there(
    offsets: Float[Tensor, "n 3"],
    places: Float[Tensor, "n 3"],
    views: Int[Tensor, "n"],
    input_meshes: Float[Tensor, "v m 3"],
    target_mesh: Float[Tensor, "m 3"],
) -> Float[Tensor, ""]:
    """Return the same on another device, without waiting for it: all distances at once."""
    found = [torch.cdist(places, mesh).min(1) for mesh in input_meshes]
    moved = [(target_mesh - mesh)[near.indices] for mesh, near in zip(input_meshes, found)]
    truth = torch.stack(moved).gather(0, views[None, :, None].expand(1, -1, 3))[0]
    distance = torch.stack([near.values for near in found]).gather(0, views[None])[0]
    known = (distance < MOTION_REACH_M).to(offsets)
    error = torch.nn.functional.smooth_l1_loss(
        offsets / MOTION_UNIT_M, truth / MOTION_UNIT_M, reduction="none"
    )
    return (error * known[:, None]).sum() / known.sum().clamp(min=1)


def ssim(a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]) -> Float[Tensor, ""]:
    """Return the mean structural similarity over whole 11 x 11 Gaussian windows (sigma 1.5).

    The windows' means are two products with a banded matrix, one along each axis: on a CPU
    this is several times faster than a convolution with one group a channel.

    Source:
        Wang et al., Image quality assessment, 2004, with its constants for a range of 1.
    """
    across = _band(a.shape[-1]).to(a).mT
    down = _band(a.shape[-2]).to(a)
    mean_a, mean_b, aa, bb, ab = down @ (torch.stack([a, b, a * a, b * b, a * b]) @ across)
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    # A GPU may multiply with 10 bits (TF32), and a variance below zero would divide by nothing.
    variances = (aa - mean_a**2).clamp(min=0) + (bb - mean_b**2).clamp(min=0)
    return (luminance * (2 * (ab - mean_a * mean_b) + c2) / (variances + c2)).mean()


@lru_cache(maxsize=16)
def _band(size: int) -> Float[Tensor, "size-10 size"]:
    """Return the matrix whose row i is the window that starts at pixel i."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SIGMA**2))
    rows = max(size - WINDOW + 1, 0)
    band = torch.zeros(rows, size, dtype=torch.float64)
    for i in range(rows):
        band[i, i : i + WINDOW] = window / window.sum()
    return band.float()
