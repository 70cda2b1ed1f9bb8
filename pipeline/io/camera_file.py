"""Files of known cameras: JSON with `width`, `height` and `cameras`.

Each camera is `world_to_camera` (4 x 4, OpenCV, metres) and `K` (3 x 3, pixels of that width and
height). `frame` says what the world is: `head` (the head frame, if left out), or `world`, a rig's
own; there, `static` (true if left out) says that the head does not move in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from pipeline.core.errors import FormatError
from pipeline.core.types import Camera
from pipeline.system.files import require_file


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
    require_file(path, "a file of cameras (.json)")
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        stops, frame, static = data["cameras"], data.get("frame", "head"), data.get("static", True)
        if frame not in ("head", "world") or not isinstance(static, bool) or not stops:
            raise ValueError("frame or static")
        cameras = Camera(
            torch.tensor([c["world_to_camera"] for c in stops]).float(),
            torch.tensor([c["K"] for c in stops]).float(),
            int(data["width"]),
            int(data["height"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(
            f"{path} is not a file of cameras.",
            "It is JSON: width, height, cameras: [{world_to_camera 4 x 4, K 3 x 3}], and where "
            "they are not in the head frame, frame: world and static: true or false.",
        ) from error
    return CameraFile(cameras, frame, static)
