"""Faces and their 68 landmarks in a picture.

Letters: f faces, m points of the dense face mesh (468), h height, w width.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64
from PIL import Image

from pipeline.core.arrays import Rgb
from pipeline.core.errors import MissingPackageError
from pipeline.system import weights

MESH_TO_IBUG: tuple[tuple[int, ...], ...] = (
    *((127,), (234,), (93,), (132, 58), (58, 172), (136,), (150,), (176,), (152,)),
    *((400,), (379,), (365,), (397, 288), (361,), (323,), (454,), (356,)),
    *((70,), (63,), (105,), (66,), (107,), (336,), (296,), (334,), (293,), (300,)),
    *((168, 6), (197, 195), (5,), (4,), (75,), (97,), (2,), (326,), (305,)),
    *((33,), (160,), (158,), (133,), (153,), (144,)),
    *((362,), (385,), (387,), (263,), (373,), (380,)),
    *((61,), (39,), (37,), (0,), (267,), (269,), (291,)),
    *((321,), (314,), (17,), (84,), (91,)),
    *((78,), (82,), (13,), (312,), (308,), (317,), (14,), (87,)),
)
"""For each iBUG landmark the points of the face mesh whose mean stands nearest to it.

Source: the correspondence published by Peizhi Yan, Mediapipe_2_Dlib_Landmarks, 2024.
"""

MIRROR = np.array(
    [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
    + [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
    + [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), 67, 66, 65]
)
"""The landmark on the other side of the face for each landmark."""

# fmt: off
MESH_HEAD: Float64[np.ndarray, "68 3"] = np.array([
    (-73, 26, 40), (-72, 12, 35), (-71, -2, 36), (-67, -21, 38), (-60, -41, 46), (-49, -57, 60),
    (-39, -65, 70), (-22, -76, 83), (0, -81, 92), (22, -76, 83), (39, -65, 70), (49, -57, 60),
    (60, -41, 46), (67, -21, 38), (71, -2, 36), (72, 12, 35), (73, 26, 40),
    (-58, 42, 77), (-51, 47, 84), (-41, 50, 92), (-29, 49, 98), (-14, 46, 101), (14, 46, 101),
    (29, 49, 98), (41, 50, 92), (51, 47, 84), (58, 42, 77),
    (0, 28, 103), (0, 13, 111), (0, 3, 118), (0, -5, 121), (-14, -16, 106), (-7, -20, 108),
    (0, -20, 110), (7, -20, 108), (14, -16, 106),
    (-46, 28, 82), (-38, 31, 87), (-27, 31, 88), (-17, 26, 89), (-26, 24, 89), (-37, 24, 87),
    (17, 26, 89), (27, 31, 88), (38, 31, 87), (46, 28, 82), (37, 24, 87), (26, 24, 89),
    (-24, -42, 95), (-14, -34, 106), (-7, -33, 110), (0, -33, 111), (7, -33, 110), (14, -34, 106),
    (24, -42, 95), (19, -46, 100), (8, -51, 105), (0, -51, 107), (-8, -51, 105), (-19, -46, 100),
    (-21, -41, 94), (-5, -39, 105), (0, -40, 106), (5, -39, 105), (21, -41, 94), (6, -42, 105),
    (0, -42, 106), (-6, -42, 105),
], float) / 1000
# fmt: on
"""Where `MeshDetector` sees the landmarks of the average head, metres, head frame.

Up to 12 mm from the head model's own landmarks: the two mean different points of a face.
Measured by tools/measure_mesh_head.py.
"""

MIN_SCORE = 0.5
OVERLAP = 0.3
"""Boxes that share more than this (intersection over union) are one face."""
SMALLEST_TILE = 64
"""Pixels of a side; what is smaller was seen well enough in the whole picture."""
MESH_MARGIN = 1.5
"""Side of the mesh network's square over the detected box's, as in its training."""


@dataclass(frozen=True)
class Face:
    """One face in a picture. Pixels, the top left pixel's centre at (0.5, 0.5)."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    landmarks: Float64[np.ndarray, "68 2"]
    """iBUG order: outline from the subject's right ear to the left, brows, nose, eyes, mouth."""
    score: float
    """How sure the detector is, in [0, 1]."""

    @property
    def size(self) -> float:
        """Longer side of the box, pixels."""
        left, top, right, bottom = self.box
        return max(right - left, bottom - top)


Detector = Callable[[Rgb], list[Face]]
"""Gives the faces of a picture, in any order; none if it sees none."""


