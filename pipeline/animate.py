"""An avatar under a sequence of expressions, along a path of cameras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from pipeline.avatar import Avatar
from pipeline.geometry import look_at
from pipeline.io.sequences import Sequence
from pipeline.io.sheets import to_bytes
from pipeline.io.video import write_mp4
from pipeline.stage import Progress, silent
from pipeline.types import Camera

DISTANCE = 1.0
"""Of the cameras from the head's origin, metres."""
FIELD = 0.42
"""Width of the picture at the head's origin, metres."""
TARGET = (0.0, 0.02, 0.0)
"""What the cameras look at, metres in the head frame: hair and chin are both in the picture."""


def orbit(frames: int, size: int, degrees: float = 40.0, turns: float = 1.0) -> Camera:
    """Give cameras that swing slowly from side to side, a little up and down on the way.

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
    pitch = torch.deg2rad(torch.tensor(degrees / 5)) * (2 * phase).sin()
    target = torch.tensor(TARGET)
    away = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], dim=-1)
    focal = size * DISTANCE / FIELD
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]])
    extrinsics = look_at(target + DISTANCE * away, target.expand(frames, 3))
    return Camera(extrinsics, K.expand(frames, 3, 3), size, size)


def frames(
    avatar: Avatar, sequence: Sequence, cameras: Camera, progress: Progress = silent
) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    """Draw each frame of a sequence from its camera, on white."""
    for i in range(len(sequence)):
        drawn = avatar.render(sequence.codes[i], cameras[i])
        progress(i + 1, len(sequence))
        yield to_bytes(drawn.color.permute(2, 0, 1))


def write_video(
    path: Path, avatar: Avatar, sequence: Sequence, cameras: Camera, progress: Progress = silent
) -> None:
    """Write an MP4 of an avatar under a sequence.

    Raises:
        LayoutError: If the sequence is not of the avatar's layout.
        InputError: If the file cannot be written.
    """
    write_mp4(path, frames(avatar, sequence, cameras, progress), sequence.fps)
