"""Paths of cameras for videos: an orbit, a JSON file, or the ones a sequence was filmed with.

A path file is one of `pipeline.io.camera_file`, in the head frame or in the world that an avatar's
head was found in. The cameras are spread evenly
over the video, and the ones between them turn and glide evenly; one camera stands still.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from pipeline.captures.capture import factor_head_pose
from pipeline.captures.folder import FolderCapture
from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera
from pipeline.faces.flame_fit import LAYOUT_OF, FlameFit
from pipeline.faces.heads import FlameHead, head_model
from pipeline.io.camera_file import check_size, read_cameras
from pipeline.io.raw_files import matrix, read_npz
from pipeline.system.files import require_file, write_text
from pipeline.tracking.importers import read_tracking

DISTANCE = 1.0
"""Of the cameras from the head's origin, metres."""
FIELD = 0.42
"""Width of the picture at the head's origin, metres."""
TARGET = (0.0, 0.02, 0.0)
"""What the cameras look at, metres in the head frame: hair and chin are both in the picture."""


def orbit(frames: int, size: int, degrees: float = 40.0, turns: float = 1.0) -> Camera:
    """Return cameras that swing slowly from side to side, a little up and down on the way.

    Args:
        frames: How many cameras.
        size: Width and height of the pictures, pixels.
        degrees: Largest angle to the side.
        turns: How often the camera comes back to where it started.

    Returns:
        Cameras [frames], the first and the last one in front.
    """
    phase = torch.linspace(0, 2 * torch.pi * turns, frames)
    yaw = torch.deg2rad(torch.tensor(degrees)) * phase.sin()
    pitch = torch.deg2rad(torch.tensor(min(degrees, 40.0) / 5)) * (2 * phase).sin()
    target = torch.tensor(TARGET)
    away = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=-1)
    focal = size * DISTANCE / FIELD
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    extrinsics = look_at(target + DISTANCE * away, target.expand(frames, 3))
    return Camera(extrinsics, K.expand(frames, 3, 3), size, size)


def cameras_for(
    choice: str,
    sequence: Path,
    frames: int,
    size: int,
    degrees: float,
    head_to_world: Float[Tensor, "4 4"] | None = None,
) -> Camera:
    """Return the cameras that a user names: `orbit`, `original` or the path of a JSON file.

    Args:
        choice: What the user named.
        sequence: File of the expressions; `original` takes its arrays `world_to_camera` [t, 4, 4],
            `K` [t, 3, 3] and `size` (width, height), or of a tracker's folder the cameras there.
        frames: How many cameras.
        size: Width of the pictures, pixels; the height follows the path's proportions.
        degrees: Largest angle of the orbit.
        head_to_world: Where the avatar's head is in the world of a file that has one.

    Raises:
        InputError: If there is no such file, or the sequence has no cameras.
        FormatError: If the file is not a path of cameras.
        CameraError: If a matrix is not that of a camera.
    """
    if choice == "orbit":
        return orbit(frames, size, degrees)
    original = choice == "original"
    filmed = _filmed(sequence) if original else read_path(Path(choice), head_to_world)
    height = max(round(size * filmed.height / filmed.width), 1)
    return spread(filmed, frames).resized(size, height)


def read_path(path: Path, head_to_world: Float[Tensor, "4 4"] | None = None) -> Camera:
    """Read a path file into cameras of the head frame.

    Args:
        path: The file.
        head_to_world: Where the head is in the world of a file that has one.

    Raises:
        InputError: If there is no file, or the head's place in its world is not known.
        FormatError: If it is not a file of cameras.
        CameraError: If a matrix is not that of a camera.
    """
    found = read_cameras(path)
    if found.frame == "head":
        return found.cameras
    if head_to_world is None:
        raise InputError(
            f"The cameras of {path} stand in a world in which this head has no place.",
            "Make the avatar with --cameras of that world, or give cameras of the head frame.",
        )
    return replace(
        found.cameras, world_to_camera=found.cameras.world_to_camera @ head_to_world.float()
    )


def _tensor(matrices: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(matrices)).float()


def write_path(path: Path, cameras: Camera) -> None:
    """Write cameras [v] as a path file."""
    stops = [
        {"world_to_camera": E.tolist(), "K": K.tolist()}
        for E, K in zip(cameras.world_to_camera, cameras.K)
    ]
    data = {"width": cameras.width, "height": cameras.height, "cameras": stops}
    write_text(path, json.dumps(data))


