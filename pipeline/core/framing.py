"""What a picture of a head shows: said once, for synthetic cameras and for crops of real pictures.

Lengths in metres, head frame.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.geometry import pixel_directions
from pipeline.core.types import Camera

HEAD_CROP_M = 0.40
"""Side of the square around a head, at the head's distance."""
CROP_CENTER = (0.0, 0.022, 0.0)
"""The point in its middle: with it, head, hair and collar fill the picture."""
NECK = (0.03, 0.07)
"""So far below the chin everything stays, and from here on nothing: a head ends at its neck, for
what people wear on their shoulders is not theirs to move."""
SHOULDERS = (0.06, 0.075)
"""Below a real person's chin, what is so far to the side stays, and from here on nothing: shoulders
stay where they are when a head turns."""
SHOULDERS_BELOW = (-0.01, 0.01)
"""So far below the chin that begins, and holds."""


def above_neck(
    camera: Camera,
    depth: Float[Tensor, "*batch h w"],
    chin: float,
    neck: tuple[float, float] = NECK,
) -> Float[Tensor, "*batch h w"]:
    """Return the share of each pixel that is kept of a head that ends at its neck.

    It follows the height of the point that the pixel sees, so that all pictures of a head end in
    the same place on it, wherever they are taken from.

    Args:
        camera: Of the picture.
        depth: Of what the pixels see, along the camera's z axis, metres.
        chin: Its height on the neutral head.
        neck: How far below the chin a head begins to end, and has ended.
    """
    high, low = (chin - below for below in neck)
    # Directions of rays, to a depth of one metre, are linear in the pixel: only their y counts.
    rise = (camera.world_to_camera[..., :3, :3].mT @ torch.linalg.inv(camera.K))[..., 1, :]
    across, down, ahead = (part[..., None, None] for part in rise.unbind(-1))
    x = torch.arange(camera.width).to(depth) + 0.5
    y = torch.arange(camera.height).to(depth)[:, None] + 0.5
    heights = camera.centers[..., 1, None, None] + depth * (across * x + down * y + ahead)
    return _ramp(heights, low, high)


def beside_shoulders(
    camera: Camera,
    depth: Float[Tensor, "h w"],
    chin: float,
    shoulders: tuple[float, float] = SHOULDERS,
) -> Float[Tensor, "h w"]:
    """Return the share of each pixel that is kept of a head whose shoulders are left out.

    Args:
        camera: Of one picture.
        depth: Of what the pixels see, along the camera's z axis, metres.
        chin: Its height on the neutral head.
        shoulders: How far to the side a head begins to end below its chin, and has ended.
    """
    R = camera.world_to_camera[:3, :3]
    arms = torch.einsum("ji,jhw->ihw", R, depth * pixel_directions(camera))
    side, height, _ = arms + camera.centers[:, None, None]
    return 1 - _ramp(side.abs(), *shoulders) * _ramp(chin - height, *SHOULDERS_BELOW)


def _ramp(x: Tensor, low: float, high: float) -> Tensor:
    """Return 0 below `low`, 1 above `high`, and what is smooth between them."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)