@runtime_checkable
class Following(Protocol):
    """A detector that sees a face again at less cost where it was a frame before."""

    def __call__(self, rgb: Rgb) -> list[Face]:
        """Return the faces of a picture, as any `Detector`."""
        ...

    def again(self, rgb: Rgb, face: Face) -> Face | None:
        """Return the face that was `face` a frame before; none if it is not there any more."""
        ...


class MeshDetector:
    """Finds faces with BlazeFace and their landmarks with the 468-point face mesh.

    The mesh is a surface, so a landmark that the head itself hides stays at its place on the
    head: that is what a camera fit against a 3D head wants, and it holds to near profile.

    Raises:
        MissingPackageError: If ai-edge-litert is not installed.
        MissingWeightsError: If one of the two weight files is not there.

    Source:
        Bazarevsky et al., BlazeFace, and Kartynnik et al., Real-time Facial Surface Geometry
        from Monocular Video on Mobile GPUs, both CVPR workshops 2019; pre- and postprocessing
        as the graphs of MediaPipe 0.8 (Apache-2.0) describe them.
    """

    def __init__(self) -> None:
        self._detect = _Net("face_detection_back")
        self._mesh = _Net("face_landmark")
        self._anchors = _anchors(256)

    def __call__(self, rgb: Rgb) -> list[Face]:
        """Return the faces of a picture; the surest first."""
        picture = Image.fromarray(rgb)
        whole = [(0.0, 0.0, float(picture.width), float(picture.height))]
        # A small face in a large picture is below the network's resolution: look closer.
        closer = [_tiles(*picture.size, part) for part in (0.6, 0.3)
                  if min(picture.size) * part >= SMALLEST_TILE]  # fmt: skip
        for tiles in (whole, *closer):
            found = _apart([box for tile in tiles for box in self._boxes(picture, tile)])
            faces = [self._landmarks(picture, box) for box in found]
            if sure := [face for face in faces if face is not None]:
                return sure
        return []

    def _boxes(
        self, picture: Image.Image, area: tuple[float, float, float, float]
    ) -> list[tuple[float, Float64[np.ndarray, "8 2"]]]:
        """Return score and (corner, corner, six keypoints) of the faces in an area."""
        left, top, right, bottom = area
        side = max(right - left, bottom - top)
        middle = np.array([(left + right) / 2, (top + bottom) / 2])
        raw, scores = self._detect(cut_square(picture, middle, side, 0.0, 256) * 2 - 1)
        points = raw.reshape(-1, 8, 2).astype(float) / 256
        points[:, [0, *range(2, 8)]] += self._anchors[:, None]
        half = points[:, 1] / 2
        points[:, 0], points[:, 1] = points[:, 0] - half, points[:, 0] + half
        sure = _sigmoid(scores.reshape(-1))
        points = middle + (points - 0.5) * side
        return [(float(sure[i]), points[i]) for i in np.flatnonzero(sure > MIN_SCORE)]

    def again(self, rgb: Rgb, face: Face) -> Face | None:
        """Return the face that was `face` a frame before; none if it is not there any more."""
        corners = np.array(face.box).reshape(2, 2)
        place = corners.mean(0), face.size * MESH_MARGIN
        eyes = face.landmarks[36], face.landmarks[45]
        return self._look(Image.fromarray(rgb), *place, *eyes, face.score, passes=2)

    def _landmarks(
        self, picture: Image.Image, found: tuple[float, Float64[np.ndarray, "8 2"]]
    ) -> Face | None:
        score, points = found
        side = float((points[1] - points[0]).max()) * MESH_MARGIN
        # The box of a small or turned head is poor.
        return self._look(picture, points[:2].mean(0), side, points[2], points[3], score, passes=4)

    def _look(
        self,
        picture: Image.Image,
        middle: Float64[np.ndarray, "2"],
        side: float,
        right_eye: Float64[np.ndarray, "2"],
        left_eye: Float64[np.ndarray, "2"],
        score: float,
        passes: int,
    ) -> Face | None:
        """Return the face in a square; each pass starts from the mesh before."""
        mesh = None
        for _ in range(passes):
            angle = float(np.arctan2(*(left_eye - right_eye)[::-1]))
            raw, sure = self._mesh(cut_square(picture, middle, side, angle, 192))
            if _sigmoid(sure).item() < MIN_SCORE and mesh is None:
                return None
            local = (raw.reshape(468, 3)[:, :2].astype(float) / 192 - 0.5) * side
            mesh = middle + local @ _turn(angle).T
            right_eye, left_eye = mesh[33], mesh[263]
            upright = mesh @ _turn(float(np.arctan2(*(left_eye - right_eye)[::-1])))
            low, high = upright.min(0), upright.max(0)
            middle = _turn(float(np.arctan2(*(left_eye - right_eye)[::-1]))) @ ((low + high) / 2)
            side = float((high - low).max()) * MESH_MARGIN
        assert mesh is not None
        landmarks = np.stack([mesh[list(ids)].mean(0) for ids in MESH_TO_IBUG])
        (left, top), (right, bottom) = mesh.min(0).tolist(), mesh.max(0).tolist()
        return Face((left, top, right, bottom), landmarks, score)