def spread(cameras: Camera, frames: int) -> Camera:
    """Return `frames` cameras evenly along the way through the given ones.

    Centres and intrinsics change linearly, rotations at constant speed.
    """
    if len(cameras) == frames:
        return cameras
    if len(cameras) == 1:
        return cameras[[0] * frames]
    stops = np.arange(len(cameras))
    at = np.linspace(0, len(cameras) - 1, frames)
    turns = Rotation.from_matrix(cameras.world_to_camera[:, :3, :3].double().numpy())
    R = torch.from_numpy(Slerp(stops, turns)(at).as_matrix())
    centers = _between(cameras.centers, at)
    E = torch.eye(4).repeat(frames, 1, 1).double()
    E[:, :3, :3] = R
    E[:, :3, 3] = -(R @ centers[..., None])[..., 0]
    return Camera(E.float(), _between(cameras.K, at).float(), cameras.width, cameras.height)


def _between(values: torch.Tensor, at: np.ndarray) -> torch.Tensor:
    low = torch.from_numpy(np.minimum(at.astype(int), len(values) - 2))
    share = (torch.from_numpy(at) - low).reshape(-1, *[1] * (values.ndim - 1))
    return (1 - share) * values[low] + share * values[low + 1]


def _filmed(sequence: Path) -> Camera:
    if sequence.is_dir() or sequence.suffix in (".frame", ".pkl"):
        return _tracked(sequence)
    require_file(sequence, "a sequence (.npz) with cameras; or choose orbit or a path file")
    names = ("world_to_camera", "K", "size")
    arrays = read_npz(sequence, lambda name: name in names)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(
            f"{sequence} has no cameras of its own (missing: {', '.join(missing)}).",
            "Choose orbit or a path file, or store world_to_camera, K and size in it.",
        )
    try:
        size = matrix(arrays["size"], (2,), f"{sequence}: size")
        count = len(np.atleast_1d(arrays["K"]))
        E, K = (
            matrix(arrays[name], (count, side, side), f"{sequence}: {name}")
            for name, side in (("world_to_camera", 4), ("K", 3))
        )
        if not count:
            raise ConfigError("There is no camera.", "")
        check_size(int(size[0]), int(size[1]))
    except (ConfigError, InputError) as error:
        raise FormatError(
            f"{sequence}: {error.problem}",
            "Store world_to_camera [t, 4, 4], K [t, 3, 3], size [2].",
        ) from error
    return Camera(_tensor(list(E)), _tensor(list(K)), int(size[0]), int(size[1]))


def _tracked(path: Path) -> Camera:
    """Return the cameras of a tracker's frames, in the head frame of each frame.

    Raises:
        InputError: If the tracker wrote none.
        MissingWeightsError: If the head's pose needs the FLAME model, which is not here.
    """
    found: list[Camera] = []
    if any(path.glob("transforms*.json")):
        capture = FolderCapture(path)
        for timestep in capture.timesteps:
            fit, name = capture.flame(timestep), _middle(capture.cameras)
            camera = capture.camera(timestep, name)
            if fit is not None and camera is not None:
                found.append(factor_head_pose(camera, _head_to_world(fit)))
    else:
        tracking = read_tracking(path)
        if tracking.cameras is not None and len(tracking.cameras) == len(tracking.fits):
            found = [
                factor_head_pose(tracking.cameras[i], _head_to_world(fit))
                for i, fit in enumerate(tracking.fits)
            ]
    if not found:
        raise InputError(
            f"{path} has no cameras of its own.", "Choose orbit or a path file for --camera."
        )
    E = torch.stack([camera.world_to_camera for camera in found]).float()
    K = torch.stack([camera.K for camera in found]).float()
    return Camera(E, K, found[0].width, found[0].height)


def _middle(cameras: tuple[str, ...]) -> str:
    """Return the camera in the middle of a row, which stands before the face."""
    return cameras[len(cameras) // 2]


def _head_to_world(fit: FlameFit) -> Float64[np.ndarray, "4 4"]:
    motion = fit.head_to_world()
    if motion is not None:
        return motion
    head = head_model(LAYOUT_OF[fit.version])
    assert isinstance(head, FlameHead)
    return head.model.head_to_world(fit)
