"""Reader of Ava-256, as its download script writes it.

    ROOT/20230308--1352--BDF920/decoder/camera_calibration.json, frame_list.csv,
    image/cam400940.zip, head_pose/head_pose.zip, kinematic_tracking/registration_vertices.zip,
    keypoints_3d/keypoints_3d.zip, segmentation_parts/cam400940.zip,
    and, with the script of its pull request 19, foreground_masks/ and background_image/.

Calibration and meshes are in millimetres, matrices are stored transposed, pictures are linear
light without white balance and already undistorted.

Source:
    https://github.com/facebookresearch/ava-256; the colour transform is the one published by
    the author of Avat3r.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from pipeline.captures.capture import (
    Capture,
    RawView,
    Timestep,
    natural,
    nearest_rotation,
)
from pipeline.core.arrays import Matte, Rgb
from pipeline.core.errors import CameraError, FormatError, InputError, MissingItemError
from pipeline.core.types import Camera
from pipeline.io.archive import Archive
from pipeline.io.meshes import read_vertices
from pipeline.io.raw_files import (
    DRIFTED,
    decode_picture,
    grey_of,
    load_array,
    matrix,
    need,
    read_json,
    rgb_of,
)
from pipeline.system.files import read_small

NAME = re.compile(r"(?:m--)?(\d{8})--(\d{4})--([A-Z]{3}\d{3})(?:--GHS)?")
FULL_WIDTH, FULL_HEIGHT = 2668, 4096
"""Size of the sensor, for which the calibration is."""
MILLIMETRE = 1e-3
MESHES = "kinematic_tracking/registration_vertices.zip"
KEYPOINTS = 274
VERTICES = 7306
CHAIR = 3
"""Label of the one part of a segmentation that is not the person."""

GAIN = np.array([1.279545, 1.1059, 1.6])
BLACK = np.array([4.4, 3.1, 4.2]) / 255
WHITE = 1 / 1.1059
GAMMA = 1.5254


def to_srgb(linear: Float64[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
    """Return sRGB in [0, 1] of the data set's linear pixels in [0, 1]."""
    balanced = (linear * GAIN - BLACK) * WHITE / (1 - BLACK)
    return np.clip(np.maximum(balanced, 1e-6) ** (1 / GAMMA), 0, 1)


LOST_IMAGES, LOST_TRACKING = 0.005, 0.01
"""Shares of frames that may be missing: about 0.1 % of images are, and a few meshes."""
KNOWN_MESHES = {("AEY864", 5022): 5001}
"""Meshes that are there, by person and rows of the frame list, where somebody counted them."""


LINEAR_WHITE = ((1 - BLACK) / WHITE + BLACK) / GAIN
"""What `to_srgb` makes white."""
_TABLE = np.round(255 * to_srgb(np.arange(256)[:, None] / 255)).astype(np.uint8)


@dataclass(frozen=True)
class _Calibration:
    world_to_camera: Float64[np.ndarray, "4 4"]
    """Metres."""
    K: Float64[np.ndarray, "3 3"]
    """Pixels of the full sensor."""


