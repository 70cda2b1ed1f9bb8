"""Reader of `transforms.json` exports: VHAP, GaussianAvatars and LAM; also plain NeRF folders.

    DIR/transforms.json or DIR/transforms_{train,val,test}.json
    DIR/images/00000_00.png   DIR/fg_masks/00000_00.png   DIR/flame_param/00000.npz

In such a file a camera is OpenGL camera-to-world, and VHAP measures `cy` from the bottom.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from PIL import Image

from pipeline.captures.capture import (
    Capture,
    RawView,
    Timestep,
    backdrop,
    natural,
    nearest_rotation,
)
from pipeline.captures.lens import Lens, undistort
from pipeline.core.arrays import Matte
from pipeline.core.errors import CameraError, InputError, MissingItemError, ShapeError
from pipeline.core.types import Camera
from pipeline.faces.flame_fit import FlameFit, from_vectors
from pipeline.faces.layouts import FLAME2023
from pipeline.io.images import open_picture
from pipeline.io.raw_files import (
    BROKEN,
    grey_of,
    matrix,
    need,
    number,
    read_json,
    read_npz,
    read_picture,
    rgb_of,
)

PARTS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
KEYS = ("translation", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "shape", "expr")


@dataclass(frozen=True)
class _Frame:
    image: Path
    mask: Path | None
    flame: Path | None
    world_to_camera: Float64[np.ndarray, "4 4"]
    K: Float64[np.ndarray, "3 3"]
    """For the size that the file states."""
    size: tuple[int, int] | None
    """Width and height as stated; None if it is not, and `K` has to be made from the picture's."""
    angle: float
    """Horizontal field of view, radians, where there is no focal length."""
    lens: Lens | None


