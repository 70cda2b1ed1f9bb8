"""gsplat without CUDA, to compare with: its published torch projection, blending in plain torch.

    fastgha bench render --peer tools/peer_gsplat_torch.py:render

gsplat's own torch blending asks its CUDA kernels for the pairs of Gaussians and pixels; here they
are listed and ordered in torch. Everything else, and the way back, is gsplat's and autograd's.
"""

# pyright: basic
import warnings

import torch
from torch import Tensor

from pipeline.core.types import Camera, Gaussians
from pipeline.render.types import MAX_ALPHA, MIN_ALPHA, MIN_COVER, MIN_TRANSMITTANCE, Rendering


def render(gaussians: Gaussians, camera: Camera, background: Tensor) -> Rendering:
    """Draw one picture, differentiably; a camera without leading dimensions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci
    covariance, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, True, False)
    radii, centers, depths, conics, _ = _fully_fused_projection(
        gaussians.means, covariance, camera.world_to_camera[None], camera.K[None],
        camera.width, camera.height,
    )  # fmt: skip
    radii, centers, depths, conics = radii[0], centers[0], depths[0], conics[0]
    i, pixel = _pairs(radii, centers.detach(), depths.detach(), camera)
    at = torch.stack([pixel % camera.width, pixel // camera.width], -1) + 0.5
    x, y = (at - centers[i]).unbind(-1)
    a, b, c = conics[i].unbind(-1)
    sigma = 0.5 * (a * x * x + c * y * y) + b * x * y
    alpha = (gaussians.opacities[i] * torch.exp(-sigma)).clamp(max=MAX_ALPHA)
    seen = (sigma >= 0) & (alpha >= MIN_ALPHA)
    i, pixel, alpha = i[seen], pixel[seen], alpha[seen]
    # Transmittance before each pair: a running sum of logarithms, less that at the pixel's first.
    passed = torch.log1p(-alpha.double())
    before = torch.cumsum(passed, 0) - passed
    first = torch.ones_like(pixel, dtype=torch.bool)
    first[1:] = pixel[1:] != pixel[:-1]
    starts = before[first].detach()[torch.cumsum(first, 0) - 1]
    T = torch.exp(before - starts)
    open_after = (T * (1 - alpha) > MIN_TRANSMITTANCE).detach()
    weight = torch.where(open_after, T * alpha, 0.0).to(alpha.dtype)
    size = camera.width * camera.height

    def gather(values: Tensor) -> Tensor:
        empty = values.new_zeros(size, values.shape[-1])
        return empty.index_add(0, pixel, weight[:, None] * values)

    color, depth = gather(gaussians.colors[i]), gather(depths[i, None])
    cover = gather(torch.ones_like(weight)[:, None])
    shape = (camera.height, camera.width, -1)
    return Rendering(
        (color + (1 - cover) * background).reshape(shape),
        cover.reshape(shape),
        (depth / cover.clamp(min=MIN_COVER)).reshape(shape),
    )


@torch.no_grad()
def _pairs(radii: Tensor, centers: Tensor, depths: Tensor, camera: Camera) -> tuple[Tensor, Tensor]:
    """List the Gaussians at each pixel, from near to far, pixel by pixel."""
    limit = torch.tensor([camera.width, camera.height])
    low = torch.floor(centers - radii).long().clamp(min=0).minimum(limit)
    high = torch.ceil(centers + radii).long().clamp(min=0).minimum(limit)
    wide, tall = (high - low).unbind(-1)
    count = torch.where((radii > 0).all(-1), wide * tall, 0)
    order = torch.argsort(depths, stable=True)
    i = order.repeat_interleave(count[order])
    begin = (torch.cumsum(count[order], 0) - count[order]).repeat_interleave(count[order])
    step = torch.arange(len(i)) - begin
    pixel = (low[i, 1] + step // wide[i]) * camera.width + low[i, 0] + step % wide[i]
    by_pixel = torch.argsort(pixel, stable=True)
    return i[by_pixel], pixel[by_pixel]