class Ava256Capture(Capture):
    """One capture folder.

    Raises:
        InputError: If the calibration or the frame list is missing or has drifted.
    """

    source = "ava256"
    color = "ava256-srgb-v1"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.resolve().name
        found = NAME.fullmatch(self.name)
        if found is None:
            raise InputError(
                f"{path} is not named as a capture of Ava-256.",
                "Expected a name like 20230308--1352--BDF920.",
            )
        self.subject = found[3]
        self._root = path / "decoder"
        self._calibration = read_calibration(self._root / "camera_calibration.json")
        self.timesteps = read_frames(self._root / "frame_list.csv")
        names = natural(self._calibration)
        self._images = {
            camera: self._archive(f"image/cam{camera}.zip", camera, "avif") for camera in names
        }
        self.cameras = tuple(c for c in names if self._images[c].looks_whole())
        if not self.cameras:
            raise InputError(
                f"{self._root / 'image'} has no whole archive of any calibrated camera "
                f"(cam{names[0]}.zip, ...).",
                "Download the asset `image` of this capture.",
            )
        self._masks = {c: self._archive(f"foreground_masks/cam{c}.zip", c, "avif") for c in names}
        self._parts = {c: self._archive(f"segmentation_parts/cam{c}.zip", c, "png") for c in names}
        self._plates = Archive(
            self._root / "background_image" / "background_image.zip", r"(?:.*/)?(?:cam)?(\d+)\.avif"
        )
        self._poses = self._numbered("head_pose/head_pose.zip", "txt")
        self._points = self._numbered("keypoints_3d/keypoints_3d.zip", "npy")
        self._meshes = self._numbered(MESHES, "ply")
        self.facts = self._facts()

    def missing(self) -> Mapping[str, str]:
        """Compare every archive with the frame list."""
        return {name: text for name, (text, _) in self._lost().items()}

    def unexpected(self) -> Mapping[str, str]:
        """Return what is missing beyond the frames that the data set is known to have dropped."""
        gone: dict[str, str] = {}
        for name, (text, share) in self._lost().items():
            known = KNOWN_MESHES.get((self.subject, len(self.timesteps)))
            if name.endswith(MESHES) and known is not None:
                expected = round(share * len(self.timesteps)) == len(self.timesteps) - known
            elif name.startswith(("image/", "foreground_masks/", "segmentation_parts/")):
                expected = share <= LOST_IMAGES
            else:
                expected = share <= LOST_TRACKING
            if not expected:
                gone[name] = text
        return gone

    def _lost(self) -> dict[str, tuple[str, float]]:
        """Return what every archive lacks of the frame list: in words, and as a share."""
        listed = np.unique([t.index for t in self.timesteps])
        gone: dict[str, tuple[str, float]] = {}
        for archive in [
            *self._images.values(),
            *(a for some in (self._masks, self._parts) for a in some.values() if a.exists),
            self._poses,
            self._points,
            self._meshes,
        ]:
            name = archive.path.relative_to(self._root).as_posix()
            try:
                lost = np.setdiff1d(listed, archive.numbers())
            except MissingItemError as error:
                why = "not there" if not archive.exists else error.problem.split(" is ")[-1]
                gone[name] = why, 1.0
                continue
            if len(lost):
                text = f"{len(lost)} of {len(listed)} frames, the first {lost[0]:06d}"
                gone[name] = text, len(lost) / len(listed)
        return gone

    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether the picture, and its matte where the camera has some, are there."""
        masks = self._masks.get(camera)
        return (
            camera in self._images
            and timestep.index in self._images[camera]
            and (masks is None or not masks.exists or timestep.index in masks)
        )

    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Read one picture; with a shipped soft matte, it is composited on white, in linear light.

        Where the data set has a clean plate of the camera, the background is subtracted first,
        so that it does not shine through hair.
        """
        archive = self._archive_of(self._images, camera)
        where = f"{archive.path}, frame {timestep.index:06d}"
        linear = rgb_of(decode_picture(archive.read(timestep.index), where), where)
        height, width = linear.shape[:2]
        seen = self._camera(camera, width, height, where)
        if self._masks[camera].exists:
            soft = self._mask(timestep, camera, (width, height))
            return RawView(self._on_white(linear, soft, camera), seen, soft, "white")
        matte = None
        if self._parts[camera].exists:
            labels = self.labels(timestep, camera, (width, height))
            matte = np.where((labels == 0) | (labels == CHAIR), 0, 255).astype(np.uint8)
        image = np.stack([_TABLE[linear[..., c], c] for c in range(3)], axis=-1)
        return RawView(image, seen, matte)

    def camera(self, timestep: Timestep, camera: str) -> Camera | None:
        """Return a camera for the size of the capture's first picture."""
        self._archive_of(self._images, camera)
        return self._camera(camera, *self._size, f"{self.path}, camera {camera}")

    def labels(
        self, timestep: Timestep, camera: str, size: tuple[int, int] | None = None
    ) -> UInt8[np.ndarray, "h w"]:
        """Return the segmentation as shipped, resized to (width, height) where it differs.

        0 background, 1 hair, 2 body, 3 chair, 4 apparel, 5 lenses, 6 upper lip, 7 lower lip,
        8 upper teeth, 9 lower teeth, 10 tongue.
        """
        archive = self._archive_of(self._parts, camera)
        where = f"{archive.path}, frame {timestep.index:06d}"
        labels = grey_of(decode_picture(archive.read(timestep.index), where), where)
        if size is None or labels.shape == size[::-1]:
            return labels
        return np.asarray(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))

    def head_to_world(self, timestep: Timestep) -> Float64[np.ndarray, "4 4"] | None:
        """Return the tracked head pose, made orthonormal."""
        if not self._poses.exists:
            return None
        where = f"{self._poses.path}, frame {timestep.index:06d}"
        try:
            text = self._poses.read(timestep.index).decode("ascii")
            values = np.array(text.split(), np.float64).reshape(3, 4)
            rotation, _ = nearest_rotation(values[:, :3])
        except (ValueError, CameraError) as error:
            raise MissingItemError(f"{where} is not a pose of 3x4 numbers.", str(error)) from error
        if not np.isfinite(values).all():
            raise MissingItemError(f"{where} is not finite.", "Leave this frame out.")
        H = np.eye(4)
        H[:3, :3], H[:3, 3] = rotation, values[:, 3] * MILLIMETRE
        return H

    def mesh(self, timestep: Timestep) -> Float32[np.ndarray, "n 3"] | None:
        """Return the registered vertices, which the data set keeps in the head's frame."""
        H = self.head_to_world(timestep) if self._meshes.exists else None
        if H is None:
            return None
        where = f"{self._meshes.path}, frame {timestep.index:06d}"
        vertices = read_vertices(self._meshes.read(timestep.index), where) * MILLIMETRE
        if len(vertices) != VERTICES:
            raise MissingItemError(
                f"{where} has {len(vertices)} vertices, not {VERTICES}.",
                "Meshes of other releases have another topology.",
            )
        return (vertices @ H[:3, :3].T + H[:3, 3]).astype(np.float32)

    def keypoints(self, timestep: Timestep) -> Float32[np.ndarray, "n 3"] | None:
        """Return 274 keypoints by their number; nan where the data set has none."""
        if not self._points.exists:
            return None
        where = f"{self._points.path}, frame {timestep.index:06d}"
        rows = load_array(self._points.read(timestep.index), where)
        points = np.full((KEYPOINTS, 3), np.nan, np.float32)
        fits = rows.ndim == 2 and rows.shape[1] == 6 and rows.dtype.kind == "f"
        known = fits and np.isin(rows[:, 0], np.arange(KEYPOINTS)).all()
        if not known or not (np.abs(rows[:, 1:4]) < 1e6).all():
            raise MissingItemError(
                f"{where} is {rows.dtype} {list(rows.shape)}, not rows of id, x, y, z, "
                "confidence, inliers.",
                "Download it again.",
            )
        points[rows[:, 0].astype(int)] = rows[:, 1:4] * MILLIMETRE
        return points

    def close(self) -> None:
        """Close all archives."""
        for some in (self._images, self._masks, self._parts):
            for archive in some.values():
                archive.close()
        for archive in (self._plates, self._poses, self._points, self._meshes):
            archive.close()

    def _archive(self, name: str, camera: str, ending: str) -> Archive:
        return Archive(self._root / name, rf"(?:cam{re.escape(camera)}/)?(\d{{1,9}})\.{ending}")

    def _numbered(self, name: str, ending: str) -> Archive:
        return Archive(self._root / name, rf"(?:\w+/)?(\d{{1,9}})\.{ending}")

    def _archive_of(self, archives: Mapping[str, Archive], camera: str) -> Archive:
        if camera not in archives:
            raise MissingItemError(
                f"{self.path} has no camera {camera}.", f"It has {', '.join(self.cameras[:5])}, ..."
            )
        return archives[camera]

    def _facts(self) -> dict[str, str]:
        masks = sum(a.exists for a in self._masks.values())
        parts = sum(a.exists for a in self._parts.values())
        return {
            "matte": f"foreground_masks of {masks} cameras"
            if masks
            else f"segmentation_parts of {parts} cameras, hard edges"
            if parts
            else "none shipped",
            "background": "subtracted (clean plates)" if self._plates.exists else "as it is",
            "head pose": "head_pose.zip" if self._poses.exists else "none shipped",
            "size": "x".join(map(str, self._size)),
        }

    @cached_property
    def _size(self) -> tuple[int, int]:
        """Width and height of the first picture that can be read."""
        for camera in self.cameras:
            archive = self._images[camera]
            try:
                for number in archive.numbers()[:3]:
                    return decode_picture(archive.read(int(number)), archive.path).size
            except MissingItemError:
                continue
        raise InputError(
            f"No picture of {self.path} can be read.", "Download the asset `image` again."
        )

    def _camera(self, camera: str, width: int, height: int, where: str) -> Camera:
        calibration = self._calibration[camera]
        sx, sy = width / FULL_WIDTH, height / FULL_HEIGHT
        if abs(sx / sy - 1) > 0.01:
            raise MissingItemError(
                f"{where} is {width}x{height}; pictures are portraits of the proportions "
                f"{FULL_WIDTH}x{FULL_HEIGHT}.",
                "Download it again; a picture that was cut or turned does not fit its camera.",
            )
        K = calibration.K * np.array([[sx], [sy], [1.0]])
        E = torch.from_numpy(calibration.world_to_camera)
        return Camera(E, torch.from_numpy(K), width, height)

    def _mask(self, timestep: Timestep, camera: str, size: tuple[int, int]) -> Matte:
        archive = self._masks[camera]
        where = f"{archive.path}, frame {timestep.index:06d}"
        mask = grey_of(decode_picture(archive.read(timestep.index), where), where)
        if mask.shape == size[::-1]:
            return mask
        return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.BILINEAR))

    def _on_white(self, linear: Rgb, matte: Matte, camera: str) -> Rgb:
        edge = (matte > 0) & (matte < 255)
        cover = matte[edge][:, None] / 255.0
        head = linear[edge] / 255.0
        plate = self._plate(camera, (linear.shape[1], linear.shape[0]))
        head = head * cover if plate is None else head - (1 - cover) * plate[edge] / 255.0
        out = np.stack([_TABLE[linear[..., c], c] for c in range(3)], axis=-1)
        out[edge] = np.round(255 * to_srgb(head.clip(0) + (1 - cover) * LINEAR_WHITE))
        out[matte == 0] = 255
        return out

    def _plate(self, camera: str, size: tuple[int, int]) -> Rgb | None:
        if not camera.isdigit() or int(camera) not in self._plates:
            return None
        where = f"{self._plates.path}, camera {camera}"
        plate = decode_picture(self._plates.read(int(camera)), where)
        return rgb_of(plate if plate.size == size else plate.resize(size), where)


