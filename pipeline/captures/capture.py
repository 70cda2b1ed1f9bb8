"""What every reader of raw captures gives: pictures, cameras and tracking, read lazily.

A reader converts at the border, once: pictures are upright, undistorted sRGB; lengths are metres;
cameras are OpenCV and go from the world (the frame of the camera rig) to the camera. Opening a
capture reads only its small files; a picture is read when it is asked for.

Letters: h height, w width, n points or vertices.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32, Float64

from pipeline.core.arrays import Matte, Rgb
from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.flame_fit import FlameFit

Backdrop = Literal["scene", "white", "black"]


@dataclass(frozen=True, order=True)
class Timestep:
    """One moment, seen by all cameras of a rig at once."""

    sentence: str
    """What the person was asked to do or say; timesteps of one sentence belong together."""
    index: int
    """Number of the frame as the data set counts them; unique within the sentence."""

    @property
    def name(self) -> str:
        """A name that is unique in the capture and fit for a file."""
        return f"{self.sentence}_{self.index:06d}"


@dataclass(frozen=True)
class RawView:
    """One picture as it was taken, in the project's conventions."""

    image: Rgb
    """sRGB, upright, undistorted, with its background."""
    camera: Camera | None
    """World to camera, float64, for this picture's size; None if the capture does not know it."""
    matte: Matte | None
    """Coverage by the person, if the capture ships it."""
    backdrop: Backdrop = "scene"
    """What is behind the person: the scene, or a colour on which it was composited already."""

    def __post_init__(self) -> None:
        height, width = self.image.shape[:2]
        if self.camera is not None and (self.camera.width, self.camera.height) != (width, height):
            raise ShapeError(
                f"The picture has {width}x{height} pixels, its camera "
                f"{self.camera.width}x{self.camera.height}.",
                "Scale the intrinsics to the picture.",
            )
        if self.matte is not None and self.matte.shape != (height, width):
            raise ShapeError(
                f"The matte has {list(self.matte.shape)} pixels, the picture {[height, width]}.",
                "Give both the same size.",
            )


class Capture(ABC):
    """One person in one data set's layout.

    A capture can be pickled: it leaves open files behind, and a worker opens its own.
    """

    subject: str
    """Name of the person; the same in every capture of it."""
    name: str
    """Name of this capture, unique among those of one root; fit for a file."""
    source: str
    """The data set's layout: ava256, nersemble, folder, photos, video."""
    color: str
    """How colours were brought to sRGB; a tag to be stored with what is made of them."""
    cameras: tuple[str, ...]
    """Names of the cameras, in a fixed order."""
    timesteps: tuple[Timestep, ...]
    """In the order in which they were taken, sentence by sentence."""
    facts: Mapping[str, str]
    """Where a layout has several readings, which one was met; for the report."""

    @abstractmethod
    def missing(self) -> Mapping[str, str]:
        """What should be there and is not, with the reason. May look into every archive."""

    def unexpected(self) -> Mapping[str, str]:
        """Return what of `missing` the data set is not known to lack: a download may be broken."""
        return self.missing()

    @abstractmethod
    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether there is a picture, without reading it."""

    @abstractmethod
    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Read one picture.

        Raises:
            MissingItemError: If it is not there or is damaged.
        """

    def camera(self, timestep: Timestep, camera: str) -> Camera | None:
        """Return a camera without decoding the picture, where that is possible.

        Raises:
            MissingItemError: If the picture that fixes its size cannot be read.
        """
        return self.view(timestep, camera).camera

    def focal(self, timestep: Timestep) -> float | None:
        """Return the focal length in pixels that a picture of an unknown camera tells, if any."""
        return None

    def head_to_world(self, timestep: Timestep) -> Float64[np.ndarray, "4 4"] | None:
        """Return the rigid motion from the head frame to the world, metres; None if not shipped.

        A FLAME tracking gives it only together with the model's joints: see `FlameFit`.

        Raises:
            MissingItemError: If the data set has poses, but this one is missing or damaged.
        """
        fit = self.flame(timestep)
        return None if fit is None else fit.head_to_world()

    def mesh(self, timestep: Timestep) -> Float32[np.ndarray, "n 3"] | None:
        """Return the tracked vertices in the world, metres; None if not shipped.

        Raises:
            MissingItemError: If the data set has meshes, but this one is missing or damaged.
        """
        return None

    def keypoints(self, timestep: Timestep) -> Float32[np.ndarray, "n 3"] | None:
        """Return the data set's 3D keypoints by their number, world, metres; nan where unknown.

        Raises:
            MissingItemError: If the data set has keypoints, but these are missing or damaged.
        """
        return None

    def flame(self, timestep: Timestep) -> FlameFit | None:
        """Return the FLAME parameters that a tracker left with the capture.

        Raises:
            MissingItemError: If there is a tracking, but not of this timestep.
        """
        return None

    def code(self, timestep: Timestep) -> ExpressionCode | None:
        """Return the expression code [120] of the shipped tracking."""
        fit = self.flame(timestep)
        return None if fit is None else fit.code()

    @property
    def layout(self) -> str | None:
        """Layout of the shipped codes; None if there are none."""
        return None

    def sentences(self) -> tuple[str, ...]:
        """Names of the sentences, in order."""
        return tuple(dict.fromkeys(t.sentence for t in self.timesteps))

    def close(self) -> None:  # noqa: B027  most readers keep nothing open
        """Close whatever files are open; the capture stays usable."""


def factor_head_pose(camera: Camera, head_to_world: Float64[np.ndarray, "4 4"]) -> Camera:
    """Return cameras of the head frame from cameras of the world: R' = R Rh, t' = R th + t."""
    H = torch.from_numpy(head_to_world).to(camera.K)
    return Camera(camera.world_to_camera @ H, camera.K, camera.width, camera.height)


def backdrop(image: Rgb, matte: Matte | None) -> Backdrop:
    """Say what is behind the person: a data set may have removed the background already."""
    if matte is None or not (matte == 0).any():
        return "scene"
    behind = image[matte == 0]
    if np.mean(behind >= 250) > 0.98:
        return "white"
    return "black" if np.mean(behind <= 5) > 0.98 else "scene"


def nearest_rotation(R: Float64[np.ndarray, "3 3"]) -> tuple[Float64[np.ndarray, "3 3"], float]:
    """Return the rotation nearest to a matrix, and how far it was from one (largest |RtR - I|).

    Raises:
        CameraError: If the matrix mirrors, or is nowhere near a rotation (more than 0.05 off).
    """
    error = float(np.abs(R.T @ R - np.eye(3)).max()) if np.isfinite(R).all() else np.inf
    if not error < 0.05 or np.linalg.det(R) < 0:
        raise CameraError(
            f"A matrix that should be a rotation is {error:.2g} away from one or mirrors.",
            "Check for a transposed, scaled or truncated file.",
        )
    U, _, Vt = np.linalg.svd(R)
    return U @ Vt, error


def natural(names: Iterable[str]) -> list[str]:
    """Sort names so that numbers in them count by size: cam2 before cam10."""

    def key(name: str) -> list[tuple[bool, int, str]]:
        parts = [part for part in re.split(r"([0-9]+)", name) if part]
        return [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts]

    return sorted(names, key=key)
