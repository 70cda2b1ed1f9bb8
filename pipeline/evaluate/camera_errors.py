"""Errors that estimated cameras have, told apart by what they do to a picture.

A mesh that is fitted in a picture lies where the head is seen, whatever the camera. So where an
error only moves the head within the picture, the mesh goes with it, and a guide stays as it is;
where it says that the head is seen from elsewhere, the mesh lies as the wrong camera sees it.

Letters: v cameras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import jitter
from pipeline.core.types import Camera

Disturb = Callable[[Camera, float, np.random.Generator], Camera]
"""Puts errors of a standard deviation on cameras [v]."""
DEGREES = (0.0, 0.5, 1.0, 2.0, 4.0)


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error."""

    axis: str
    """What the level counts."""
    levels: tuple[float, ...]
    disturb: Disturb
    carries_mesh: bool
    """Whether a mesh that is fitted in the picture goes with the error."""


def turn(camera: Camera, degrees: float, rng: np.random.Generator) -> Camera:
    """Turn cameras about their own centres, about each of their axes."""
    return jitter(camera, degrees, 0.0, rng)


def orbit(camera: Camera, degrees: float, rng: np.random.Generator) -> Camera:
    """Move cameras about the head, sideways and up; it stays where it is in the picture."""
    turns = np.radians(degrees) * rng.normal(size=(len(camera), 3)) * [1, 1, 0]
    R = torch.from_numpy(Rotation.from_rotvec(turns).as_matrix())
    E = camera.world_to_camera.double()
    head = _head(camera)
    moved = E.clone()
    moved[:, :3, :3] = R @ E[:, :3, :3]
    moved[:, :3, 3] = head + (R @ (E[:, :3, 3] - head)[..., None])[..., 0]
    return replace(camera, world_to_camera=moved.to(camera.world_to_camera))


def distance(camera: Camera, percent: float, rng: np.random.Generator) -> Camera:
    """Move cameras towards the head or away, with the focal length that keeps its size."""
    factor = torch.from_numpy(np.exp(percent / 100 * rng.normal(size=len(camera))))
    E, K = camera.world_to_camera.double(), camera.K.double()
    # Along the optical axis alone: sideways and up, the head then stays where it is.
    E[:, 2, 3] += (factor - 1) * _head(camera)[:, 2]
    K[:, [0, 1], [0, 1]] *= factor[:, None]
    return replace(camera, world_to_camera=E.to(camera.world_to_camera), K=K.to(camera.K))


def place(camera: Camera, percent: float, rng: np.random.Generator) -> Camera:
    """Shift pictures before their cameras, in percent of the width, along both sides."""
    K = camera.K.clone()
    shift = percent / 100 * camera.width * rng.normal(size=(len(camera), 2))
    K[:, :2, 2] += torch.from_numpy(shift).to(K)
    return replace(camera, K=K)


ERRORS = (
    ErrorKind("degrees about the camera's own centre", DEGREES, turn, carries_mesh=True),
    ErrorKind("degrees about the head", DEGREES, orbit, carries_mesh=False),
    ErrorKind("% of distance, with focal", (0.0, 2.5, 5.0, 10.0, 20.0), distance,
                carries_mesh=False),
    ErrorKind("% of the picture's width", (0.0, 0.5, 1.0, 2.0, 4.0), place, carries_mesh=True),
)  # fmt: skip


def _head(camera: Camera) -> torch.Tensor:
    """Return where the middle of the head is for each camera [v, 3]."""
    E = camera.world_to_camera.double()
    return E[:, :3, :3] @ torch.tensor(CROP_CENTER, dtype=E.dtype) + E[:, :3, 3]
