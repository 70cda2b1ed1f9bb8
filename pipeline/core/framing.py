"""What a picture of a head shows: said once, for synthetic cameras and for crops of real pictures.

Lengths in metres, head frame.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.types import Camera

HEAD_CROP_M = 0.40
"""Side of the square around a head, at the head's distance."""
CROP_CENTER = (0.0, 0.022, 0.0)
"""The point in its middle: with it, head, hair and collar fill the picture."""
NECK = (0.03, 0.07)
"""So far below the chin everything stays, and from here on nothing: a head ends at its neck, for
what people wear on their shoulders is not theirs to move."""


def above_neck(
    camera: Camera, chin: float, neck: tuple[float, float] = NECK
) -> Float[Tensor, "*batch h w"]:
    """Return the share of each pixel that is kept of a head that ends at its neck.

    A pixel looks at the height where its ray meets the upright plane through the head's axis that
    faces the camera.

    Args:
        camera: Of the picture.
        chin: Its height on the neutral head.
        neck: How far below the chin a head begins to end, and has ended.
    """
    high, low = (chin - below for below in neck)
    center = camera.centers
    normal = center * torch.tensor([1.0, 0.0, 1.0]).to(center)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    # Directions of rays, of any length, are linear in the pixel: only two parts of them count.
    direction = camera.world_to_camera[..., :3, :3].mT @ torch.linalg.inv(camera.K)
    x = torch.arange(camera.width).to(center) + 0.5
    y = torch.arange(camera.height).to(center)[:, None] + 0.5
    rise = _linear(direction[..., 1, :], x, y)
    away = _linear((normal[..., None, :] @ direction)[..., 0, :], x, y).clamp(max=-1e-3)
    at = (center * normal).sum(-1)[..., None, None]
    heights = center[..., 1, None, None] - rise * at / away
    ramp = ((heights - low) / (high - low)).clamp(0, 1)
    return ramp * ramp * (3 - 2 * ramp)


def _linear(row: Float[Tensor, "*batch 3"], x: Tensor, y: Tensor) -> Tensor:
    a, b, c = (part[..., None, None] for part in row.unbind(-1))
    return a * x + b * y + c
