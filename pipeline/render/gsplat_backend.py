"""The CUDA backend: gsplat's rasterization, with keyword arguments of every version since 1.5.3."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import BackendError
from pipeline.core.types import Camera, Gaussians
from pipeline.render.types import BLUR, FAR, NEAR, Rendering


def render_gsplat(
    gaussians: Gaussians,
    camera: Camera,
    background: Float[Tensor, "c"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Draw Gaussians on a CUDA device with gsplat, differentiably.

    Raises:
        BackendError: If the tensors are not on a CUDA device or gsplat is not installed.
    """
    _require_cuda(gaussians)
    alone = Camera(camera.world_to_camera[None], camera.K[None], camera.width, camera.height)
    drawn = rasterize([gaussians], alone, background, antialiased=antialiased)
    return Rendering(drawn.color[0], drawn.alpha[0], drawn.depth[0])


def render_sets_gsplat(
    sets: Sequence[Gaussians],
    camera: Camera,
    background: Float[Tensor, "c"],
    *,
    antialiased: bool = False,
) -> Rendering:
    """Draw sets of equally many Gaussians in one call.

    Args:
        camera: [s] or [s, v]: one camera, or one row of cameras, for each set.

    Raises:
        BackendError: As `render_gsplat`.
    """
    _require_cuda(sets[0])
    return rasterize(sets, camera, background, antialiased=antialiased)


def rasterize(
    sets: Sequence[Gaussians], camera: Camera, background: Tensor, *, antialiased: bool
) -> Rendering:
    """Call gsplat and give its answer in our terms, on whatever device it accepts.

    Args:
        sets: Of one size.
        camera: [s] or [s, v]: one camera, or one row of cameras, for each set.
    """
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise BackendError(
            f"gsplat cannot be imported ({error}).", "Run: pip install 'fastgha[cuda]'"
        ) from error
    lead = camera.K.shape[:-2]
    rows = (len(sets), lead[1] if len(lead) == 2 else 1)
    drawn, alpha, _ = rasterization(
        means=torch.stack([one.means for one in sets]),
        quats=torch.stack([one.quats for one in sets]),
        scales=torch.stack([one.scales for one in sets]),
        opacities=torch.stack([one.opacities for one in sets]),
        colors=torch.stack([one.colors for one in sets]),
        viewmats=camera.world_to_camera.reshape(*rows, 4, 4),
        Ks=camera.K.reshape(*rows, 3, 3),
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        far_plane=FAR,
        eps2d=BLUR,
        packed=False,
        backgrounds=background.expand(*rows, -1),
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    parts = (drawn[..., :-1], alpha, drawn[..., -1:])
    return Rendering(*(part.reshape(*lead, *part.shape[2:]) for part in parts))


def _require_cuda(gaussians: Gaussians) -> None:
    """Refuse tensors elsewhere: gsplat itself would fail late, or start a compiler."""
    if not gaussians.means.is_cuda:
        raise BackendError(
            f"The gsplat backend draws CUDA tensors; these are on {gaussians.means.device}.",
            "Move them with .to('cuda'), or choose --backend cpu.",
        )