class FolderCapture(Capture):
    """One exported folder.

    Raises:
        InputError: If it is not such an export; names the difference.
    """

    source = "folder"
    color = "as-exported"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        found = re.match(r"(?:UNION\d*_)?(\d{3})(?:_|$)", self.name)
        self.subject = found[1] if found else self.name
        files = [path / "transforms.json"]
        if not files[0].is_file():
            files = [path / name for name in PARTS if (path / name).is_file()]
        if not files:
            raise InputError(
                f"{path} has no transforms.json, nor transforms_train.json.",
                "Give a folder exported by VHAP or in the layout of GaussianAvatars.",
            )
        self._frames: dict[tuple[Timestep, str], _Frame] = {}
        vhap = False
        for file in files:
            vhap |= self._read(file)
        if not self._frames:
            raise InputError(f"{files[0]} lists no frames.", "Export the sequence again.")
        self.timesteps = tuple(sorted({t for t, _ in self._frames}))
        self.cameras = tuple(natural({c for _, c in self._frames}))
        self._flame = any(f.flame is not None for f in self._frames.values())
        self.facts = {
            "files": ", ".join(file.name for file in files),
            "cy": "measured from the bottom (VHAP)" if vhap else "measured from the top",
            "head pose": "FLAME's, needs the model's joints" if self._flame else "none shipped",
        }

    @property
    def layout(self) -> str | None:
        """VHAP tracks with FLAME 2023."""
        return FLAME2023 if self._flame else None

    def missing(self) -> Mapping[str, str]:
        """Files that are listed and not there."""
        gone: dict[str, str] = {}
        for frame in self._frames.values():
            for file in (frame.image, frame.mask, frame.flame):
                if file is not None and not file.is_file():
                    gone[_short(file)] = "listed, but there is no such file"
        return gone

    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether the picture and its mask are there."""
        frame = self._frames.get((timestep, camera))
        return (
            frame is not None
            and frame.image.is_file()
            and (frame.mask is None or frame.mask.is_file())
        )

    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Read one picture with its mask."""
        frame = self._frame(timestep, camera)
        picture = read_picture(frame.image)
        matte: Matte | None = None
        if frame.mask is not None:
            matte = grey_of(read_picture(frame.mask), frame.mask)
        elif "A" in picture.getbands():
            matte = np.asarray(picture.getchannel("A"))
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        image = rgb_of(picture, frame.image)
        if matte is not None and matte.shape != image.shape[:2]:
            raise MissingItemError(
                f"{frame.mask} is {matte.shape[1]}x{matte.shape[0]}, its picture "
                f"{image.shape[1]}x{image.shape[0]}.",
                "Export both again.",
            )
        seen = self._camera(frame, image.shape[1], image.shape[0])
        if frame.lens is not None:
            image = undistort(image, seen, frame.lens)
            matte = None if matte is None else undistort(matte, seen, frame.lens)
        return RawView(image, seen, matte, backdrop(image, matte))

    def camera(self, timestep: Timestep, camera: str) -> Camera | None:
        """Return a camera; reads the picture's header only."""
        frame = self._frame(timestep, camera)
        try:
            with open_picture(frame.image, frame.image) as picture:
                size = picture.size
        except InputError as error:
            raise MissingItemError(error.problem, error.remedy) from error
        except BROKEN as error:
            raise MissingItemError(f"{frame.image} cannot be read.", "Export it again.") from error
        return self._camera(frame, *size)

    def flame(self, timestep: Timestep) -> FlameFit | None:
        """Read the FLAME parameters of a timestep."""
        files = {f.flame for (t, _), f in self._frames.items() if t == timestep} - {None}
        if not files:
            return None
        path = sorted(f for f in files if f is not None)[0]
        arrays = read_npz(path)
        lacking = [key for key in KEYS if key not in arrays]
        if lacking:
            raise MissingItemError(
                f"{path} has no {', '.join(lacking)}; it has {', '.join(sorted(arrays))}.",
                "Export the tracking with VHAP again.",
            )
        try:
            return from_vectors(
                version="2023",
                shape=arrays["shape"],
                expression=arrays["expr"],
                root=arrays["rotation"],
                neck=arrays["neck_pose"],
                jaw=arrays["jaw_pose"],
                eyes=arrays["eyes_pose"],
                translation=arrays["translation"],
                static_offset=arrays.get("static_offset"),
            )
        except (ShapeError, TypeError, ValueError) as error:
            raise MissingItemError(f"{path}: {error}", "Export the tracking again.") from error

    def _frame(self, timestep: Timestep, camera: str) -> _Frame:
        if (timestep, camera) not in self._frames:
            raise MissingItemError(
                f"{self.path} lists no picture of {timestep.name} by camera {camera}.",
                "Nothing to do: not every camera sees every moment.",
            )
        return self._frames[timestep, camera]

    def _read(self, file: Path) -> bool:
        """Read one list of frames; says whether it is VHAP's."""
        whole = read_json(file)
        frames = need(whole, "frames", list, file)
        vhap = "timestep_indices" in whole or any(
            isinstance(f, dict) and "flame_param_path" in f for f in frames
        )
        for i, values in enumerate(frames):
            where = f"{file}, frame {i}"
            if not isinstance(values, dict):
                raise InputError(f"{where} is not an object.", "Export the sequence again.")
            entry: dict[str, Any] = {**{k: v for k, v in whole.items() if k != "frames"}, **values}
            frame = self._entry(entry, vhap, where)
            number_ = entry.get("timestep_index", i)
            if frame.flame is not None and frame.flame.stem.isdigit():
                number_ = int(frame.flame.stem)
            camera = str(entry.get("camera_id", entry.get("camera_index", "0")))
            index = int(number_) if isinstance(number_, int) else i
            self._frames[Timestep(frame.image.parent.parent.name, index), camera] = frame
        return vhap

    def _entry(self, entry: Mapping[str, Any], vhap: bool, where: str) -> _Frame:
        c2w = matrix(need(entry, "transform_matrix", list, where), (4, 4), f"{where}, its matrix")
        try:
            turn, _ = nearest_rotation(c2w[:3, :3])
        except CameraError as error:
            raise InputError(f"{where}: {error.problem}", error.remedy) from error
        # OpenGL looks along -z with y up; the inverse of a rigid motion is its transpose.
        R = turn @ np.diag([1.0, -1.0, -1.0])
        E = np.eye(4)
        E[:3, :3], E[:3, 3] = R.T, -R.T @ c2w[:3, 3]
        K = np.eye(3)
        size = angle = None
        if "fl_x" in entry:
            w, h = number(entry, "w", where), number(entry, "h", where)
            size = (round(w), round(h))
            fx = number(entry, "fl_x", where)
            K[0, 0], K[1, 1] = fx, number(entry, "fl_y", where) if "fl_y" in entry else fx
            cx = number(entry, "cx", where) if "cx" in entry else w / 2
            cy = number(entry, "cy", where) if "cy" in entry else h / 2
            K[:2, 2] = cx, h - cy if vhap else cy
            if min(*size, fx, K[1, 1]) <= 0 or not (0 < cx < w and 0 < cy < h):
                raise InputError(
                    f"{where}: the principal point ({cx:g}, {cy:g}) or focal length {fx:g} does "
                    f"not fit a picture of {w:g}x{h:g}.",
                    "Intrinsics are in pixels of the exported picture.",
                )
        else:
            angle = number(entry, "camera_angle_x", where)
            if not 0 < angle < np.pi:
                raise InputError(
                    f"{where}: camera_angle_x is {angle:g}.", "Give it in radians, under pi."
                )
        return _Frame(
            image=self._file(need(entry, "file_path", str, where), where, ".png"),
            mask=self._optional(entry, "fg_mask_path", where),
            flame=self._optional(entry, "flame_param_path", where),
            world_to_camera=E,
            K=K,
            size=size,
            angle=angle or 0.0,
            lens=Lens.read(entry, where),
        )

    def _optional(self, entry: Mapping[str, Any], key: str, where: str) -> Path | None:
        if entry.get(key) in (None, ""):
            return None
        return self._file(need(entry, key, str, where), where)

    def _file(self, name: str, where: str, ending: str = "") -> Path:
        """Return a listed file; unions name neighbours (../OTHER/...), nothing goes further up."""
        file = Path(name)
        steps = [part for part in file.parts if part != "."]
        strange = "\0" in name or not steps or any(len(part) > 100 for part in steps)
        if file.is_absolute() or ".." in steps[1:] or strange:
            raise InputError(
                f"{where} names {name[:80]!r}, outside the export.",
                "Use paths relative to its folder.",
            )
        whole = self.path.joinpath(*steps)
        if steps[0] == "..":
            whole = self.path.resolve().parent.joinpath(*steps[1:])
        return whole if whole.suffix else whole.with_suffix(ending)

    def _camera(self, frame: _Frame, width: int, height: int) -> Camera:
        """Return the camera for a picture of this size."""
        K = frame.K.copy()
        if frame.size is None:
            K[0, 0] = K[1, 1] = width / 2 / np.tan(frame.angle / 2)
            K[:2, 2] = width / 2, height / 2
        elif (width, height) != frame.size:
            sx, sy = width / frame.size[0], height / frame.size[1]
            if abs(sx / sy - 1) > 0.01:
                raise MissingItemError(
                    f"{frame.image} is {width}x{height}, but transforms.json says "
                    f"{frame.size[0]}x{frame.size[1]}.",
                    "Export the sequence again, or correct w and h.",
                )
            K[0], K[1] = K[0] * sx, K[1] * sy
        try:
            return Camera(
                torch.from_numpy(frame.world_to_camera), torch.from_numpy(K), width, height
            )
        except CameraError as error:
            raise MissingItemError(f"{frame.image}: {error.problem}", error.remedy) from error


def _short(path: Path) -> str:
    return "/".join(path.parts[-3:])
