"""Which cameras and which people of a data set are used for what.

Letters: v cameras.
"""

from __future__ import annotations

import hashlib
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

AVA256_VALIDATION = (
    "BDF920", "BXQ083", "CPP930", "DPE040", "GZU008", "NCC597", "NCU289", "NNQ107",
    "ONK818", "PGO261", "TXE513", "UIQ957", "UMQ592", "YIK625", "ZEL435", "ZUS575",
)  # fmt: skip
"""The data set's own public validation list."""
AVA256_EVALUATED = AVA256_VALIDATION[:12]
AVA256_HELD_OUT = (
    *AVA256_VALIDATION,
    "EVY126", "FCT871", "HDZ165", "HOS732", "HVO722", "IBX730", "KTI779", "MVB233", "QNG975",
    "QZP994", "RWS274", "WXT125", "ZEM686", "ZUE409",
)  # fmt: skip
"""People never trained on: the validation list, and of the 240 others the 14 whose names have the
smallest SHA-256. FastGHA holds out 30 as well, but its list is not public: this is another."""

NERSEMBLE_TRAINED = 300 / 425
"""Share of the people that are trained on, as in FastGHA."""


def held_out_ava256(subject: str) -> bool:
    """Say whether a person of Ava-256 is kept from training."""
    return subject in AVA256_HELD_OUT


def held_out_nersemble(subject: str) -> bool:
    """Say whether a person of NeRSemble is kept from training.

    By a hash of the number, so that it does not depend on which people were downloaded. FastGHA
    trains on 300 of 425, but which is not public.
    """
    number = subject.lstrip("0") or "0"
    return _hash(number) >= NERSEMBLE_TRAINED


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


def _hash(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