def read_calibration(path: Path) -> dict[str, _Calibration]:
    """Read the cameras by name.

    Raises:
        InputError: If the file is missing, or not transposed matrices in millimetres.
    """
    cameras: dict[str, _Calibration] = {}
    for i, entry in enumerate(need(read_json(path), "KRT", list, path)):
        where = f"{path}, camera {i}"
        if not isinstance(entry, dict):
            raise InputError(f"{where} is not an object.", DRIFTED)
        name = str(need(entry, "cameraId", (str, int), where))
        if entry.get("projectionModel", "Pinhole") != "Pinhole" or not re.fullmatch(
            r"[0-9A-Za-z]{1,32}", name
        ):
            raise InputError(
                f"{where} ({name[:32]}) has the projection {entry.get('projectionModel')!r}.",
                "Only pinhole cameras with plain names are known in this data set.",
            )
        cameras[name] = _entry(entry, where)
    if not cameras:
        raise InputError(f"{path} lists no cameras.", "Download it again.")
    distance = float(
        np.median([np.linalg.norm(c.world_to_camera[:3, 3]) for c in cameras.values()])
    )
    if not 0.2 < distance < 20:
        raise InputError(
            f"{path}: cameras are {distance / MILLIMETRE:.4g} units away from the head.",
            "Lengths are millimetres in this data set, with cameras about 1000 of them away.",
        )
    return cameras


