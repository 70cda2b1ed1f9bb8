"""Stand-ins for foreign networks, and a data set that only the tests know."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.captures.capture import Capture, RawView, Timestep
from pipeline.core.arrays import Alpha, Rgb
from pipeline.core.errors import MissingItemError
from pipeline.core.geometry import project
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.layouts import MAKEHUMAN, neutral_code
from pipeline.faces.makehuman import mean_landmarks
from pipeline.perception import detectors, matting
from pipeline.perception.detectors import DetectorEntry, register_detector
from pipeline.perception.landmarks import MESH_HEAD, Face
from pipeline.perception.matting import MattingModel, register_matting
from tests.captures.studio import AVA, NERSEMBLE, WALL, Studio, over, shoot

ENDING = ".toy.npz"


def everybody() -> MattingModel:
    """Make a network that takes all it sees for the person."""
    return lambda rgb: np.ones(rgb.shape[:2], np.float32)


@dataclass(frozen=True)
class WallMatting:
    """Mattes of pictures from the studio: the person is what has not the wall's colour."""

    wall: tuple[int, int, int]

    def __call__(self, rgb: Rgb) -> Alpha:
        far = np.abs(rgb.astype(int) - self.wall).max(-1)
        return (far / np.float32(40)).clip(0, 1).astype(np.float32)


def as_mesh(landmarks: np.ndarray) -> np.ndarray:
    """Where the face mesh sees landmarks of the head model, head frame, metres."""
    return landmarks + (MESH_HEAD - mean_landmarks())


class StudioDetector:
    """Finds the landmarks of the studio's pictures, which it knows by heart.

    It means the same points of a face as the face mesh does.
    """

    def __init__(self, width: int, height: int, span: float, wall: tuple[int, int, int]) -> None:
        self.known: list[tuple[np.ndarray, np.ndarray]] = []
        studio = shoot(width, height, span=span)
        for t, row in enumerate(studio.frames):
            for i, frame in enumerate(row):
                points = torch.from_numpy(studio.in_world(as_mesh(frame.landmarks), t)).double()
                pixels = project(studio.rig[i], points)[0].numpy()
                self.known.append((over(frame, wall).astype(int), pixels))

    def __call__(self, rgb: Rgb) -> list[Face]:
        pixels = min(self.known, key=lambda one: float(np.abs(one[0] - rgb).mean()))[1]
        left, top, right, bottom = *pixels.min(0).tolist(), *pixels.max(0).tolist()
        return [Face((left, top, right, bottom), pixels, 1.0)]


class ToyCapture(Capture):
    """One capture in one file, with cameras and poses, without mattes."""

    source = "toy"
    color = "as-drawn"

    def __init__(self, path: Path) -> None:
        self.name = self.subject = path.name.removesuffix(ENDING)
        with np.load(path) as file:
            self._arrays = {name: file[name] for name in file.files}
        count, views = self._arrays["rgb"].shape[:2]
        self.cameras = tuple(f"c{v}" for v in range(views))
        self.timesteps = tuple(Timestep("toy", t) for t in range(count))
        self.facts = {"mattes": "none shipped"}

    @property
    def layout(self) -> str:
        return MAKEHUMAN

    def missing(self) -> Mapping[str, str]:
        return {}

    def has(self, timestep: Timestep, camera: str) -> bool:
        return timestep in self.timesteps and camera in self.cameras

    def view(self, timestep: Timestep, camera: str) -> RawView:
        if not self.has(timestep, camera):
            raise MissingItemError("There is no such picture.", "Choose another.")
        image = self._arrays["rgb"][timestep.index, self.cameras.index(camera)]
        return RawView(image, self.camera(timestep, camera), None)

    def camera(self, timestep: Timestep, camera: str) -> Camera:
        v = self.cameras.index(camera)
        height, width = self._arrays["rgb"].shape[2:4]
        E, K = (torch.from_numpy(self._arrays[name][v]) for name in ("E", "K"))
        return Camera(E, K, width, height)

    def head_to_world(self, timestep: Timestep) -> np.ndarray:
        return self._arrays["pose"][timestep.index]

    def code(self, timestep: Timestep) -> ExpressionCode:
        return neutral_code(MAKEHUMAN)


def find(root: Path) -> dict[str, Path]:
    return {path.name.removesuffix(ENDING): path for path in root.glob(f"*{ENDING}")}


def write(root: Path, studio: Studio, name: str = "tom") -> Path:
    rgb = np.stack([[over(frame) for frame in row] for row in studio.frames])
    E, K = studio.rig.world_to_camera.numpy(), studio.rig.K.numpy()
    np.savez(root / f"{name}{ENDING}", rgb=rgb, E=E, K=K, pose=studio.head_to_world)
    return root


def register_studio(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register networks that know the studio while a test runs: `wall`, `ava`, `nersemble`."""
    for module, name in ((matting, "MATTING"), (detectors, "DETECTORS")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    register_matting("wall", partial(WallMatting, WALL))
    for name, size in (("ava", AVA), ("nersemble", NERSEMBLE)):
        knows = partial(StudioDetector, *size.values(), WALL)
        register_detector(name, DetectorEntry(knows, MESH_HEAD))