class _Net:
    """A LiteRT network with one input picture, for any number of threads."""

    def __init__(self, name: str) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415
        except ImportError as error:
            raise MissingPackageError(
                "Finding faces needs the package ai-edge-litert.",
                "Install it: pip install 'fastgha[prep]'",
            ) from error
        path = str(weights.find(name))
        self._make: Callable[[], Any] = lambda: Interpreter(model_path=path, num_threads=1)
        self._own = threading.local()
        """An interpreter keeps the picture it is at: each thread has one of its own."""

    def __call__(self, picture: Float32[np.ndarray, "h w 3"]) -> list[np.ndarray]:
        if not hasattr(self._own, "net"):
            net = self._own.net = self._make()
            net.allocate_tensors()
            self._own.into = net.get_input_details()[0]["index"]
            self._own.out = [d["index"] for d in net.get_output_details()]
        net = self._own.net
        net.set_tensor(self._own.into, picture[None])
        net.invoke()
        return [net.get_tensor(i).copy() for i in self._own.out]


def cut_square(
    picture: Image.Image, middle: np.ndarray, side: float, angle: float, size: int
) -> Float32[np.ndarray, "size size 3"]:
    """Cut a turned square and give it at `size`, in [0, 1]; black outside the picture."""
    shrink = max(int(side / size), 1)
    if shrink > 1:  # a transform takes single pixels: average first
        picture = picture.reduce(shrink)
    step = side / size / shrink
    turn = _turn(angle) * step
    corner = middle / shrink - turn @ np.full(2, size / 2)
    coefficients = (*turn[0].tolist(), float(corner[0]), *turn[1].tolist(), float(corner[1]))
    cut = picture.transform(
        (size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(cut, np.float32) / 255


def _turn(angle: float) -> Float64[np.ndarray, "2 2"]:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _tiles(width: int, height: int, part: float) -> list[tuple[float, float, float, float]]:
    """Return half overlapping squares with a side of `part` of the picture's shorter one."""
    side = min(width, height) * part
    columns = np.linspace(0, width - side, max(2, round(2 * width / side) - 1))
    rows = np.linspace(0, height - side, max(2, round(2 * height / side) - 1))
    return [(float(x), float(y), float(x + side), float(y + side)) for y in rows for x in columns]


def _anchors(size: int) -> Float64[np.ndarray, "n 2"]:
    """Return the centres that the detector's boxes refer to: 2 a cell at 1/16, 6 a cell at 1/32."""
    grids: list[np.ndarray] = []
    for stride, boxes in ((16, 2), (32, 6)):
        ticks = (np.arange(size // stride) + 0.5) * stride / size
        y, x = np.meshgrid(ticks, ticks, indexing="ij")
        grids.append(np.repeat(np.stack([x, y], -1).reshape(-1, 2), boxes, axis=0))
    return np.concatenate(grids)


def _apart(
    found: list[tuple[float, Float64[np.ndarray, "8 2"]]],
) -> list[tuple[float, Float64[np.ndarray, "8 2"]]]:
    """Merge boxes of one face: the mean weighted by score, with the best score."""
    left = sorted(found, key=lambda item: -item[0])
    faces: list[tuple[float, Float64[np.ndarray, "8 2"]]] = []
    while left:
        best = left[0]
        same = [item for item in left if item is best or _overlap(item[1], best[1]) > OVERLAP]
        left = [item for item in left if not any(item is other for other in same)]
        points = np.average([p for _, p in same], axis=0, weights=[s for s, _ in same])
        faces.append((best[0], points))
    return faces


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    shared = np.clip(np.minimum(a[1], b[1]) - np.maximum(a[0], b[0]), 0, None).prod()
    return float(shared / ((a[1] - a[0]).prod() + (b[1] - b[0]).prod() - shared))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(x.astype(float), -80, 80)))