def _entry(entry: Mapping[str, Any], where: str) -> _Calibration:
    stored = matrix(need(entry, "K", list, where), (3, 3), f"{where}, K")
    T = matrix(need(entry, "T", list, where), (4, 4), f"{where}, T")
    if np.abs(T[:, 3] - [0, 0, 0, 1]).max() > 1e-6 or np.abs(stored[:, 2] - [0, 0, 1]).max() > 1e-6:
        raise InputError(
            f"{where}: K or T is not stored transposed (translation and principal point in the "
            "last row).",
            "This is not the calibration of Ava-256's downloads.",
        )
    K = stored.T.copy()
    try:
        rotation, _ = nearest_rotation(T[:3, :3].T)
    except CameraError as error:
        raise InputError(f"{where}: {error.problem}", error.remedy) from error
    inside = 0 < K[0, 2] < FULL_WIDTH and 0 < K[1, 2] < FULL_HEIGHT
    if not inside or min(K[0, 0], K[1, 1]) < FULL_HEIGHT / 10:
        raise InputError(
            f"{where}: the principal point ({K[0, 2]:g}, {K[1, 2]:g}) or focal length "
            f"{K[0, 0]:g} does not fit the sensor of {FULL_WIDTH}x{FULL_HEIGHT}.",
            "The calibration is for the full sensor.",
        )
    E = np.eye(4)
    E[:3, :3], E[:3, 3] = rotation, T[3, :3] * MILLIMETRE
    return _Calibration(E, K)


