"""A fixed scene and its picture, to find a backend that draws garbage."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, Gaussians
from pipeline.render.render import device_of, render
from pipeline.render.types import Backend, Rendering
from pipeline.system.assets import ASSETS

GOLDEN = ASSETS / "golden_render.npz"

SIZE = (56, 40)
"""Width and height; not multiples of a tile."""


def golden_scene() -> tuple[Gaussians, Camera, torch.Tensor]:
    """Return 150 Gaussians from tiny to as large as the picture, two cameras and a background.

    Everything comes from sines, which are the same everywhere, unlike random numbers.
    """
    n = 150
    i = torch.arange(n, dtype=torch.float64)

    def wave(step: float, columns: int) -> torch.Tensor:
        k = torch.arange(columns, dtype=torch.float64)
        return torch.sin(i[:, None] * step + 1.7 * k + 0.3 * k * i[:, None])

    scales = 0.02 * torch.exp(1.2 * wave(0.37, 3))
    scales[:3] *= 8
    gaussians = Gaussians(
        0.12 * wave(1.13, 3),
        wave(0.71, 4) + 0.01,
        scales,
        0.5 + 0.5 * wave(0.53, 1)[:, 0],
        0.5 + 0.5 * wave(0.91, 3),
    )
    width, height = SIZE
    centers = torch.tensor([[0.1, 0.05, 0.7], [-0.45, 0.1, 0.5]], dtype=torch.float64)
    K = torch.tensor([[70.0, 0, 27.5], [0, 68.0, 20.3], [0, 0, 1]], dtype=torch.float64)
    camera = Camera(look_at(centers, torch.zeros_like(centers)), K.expand(2, 3, 3), width, height)
    return gaussians, camera, torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)


def golden_picture() -> Rendering:
    """Read the picture that every backend should draw of `golden_scene`, within 1e-3."""
    with np.load(GOLDEN) as file:
        return Rendering(
            *(torch.from_numpy(file[k].astype(np.float32)) for k in ("color", "alpha", "depth"))
        )


def check_backend(name: Backend) -> float:
    """Draw the golden scene and give the largest difference in colour, alpha or depth.

    Raises:
        BackendError: If the backend cannot run here.
    """
    device = device_of(name)
    gaussians, camera, background = golden_scene()
    drawn = render(
        gaussians.to(torch.float32).to(device),
        camera.to(torch.float32).to(device),
        background=background.to(device, torch.float32),
        backend=name,
    )
    wanted = golden_picture()
    pairs = ((drawn.color, wanted.color), (drawn.alpha, wanted.alpha), (drawn.depth, wanted.depth))
    return max(float((got.cpu() - want).abs().max()) for got, want in pairs)
