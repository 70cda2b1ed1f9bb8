"""Scenes that the render tests share, from ordinary to degenerate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, Gaussians
from pipeline.render import Rendering, render

Scene = tuple[Gaussians, Camera]


def cloud(n: int, channels: int = 3, seed: int = 0) -> Gaussians:
    draw = torch.Generator().manual_seed(seed)
    return Gaussians(
        torch.randn(n, 3, generator=draw) * 0.12,
        torch.randn(n, 4, generator=draw),
        0.005 * 16 ** torch.rand(n, 3, generator=draw),
        torch.rand(n, generator=draw),
        torch.rand(n, channels, generator=draw),
    )


def cameras(width: int, height: int, count: int = 2) -> Camera:
    centers = torch.tensor([[0.1, 0.2, 1.0], [0.5, -0.1, 0.8], [-0.4, 0.3, 0.9]])[:count]
    f = 1.8 * max(width, height)
    K = torch.tensor([[f, 0, width / 2 + 0.8], [0, 1.1 * f, height / 2 - 1.3], [0, 0, 1.0]])
    return Camera(look_at(centers, torch.zeros_like(centers)), K.repeat(count, 1, 1), width, height)


def behind_the_camera() -> Scene:
    gaussians = cloud(120)
    return replace(gaussians, means=gaussians.means + torch.tensor([0.0, 0, 0.9])), cameras(40, 30)


def at_the_near_plane() -> Scene:
    gaussians, camera = cloud(60), cameras(33, 21, 1)
    R, t = camera.world_to_camera[0, :3, :3], camera.world_to_camera[0, :3, 3]
    z = 0.0101 + torch.linspace(-0.002, 0.02, 60)
    inside = torch.stack([gaussians.means[:, 0] * 0.02, gaussians.means[:, 1] * 0.02, z], -1)
    scales = gaussians.scales * 0.02
    return replace(gaussians, means=(inside - t) @ R, scales=scales), camera


def tiny() -> Scene:
    gaussians = cloud(400)
    return replace(gaussians, scales=gaussians.scales * 1e-4), cameras(48, 48)


def screen_wide() -> Scene:
    gaussians = cloud(40)
    return replace(gaussians, scales=gaussians.scales * 30, opacities=gaussians.opacities * 0.3), (
        cameras(70, 50)
    )


def transparent() -> Scene:
    gaussians = cloud(200)
    opacities = gaussians.opacities.clone()
    opacities[::2] = 0.0
    opacities[1::4] = 0.0039
    return replace(gaussians, opacities=opacities), cameras(40, 40)


def opaque() -> Scene:
    gaussians = cloud(200)
    return replace(gaussians, opacities=torch.ones(200)), cameras(40, 40)


def thousands_in_one_pixel() -> Scene:
    # Not at one depth: 32 bits must tell which is nearer.
    gaussians = cloud(3000)
    means = gaussians.means * torch.tensor([1e-3, 1e-3, 1.0])
    return replace(gaussians, means=means, opacities=gaussians.opacities * 0.05), cameras(9, 7, 1)


def needles() -> Scene:
    gaussians = cloud(150)
    thin = torch.tensor([4.0, 0.01, 0.01])
    return replace(gaussians, scales=gaussians.scales * thin), cameras(61, 45)


def flat() -> Scene:
    gaussians = cloud(150)
    return replace(gaussians, scales=gaussians.scales * torch.tensor([1.0, 1.0, 0.0])), (
        cameras(40, 40)
    )


def beside_the_picture() -> Scene:
    gaussians = cloud(150)
    wide = torch.tensor([5.0, 2.0, 1.0])
    return replace(gaussians, means=gaussians.means * wide, scales=gaussians.scales * 3), (
        cameras(32, 32)
    )


def one_pixel() -> Scene:
    return cloud(80), cameras(1, 1)


def narrow() -> Scene:
    return cloud(200), cameras(130, 3)


def ordinary() -> Scene:
    return cloud(300), cameras(53, 37, 3)


SCENES: list[Callable[[], Scene]] = [
    ordinary, behind_the_camera, at_the_near_plane, tiny, screen_wide, transparent, opaque,
    thousands_in_one_pixel, needles, flat, beside_the_picture, one_pixel, narrow,
]  # fmt: skip


def draw(
    scene: Scene,
    backend: str,
    dtype: torch.dtype = torch.float32,
    antialiased: bool = False,
    seed: int = 1,
) -> tuple[Rendering, dict[str, Tensor]]:
    """Draw a scene on some background; return the gradients of a random weighting of everything."""
    gaussians, camera = scene
    names = ("means", "quats", "scales", "opacities", "colors")
    leaves = {k: getattr(gaussians, k).to(dtype).requires_grad_() for k in names}
    E = camera.world_to_camera.to(dtype).requires_grad_()
    background = torch.linspace(0.2, 0.9, gaussians.colors.shape[1]).to(dtype).requires_grad_()
    drawn = render(
        Gaussians(**leaves),
        Camera(E, camera.K.to(dtype), camera.width, camera.height),
        background=background,
        backend=backend,
        antialiased=antialiased,
    )
    generator = torch.Generator().manual_seed(seed)
    loss = sum(
        (part * torch.randn(part.shape, generator=generator).to(dtype)).sum()
        for part in (drawn.color, drawn.alpha, drawn.depth)
    )
    leaves |= {"world_to_camera": E, "background": background}
    grads = torch.autograd.grad(loss, list(leaves.values()))
    return drawn, dict(zip(leaves, grads))
