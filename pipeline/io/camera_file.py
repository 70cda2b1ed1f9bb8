"""Files of known cameras: JSON with `width`, `height` and `cameras`.

Each camera is `world_to_camera` (4 x 4, OpenCV, metres) and `K` (3 x 3, pixels of that width and
height). `frame` says what the world is: `head` (the head frame, if left out), or `world`, a rig's
own; there, `static` (true if left out) says that the head does not move in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline.core.config import check_range, from_dict
from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.core.types import Camera
from pipeline.io.images import MAX_RATIO
from pipeline.io.raw_files import matrix
from pipeline.system.files import read_object

MAX_SIDE = 2**14
"""Of the pictures that a camera is meant for, pixels."""


@dataclass(frozen=True)
class CameraFile:
    """Known cameras, in the order of pictures or of a path."""

    cameras: Camera
    """[v]"""
    frame: Literal["head", "world"] = "head"
    static: bool = True


def read_cameras(path: Path) -> CameraFile:
    """Read a file of cameras.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not a file of cameras.
        CameraError: If a matrix is not that of a camera.
    """
    data = read_object(path, "a camera path (.json); or choose orbit or original")
    try:
        found = from_dict(_File, data)
        stops = [matrix(c.get("world_to_camera"), (4, 4), path) for c in found.cameras]
        K = [matrix(c.get("K"), (3, 3), path) for c in found.cameras]
        check_size(found.width, found.height)
        if not stops:
            raise ConfigError("It has no camera.", "")
    except (ConfigError, InputError) as error:
        raise FormatError(
            f"{path} is not a camera path.",
            "It is JSON: width, height, cameras: [{world_to_camera 4 x 4, K 3 x 3}], and where "
            "they are not in the head frame, frame: world and static: true or false.",
        ) from error
    cameras = Camera(_tensor(stops), _tensor(K), found.width, found.height)
    return CameraFile(cameras, found.frame, found.static)


def check_size(width: int, height: int) -> None:
    """Pass if a camera may have pictures of that size.

    Raises:
        ConfigError: If not.
    """
    check_range("width and height", (width, height), 1, MAX_SIDE)
    check_range("their proportion", max(width, height) / min(width, height), 1, MAX_RATIO)


@dataclass(frozen=True)
class _File:
    """Cameras as their file has them."""

    width: int
    height: int
    cameras: tuple[Mapping[str, Any], ...]
    frame: Literal["head", "world"] = "head"
    static: bool = True


def _tensor(matrices: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(matrices)).float()
