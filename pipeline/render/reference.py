"""The plain backend: every Gaussian at every pixel, in torch, obviously right.

It needs memory for n x h x w floats and is the oracle of the others; use it for small pictures.

Letters: n Gaussians, p pixels, c channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.types import Camera, Gaussians
from pipeline.render.types import (
    BLUR,
    FAR,
    MARGIN,
    MAX_ALPHA,
    MIN_ALPHA,
    MIN_COVER,
    MIN_TRANSMITTANCE,
    NEAR,
    Rendering,
)


def render_reference(
    gaussians: Gaussians,
    camera: Camera,
    background: Float[Tensor, "c"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Draw Gaussians on any device and in any floating type, differentiably.

    Args:
        camera: One leading dimension or none.

    Source:
        Kerbl et al., 3D Gaussian Splatting, 2023, as gsplat's classic rasterization does it.
    """
    single = camera.K.ndim == 2
    E = camera.world_to_camera[None] if single else camera.world_to_camera
    K = camera.K[None] if single else camera.K
    pictures = [
        _picture(gaussians, e, k, camera.width, camera.height, background, antialiased)
        for e, k in zip(E, K, strict=True)
    ]
    if single:
        return Rendering(*pictures[0])
    size = (0, camera.height, camera.width)
    if not pictures:
        empty = [background.new_zeros(*size, c) for c in (len(background), 1, 1)]
        return Rendering(*empty)
    return Rendering(*(torch.stack(parts) for parts in zip(*pictures, strict=True)))


def rotation_matrices(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3 3"]:
    """Return the rotations of quaternions wxyz of any length but 0."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def project_gaussians(
    gaussians: Gaussians, E: Float[Tensor, "4 4"], K: Float[Tensor, "3 3"], width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Project centres and covariances, these without the blur.

    Returns:
        Centres [n, 2] in pixels, depths [n] in metres, covariances [n, 2, 2] in square pixels.
    """
    axes = rotation_matrices(gaussians.quats) * gaussians.scales[:, None, :]
    covariance = axes @ axes.mT
    R = E[:3, :3]
    inside = gaussians.means @ R.mT + E[:3, 3]
    z = inside[:, 2]
    focal, middle = K[[0, 1], [0, 1]], K[:2, 2]
    size = torch.tensor([width, height]).to(K)
    slope = inside[:, :2] / z[:, None]
    margin = MARGIN * 0.5 * size / focal
    slope_kept = slope.clamp(-(middle / focal + margin), (size - middle) / focal + margin)
    J = torch.cat(
        [torch.diag_embed(focal / z[:, None]), -(focal * slope_kept / z[:, None])[..., None]], -1
    )
    M = J @ R
    return slope * focal + middle, z, M @ covariance @ M.mT


def _picture(
    gaussians: Gaussians,
    E: Tensor,
    K: Tensor,
    width: int,
    height: int,
    background: Tensor,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.no_grad():
        z = gaussians.means @ E[2, :3] + E[2, 3]
        kept = torch.nonzero((z >= NEAR) & (z <= FAR))[:, 0]
        kept = kept[torch.sort(z[kept], stable=True).indices]
    gaussians = gaussians[kept]
    centers, z, covariance = project_gaussians(gaussians, E, K, width, height)
    blurred = covariance + BLUR * torch.eye(2).to(covariance)
    opacities = gaussians.opacities
    if antialiased:
        shrink = torch.linalg.det(covariance) / torch.linalg.det(blurred)
        opacities = opacities * shrink.clamp(min=0).sqrt()
    y, x = torch.meshgrid(
        torch.arange(height).to(z) + 0.5, torch.arange(width).to(z) + 0.5, indexing="ij"
    )
    offset = torch.stack([x, y], -1).reshape(-1, 1, 2) - centers
    # the adjugate over the determinant: torch.linalg.inv has no gradient for empty input
    a, b, c = blurred[:, 0, 0], blurred[:, 0, 1], blurred[:, 1, 1]
    dx, dy = offset.unbind(-1)
    sigma = 0.5 * (c * dx * dx - 2 * b * dx * dy + a * dy * dy) / (a * c - b * b)
    alpha = (opacities * torch.exp(-sigma)).clamp(max=MAX_ALPHA)
    alpha = torch.where((sigma >= 0) & (alpha >= MIN_ALPHA), alpha, torch.zeros_like(alpha))
    # transmittance before and after each Gaussian, were there no early stop
    after = torch.cumprod(1 - alpha, -1)
    before = torch.cat([torch.ones_like(after[:, :1]), after], -1)[:, :-1]
    alpha = torch.where(after > MIN_TRANSMITTANCE, alpha, torch.zeros_like(alpha))
    weights = alpha * before
    through = torch.prod(1 - alpha, -1, keepdim=True)
    color = weights @ gaussians.colors + through * background
    cover = 1 - through
    depth = (weights @ z[:, None]) / cover.clamp(min=MIN_COVER)
    return (
        color.reshape(height, width, -1),
        cover.reshape(height, width, 1),
        depth.reshape(height, width, 1),
    )
