"""The CUDA backend: gsplat's rasterization, with keyword arguments of every version since 1.5.3."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from pipeline.errors import BackendError
from pipeline.render.types import BLUR, FAR, NEAR, Rendering
from pipeline.types import Camera, Gaussians


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
    # Importing gsplat works without CUDA, and its functions then fail late or start a compiler.
    if not gaussians.means.is_cuda:
        raise BackendError(
            f"The gsplat backend draws CUDA tensors; these are on {gaussians.means.device}.",
            "Move them with .to('cuda'), or choose --backend cpu.",
        )
    return rasterize(gaussians, camera, background, antialiased=antialiased)


def rasterize(
    gaussians: Gaussians, camera: Camera, background: Tensor, *, antialiased: bool
) -> Rendering:
    """Call gsplat and give its answer in our terms, on whatever device it accepts."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise BackendError(
            f"gsplat cannot be imported ({error}).", "Run: pip install 'fastgha[cuda]'"
        ) from error
    single = camera.K.ndim == 2
    E = camera.world_to_camera[None] if single else camera.world_to_camera
    K = camera.K[None] if single else camera.K
    drawn, alpha, _ = rasterization(
        means=gaussians.means,
        quats=gaussians.quats,
        scales=gaussians.scales,
        opacities=gaussians.opacities,
        colors=gaussians.colors,
        viewmats=E,
        Ks=K,
        width=camera.width,
        height=camera.height,
        near_plane=NEAR,
        far_plane=FAR,
        eps2d=BLUR,
        packed=False,
        backgrounds=background.expand(len(E), -1),
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    color, depth = drawn[..., :-1], drawn[..., -1:]
    if single:
        return Rendering(color[0], alpha[0], depth[0])
    return Rendering(color, alpha, depth)
