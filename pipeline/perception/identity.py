"""Networks that look at faces: who it is, and where its keypoints are.

Letters: n faces, k keypoints, h w size of a picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from pipeline.core.arrays import Rgb
from pipeline.core.errors import FormatError, MissingPackageError
from pipeline.perception.landmarks import Face, MeshDetector
from pipeline.system import weights

ARCFACE_POINTS: Float64[np.ndarray, "5 2"] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
"""Eyes, nose and mouth corners in the 112 x 112 picture that ArcFace networks were trained on."""
REMEMBERED = 4096
EYES, NOSE, MOUTH = (range(36, 42), range(42, 48)), 30, (48, 54)


class Faces:
    """Finds the surest face of a picture; the last pictures' are remembered for other metrics."""

    def __init__(self) -> None:
        self._detect = MeshDetector()
        self._known: dict[bytes, Face | None] = {}

    def __call__(self, rgb: Rgb) -> Face | None:
        """Return the face of a picture, or None."""
        key = hashlib.sha256(rgb.tobytes()).digest()
        if key not in self._known:
            found = self._detect(rgb)
            self._known[key] = max(found, key=lambda face: face.score) if found else None
            if len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return self._known[key]


@cache
def faces() -> Faces:
    """Return the finder of faces that all metrics share."""
    return Faces()


def aligned(rgb: Rgb, face: Face) -> UInt8[np.ndarray, "112 112 3"]:
    """Turn, scale and cut a face as ArcFace wants it: the best similarity onto its five points."""
    points = face.landmarks
    five = np.array(
        [points[list(eye)].mean(0) for eye in EYES] + [points[i] for i in (NOSE, *MOUTH)]
    )
    A, b = _similarity(ARCFACE_POINTS, five)  # from the small picture into the large one
    # Pillow asks for pixel centres at half numbers, as our points have them.
    coefficients = (A[0, 0], A[0, 1], b[0], A[1, 0], A[1, 1], b[1])
    cut = Image.fromarray(rgb).transform(
        (112, 112), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(cut)


class Identity:
    """A network of ArcFace's kind: 112 x 112 face to 512 numbers whose direction is the person.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
        MissingWeightsError: If the weights are not on this machine.
        FormatError: If they are not a network of this kind.

    Source:
        Deng et al., ArcFace, CVPR 2019.
    """

    def __init__(self, name: str) -> None:
        path = weights.find(name)
        self._net = _session(path)
        shape = self._net.get_inputs()[0].shape
        if list(shape[1:]) != [3, 112, 112]:
            raise FormatError(f"{path} takes {shape}, not 3x112x112.", "Get the file again.")
        self._input = self._net.get_inputs()[0].name

    def __call__(self, rgb: Rgb, face: Face) -> Float32[np.ndarray, "512"]:
        """Return the person's direction, of unit length."""
        x = (aligned(rgb, face).astype(np.float32) - 127.5) / 127.5
        found = self._net.run(None, {self._input: x.transpose(2, 0, 1)[None]})[0][0]
        return found / np.linalg.norm(found)


def mesh_keypoints(rgb: Rgb, face: Face) -> Float64[np.ndarray, "68 2"]:
    """Return the 68 landmarks of the face mesh."""
    return face.landmarks


class PipNet:
    """Keypoints by PIPNet as uniface runs it, in the box of our own detector.

    Raises:
        MissingPackageError: If uniface is not installed.
        MissingWeightsError: If its weights are not on this machine; uniface would fetch them.

    Source:
        Jin et al., Pixel-in-Pixel Net, IJCV 2021.
    """

    def __init__(self, name: str) -> None:
        path = weights.find(name)  # uniface would otherwise download, or hang without a network
        try:
            from uniface import set_cache_dir  # noqa: PLC0415  # pyright: ignore
            from uniface.constants import PIPNetWeights  # noqa: PLC0415  # pyright: ignore
            from uniface.landmark import PIPNet as Net  # noqa: PLC0415  # pyright: ignore
        except ImportError as error:
            raise MissingPackageError(
                "AKD by PIPNet needs the package uniface.", "Install it: pip install uniface"
            ) from error
        kinds = {"pipnet_98": PIPNetWeights.WFLW_98, "pipnet_68": PIPNetWeights.DW300_CELEBA_68}
        set_cache_dir(str(path.parent))
        self._net = Net(model_name=kinds[name])

    def __call__(self, rgb: Rgb, face: Face) -> Float64[np.ndarray, "k 2"]:
        """Return the keypoints in pixels."""
        bgr = np.ascontiguousarray(rgb[:, :, ::-1])  # uniface reads pictures as OpenCV does
        return np.asarray(self._net.get_landmarks(bgr, np.array(face.box)), float)


Keypoints = Callable[[Rgb, Face], Float64[np.ndarray, "k 2"]]


def keypoints(name: str) -> Keypoints:
    """Return a keypoint network by name: face_mesh, pipnet_98 or pipnet_68."""
    return mesh_keypoints if name == "face_mesh" else PipNet(name)


def _session(path: Path) -> Any:
    try:
        import onnxruntime  # noqa: PLC0415
    except ImportError as error:
        raise MissingPackageError(
            "Identities need the package onnxruntime.", "Install it: pip install 'fastgha[prep]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  a foreign file can fail in any way
        raise FormatError(f"{path} is not a network: {error}.", "Get the file again.") from error


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return A, b with y = A x + b by least squares over rotation, one scale and translation.

    In the plane such an A is [[p, -q], [q, p]]: linear in p, q and b.
    """
    rows = np.zeros((2 * len(x), 4))
    rows[0::2] = np.column_stack([x[:, 0], -x[:, 1], np.ones(len(x)), np.zeros(len(x))])
    rows[1::2] = np.column_stack([x[:, 1], x[:, 0], np.zeros(len(x)), np.ones(len(x))])
    p, q, bx, by = np.linalg.lstsq(rows, y.reshape(-1), rcond=None)[0]
    return np.array([[p, -q], [q, p]]), np.array([bx, by])
