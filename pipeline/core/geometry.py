"""Cameras and rays. Frames and units are those of CONVENTIONS.md.

Letters: v any leading dimensions, h height, w width, n points.
"""

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.types import Camera


def pixel_directions(camera: Camera, stride: int = 1) -> Float[Tensor, "*v 3 h w"]:
    """Return the direction through each pixel centre in the camera frame, with z = 1.

    Args:
        camera: Cameras, OpenCV frame.
        stride: Give one direction for each block of `stride` x `stride` pixels, at its centre.
    """
    y, x = torch.meshgrid(
        (torch.arange(camera.height // stride).to(camera.K) + 0.5) * stride,
        (torch.arange(camera.width // stride).to(camera.K) + 0.5) * stride,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)])
    # inv_ex does not read the result back, which on a GPU would wait for it.
    return torch.einsum("...ij,jhw->...ihw", torch.linalg.inv_ex(camera.K).inverse, pixels)


def rays(camera: Camera, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Return the origin and unit direction of the ray of each pixel, in the head frame.

    Returns:
        Origins [*v, 3, 1, 1] in metres and directions [*v, 3, h, w], of unit length.
    """
    R = camera.world_to_camera[..., :3, :3]
    directions = torch.einsum("...ji,...jhw->...ihw", R, pixel_directions(camera, stride))
    return camera.centers[..., None, None], torch.nn.functional.normalize(directions, dim=-3)


def plucker_rays(camera: Camera, stride: int = 1) -> Float[Tensor, "*v 6 h w"]:
    """Return the Pluecker coordinates of the line that each pixel looks along.

    The network reads cameras as images: six channels, (direction, moment), where the moment
    is origin x direction. Unlike (origin, direction), the six numbers do not change when the
    origin slides along the ray, so two cameras on one line agree about it.

    Args:
        camera: Cameras, OpenCV frame, translation in metres.
        stride: One line for each block of `stride` x `stride` pixels.

    Returns:
        Channels 0-2: unit direction in the head frame. Channels 3-5: moment, in metres.

    Source:
        Sitzmann et al., Light Field Networks, NeurIPS 2021; the camera input of FastGHA,
        arXiv 2601.13837, section 3.1.
    """
    origins, directions = rays(camera, stride)
    moments = torch.linalg.cross(origins.expand_as(directions), directions, dim=-3)
    return torch.cat([directions, moments], dim=-3)


def project(camera: Camera, points: Float[Tensor, "*v n 3"]) -> tuple[Tensor, Tensor]:
    """Project points of the head frame.

    Returns:
        Pixels [*v, n, 2] (x, y) and depths [*v, n] along the camera's z axis, metres.
    """
    R, t = camera.world_to_camera[..., :3, :3], camera.world_to_camera[..., :3, 3]
    inside = points @ R.mT + t[..., None, :]
    homogeneous = inside @ camera.K.mT
    return homogeneous[..., :2] / homogeneous[..., 2:], inside[..., 2]


def look_at(
    center: Float[Tensor, "*v 3"],
    target: Float[Tensor, "*v 3"],
    roll: Float[Tensor, "*v"] | float = 0.0,
) -> Float[Tensor, "*v 4 4"]:
    """Return world_to_camera of cameras at `center` that look at `target` with the head upright.

    Args:
        center: Camera centres in the head frame, metres.
        target: Points at the middle of the pictures, metres.
        roll: Rotation about the viewing direction, radians; positive turns the camera
            clockwise, so the head leans to the left of the picture.
    """
    forward = torch.nn.functional.normalize(target - center, dim=-1)
    up = torch.tensor([0.0, 1.0, 0.0]).to(center).expand_as(forward)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, up, dim=-1), dim=-1)
    down = torch.linalg.cross(forward, right, dim=-1)
    angle = torch.as_tensor(roll).to(center).expand(center.shape[:-1])[..., None]
    cos, sin = torch.cos(angle), torch.sin(angle)
    R = torch.stack([cos * right + sin * down, cos * down - sin * right, forward], dim=-2)
    E = torch.zeros(*center.shape[:-1], 4, 4).to(center)
    E[..., :3, :3] = R
    E[..., :3, 3] = -(R @ center[..., None])[..., 0]
    E[..., 3, 3] = 1.0
    return E


def farthest_points(points: Float[Tensor, "n 3"], count: int, first: int) -> list[int]:
    """Choose points far from each other, greedily, starting from `first`.

    Source:
        FastGHA section A.2 chooses the cameras of a training sample so.

    Raises:
        ValueError: If there are fewer than `count` points.
    """
    if count > len(points):
        raise ValueError(f"{count} of {len(points)} points")
    chosen = [first]
    distance = torch.linalg.norm(points - points[first], dim=-1)
    while len(chosen) < count:
        # A chosen point has distance 0, but so may its twins: never choose one twice.
        distance[chosen[-1]] = -1.0
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, torch.linalg.norm(points - points[chosen[-1]], dim=-1))
    return chosen[:count]


def jitter(camera: Camera, degrees: float, mm: float, rng: np.random.Generator) -> Camera:
    """Put errors on where cameras stand and look, as estimated ones have them.

    Args:
        camera: Cameras, one leading dimension.
        degrees: Standard deviation of the rotation about each axis of the camera.
        mm: Standard deviation of its centre along each axis of the head frame.
        rng: Source of the errors.
    """
    from scipy.spatial.transform import Rotation

    count = len(camera.K)
    turn = Rotation.from_rotvec(np.radians(degrees) * rng.normal(size=(count, 3))).as_matrix()
    R = torch.from_numpy(turn).to(camera.K) @ camera.world_to_camera[:, :3, :3]
    centers = camera.centers + torch.from_numpy(rng.normal(size=(count, 3)) * mm / 1e3).to(camera.K)
    world_to_camera = camera.world_to_camera.clone()
    world_to_camera[:, :3, :3] = R
    world_to_camera[:, :3, 3] = -torch.einsum("vij,vj->vi", R, centers)
    return replace(camera, world_to_camera=world_to_camera)
