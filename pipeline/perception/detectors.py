"""Detectors of landmarks by name, behind the interface of `pipeline.perception.landmarks`.

To add one, write a `Detector` and register it: `register_detector`. One that is `Following`, too,
makes videos cheaper.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from pipeline.core.arrays import Rgb
from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError, MissingPackageError
from pipeline.faces.makehuman import mean_landmarks
from pipeline.perception.device import network_device
from pipeline.perception.landmarks import MESH_HEAD, Detector, Face, MeshDetector
from pipeline.system import weights
from pipeline.system.host import link

FAN_WEIGHTS = ("s3fd", "fan_2d")


class FanDetector:
    """68 landmarks of the visible outline, by the network of face-alignment.

    Raises:
        MissingPackageError: If face-alignment is not installed.
        MissingWeightsError: If its weights are not on this machine; nothing is downloaded.

    Source:
        Bulat and Tzimiropoulos, How far are we from solving the 2D and 3D face alignment
        problem?, ICCV 2017.
    """

    def __init__(self) -> None:
        try:
            import face_alignment  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingPackageError(
                "The detector fan needs the package face-alignment.",
                "Install it: pip install 'fastgha[prep]', or choose the detector mesh.",
            ) from error
        with _hub_of([weights.find(name) for name in FAN_WEIGHTS]):
            self._net: Any = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D, device=network_device(), compile=False
            )

    def __call__(self, rgb: Rgb) -> list[Face]:
        """Return the faces of a picture."""
        points, scores, _ = self._net.get_landmarks_from_image(rgb, return_landmark_score=True)
        faces: list[Face] = []
        # Its pixels are counted from 0 at the centre of the first one.
        for found, score in zip(points or [], scores or []):
            marks = np.asarray(found, np.float64)[:, :2] + 0.5
            (left, top), (right, bottom) = marks.min(0).tolist(), marks.max(0).tolist()
            faces.append(Face((left, top, right, bottom), marks, float(np.mean(score))))
        return faces


@contextmanager
def _hub_of(files: list[Path]) -> Generator[None]:
    """Let torch's hub be a folder of these files: face-alignment looks for its weights there."""
    before = torch.hub.get_dir()
    with tempfile.TemporaryDirectory(prefix="fastgha-") as folder:
        there = Path(folder) / "checkpoints"
        there.mkdir()
        for file in files:
            link(file, there / file.name)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)


def best_detector() -> str:
    """Return the detector for cameras all around a head that can run here.

    fan sees profiles better, as its landmarks are those of the visible outline; mesh needs less.
    """
    if importlib.util.find_spec("face_alignment") is None:
        return "mesh"
    there = {status.weight.name for status in weights.table() if status.path is not None}
    return "fan" if there.issuperset(FAN_WEIGHTS) else "mesh"


@dataclass(frozen=True)
class DetectorEntry:
    """A detector that can be chosen by name."""

    make: Callable[[], Detector]
    head: Float64[np.ndarray, "68 3"] | None = None
    """Where it sees the landmarks of the average head, metres, head frame; None if where the head
    model has them."""

    def bias(self) -> Float64[np.ndarray, "68 3"]:
        """Return the way from the head model's landmarks to where this detector sees them."""
        return np.zeros((68, 3)) if self.head is None else self.head - mean_landmarks()


DETECTORS: dict[str, DetectorEntry] = {}
"""By name."""


def register_detector(name: str, entry: DetectorEntry) -> None:
    """Make a detector known, by a name; one of that name is replaced.

    Workers get the entry as a pickle, and load the network when they need it.
    """
    DETECTORS[name] = entry


def get_detector(name: str) -> DetectorEntry:
    """Return the entry of a detector, without loading it.

    Raises:
        ConfigError: If there is none of that name (the nearest one is given).
    """
    if name not in DETECTORS:
        raise ConfigError(f"There is no detector {name!r}.", nearest(name, list(DETECTORS)))
    return DETECTORS[name]


register_detector("mesh", DetectorEntry(MeshDetector, MESH_HEAD))
register_detector("fan", DetectorEntry(FanDetector))