def read_frames(path: Path) -> tuple[Timestep, ...]:
    """Read the frame list; the numbers in it are not padded.

    Raises:
        InputError: If the file is missing, or its columns are not seg_id, frame_id.
    """
    try:
        text = read_small(path, "the frame list").decode()
    except (FormatError, ValueError) as error:
        raise InputError(f"{path} cannot be read.", "Download it again.") from error
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error as error:
        raise InputError(f"{path} is not a table ({error}).", "Download it again.") from error
    head = [name.strip() for name in rows[0]] if rows else []
    if head != ["seg_id", "frame_id"]:
        raise InputError(f"{path} has the columns {head}, not seg_id and frame_id.", DRIFTED)
    steps: dict[Timestep, None] = {}
    for line, row in enumerate(rows[1:], 2):
        if not row:
            continue
        fits = len(row) == 2 and re.fullmatch(r"[\w+.-]+", row[0].strip())
        if not fits or not re.fullmatch(r"\d{1,9}", row[1].strip(), re.ASCII):
            raise InputError(
                f"{path}, line {line}: {','.join(row)[:60]!r} is not a frame.", DRIFTED
            )
        steps[Timestep(row[0].strip(), int(row[1]))] = None
    if not steps:
        raise InputError(f"{path} lists no frames.", "Download it again.")
    return tuple(steps)
