"""Draw the cameras of a synthetic capture: a dome in front of a head that moves a little.

Letters: t timesteps, v views.
"""

import math

import torch
from jaxtyping import Float
from numpy.random import Generator
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera

YAW, PITCH = 65.0, 25.0
"""Reach of the dome to each side, if nothing else is said, and up and down, degrees."""
SPAN = (0.345, 0.405)
"""Metres across the picture at the head."""
DISTANCE = (0.8, 1.3)


def sample_cameras(
    rng: Generator, timesteps: int, views: int, size: int, reach: float = YAW
) -> Camera:
    """Draw `views` cameras around a head, and how they stand to it at each timestep.

    The first view is nearly frontal; the others are far from each other. The rig stands still
    while the head turns and shifts, so all views of a timestep move together in the head frame.

    Args:
        rng: Source of what is drawn.
        timesteps: How many.
        views: How many.
        size: Of the pictures, pixels.
        reach: Degrees of yaw to each side; 180 is all around.

    Returns:
        Cameras with leading dimensions [t, v], square pictures of `size` pixels.
    """
    yaw, pitch = directions(rng, views, reach).unbind(-1)
    distance = _uniform(rng, DISTANCE, views)
    toward = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=-1)
    target = torch.tensor(CROP_CENTER, dtype=torch.float64) + _normal(rng, 0.006, views, 3)
    rig = look_at(
        target + toward * distance[:, None], target, roll=_normal(rng, math.radians(3), views)
    )
    K = torch.zeros(views, 3, 3, dtype=torch.float64)
    K[:, 0, 0] = K[:, 1, 1] = size * distance / _uniform(rng, SPAN, views)
    K[:, :2, 2] = size / 2 + _normal(rng, 0.008 * size, views, 2)
    K[:, 2, 2] = 1.0

    head = torch.eye(4, dtype=torch.float64).repeat(timesteps, 1, 1)
    angles = rng.normal(0, [3.0, 5.0, 2.0], (timesteps, 3))
    head[:, :3, :3] = torch.from_numpy(Rotation.from_euler("xyz", angles, degrees=True).as_matrix())
    head[:, :3, 3] = _normal(rng, 0.006, timesteps, 3)
    world_to_camera = rig[None] @ head[:, None]
    return Camera(
        world_to_camera.float(), K.float().expand(timesteps, views, 3, 3).contiguous(), size, size
    )


def directions(rng: Generator, views: int, yaw: float = YAW) -> Float[Tensor, "v 2"]:
    """Draw (yaw, pitch) in radians, far from each other, the first nearly frontal."""
    reach = torch.tensor([yaw, PITCH], dtype=torch.float64)
    chosen = [torch.from_numpy(rng.normal(0, [6.0, 4.0])).clamp(-10, 10)]
    # Yaw and pitch count by their reach, or four views would all lie on the equator.
    weight = torch.tensor([1.0, 1.6], dtype=torch.float64)
    while len(chosen) < views:
        candidates = torch.from_numpy(rng.uniform(-1, 1, (24, 2))) * reach
        apart = torch.cdist(candidates * weight, torch.stack(chosen) * weight).amin(1)
        chosen.append(candidates[apart.argmax()])
    return torch.deg2rad(torch.stack(chosen)[:views])


def _uniform(rng: Generator, bounds: tuple[float, float], *shape: int) -> Tensor:
    return torch.from_numpy(rng.uniform(*bounds, shape))


def _normal(rng: Generator, sigma: float, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(0, sigma, shape))
