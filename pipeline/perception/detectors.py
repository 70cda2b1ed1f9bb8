# pyright: basic
"""Detectors of landmarks by name, behind the interface of `pipeline.perception.landmarks`."""

from __future__ import annotations

from typing import Any
from urllib.error import URLError

import numpy as np

from pipeline.core.arrays import Rgb
from pipeline.core.errors import ConfigError, MissingPackageError, MissingWeightsError
from pipeline.perception.landmarks import Detector, Face, MeshDetector


class FanDetector:
    """68 landmarks of the visible outline, by the network of face-alignment.

    Raises:
        MissingPackageError: If face-alignment is not installed.
        MissingWeightsError: If its weights are neither here nor can be fetched.

    Source:
        Bulat and Tzimiropoulos, How far are we from solving the 2D and 3D face alignment
        problem?, ICCV 2017.
    """

    def __init__(self, device: str = "cpu") -> None:
        try:
            import face_alignment  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise MissingPackageError(
                "The detector fan needs the package face-alignment.",
                "Install it: pip install face-alignment, or choose the detector mesh.",
            ) from error
        try:
            self._net: Any = face_alignment.FaceAlignment(
                face_alignment.LandmarksType.TWO_D, device=device, compile=False
            )
        except (URLError, OSError) as error:
            raise MissingWeightsError(
                "The weights of face-alignment (s3fd-619a316812.pth, 2DFAN4-11f355bf06.pth.tar) "
                "are not here and cannot be fetched.",
                "Put them into $TORCH_HOME/hub/checkpoints, or choose the detector mesh.",
            ) from error

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


def make_detector(name: str) -> Detector:
    """Return a detector: mesh or fan.

    Raises:
        ConfigError: If there is none of that name.
    """
    known: dict[str, Any] = {"mesh": MeshDetector, "fan": FanDetector}
    if name not in known:
        raise ConfigError(f"There is no detector {name!r}.", f"Known: {', '.join(known)}.")
    return known[name]()
