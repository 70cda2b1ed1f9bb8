"""Which cameras look at the face from the front, by the mean head pose.

Letters: v cameras.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from pipeline.captures.capture import Capture, Timestep, natural
from pipeline.core.errors import InputError, MissingItemError

NEUTRAL = ("EXP_neutral_peak", "EXP_eye_neutral")
"""Sentences in which the face looks straight ahead, the best first."""
POSES = 50
"""The mean head pose is taken over at most so many timesteps."""


def frontal_cameras(capture: Capture, count: int = 40) -> tuple[str, ...]:
    """Return the cameras that look most nearly straight at the face.

    Camera names differ from capture to capture, so they are chosen by geometry: the angle, seen
    from the head under its mean pose, between the way to the camera and the face's own direction.

    Returns:
        At most `count` names, the most frontal first; equal angles by name.

    Raises:
        InputError: If the capture has no head pose or no calibrated camera.
    """
    angles = camera_angles(capture)
    order = natural(angles)
    return tuple(sorted(angles, key=lambda name: (angles[name], order.index(name)))[:count])


def camera_angles(capture: Capture) -> dict[str, float]:
    """Return each camera's angle from the face's direction (+z), degrees, rounded to 1e-6."""
    H, timestep = mean_head_pose(capture)
    angles: dict[str, float] = {}
    for name in capture.cameras:
        camera = capture.camera(timestep, name)
        if camera is None:
            continue
        toward = H[:3, :3].T @ (camera.centers.double().numpy() - H[:3, 3])
        angles[name] = round(float(np.degrees(np.arccos(toward[2] / np.linalg.norm(toward)))), 6)
    if not angles:
        raise InputError(
            f"{capture.name} has no calibrated camera.", "Choose the cameras by name instead."
        )
    return angles


def mean_head_pose(capture: Capture) -> tuple[Float64[np.ndarray, "4 4"], Timestep]:
    """Return the mean head-to-world motion over the neutral sentence, and one timestep of it.

    Raises:
        InputError: If no timestep has a pose.
    """
    steps = _neutral(capture)
    poses: list[np.ndarray] = []
    for i in np.unique(np.linspace(0, len(steps) - 1, POSES).round().astype(int)):
        try:
            pose = capture.head_to_world(steps[i])
        except MissingItemError:
            continue
        if pose is not None:
            poses.append(pose)
    if not poses:
        raise InputError(
            f"{capture.name} has no head pose.", "Track it first, or choose the cameras by name."
        )
    stack = np.stack(poses)
    H = np.eye(4)
    H[:3, :3] = Rotation.from_matrix(stack[:, :3, :3]).mean().as_matrix()
    H[:3, 3] = stack[:, :3, 3].mean(axis=0)
    return H, steps[0]


def _neutral(capture: Capture) -> Sequence[Timestep]:
    for sentence in NEUTRAL:
        steps = [t for t in capture.timesteps if t.sentence == sentence]
        if steps:
            return steps
    return capture.timesteps
