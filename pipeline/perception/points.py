"""Where the vertices of the head model stand in a picture, how surely, and what the face does.

A small network of our own: it was trained on drawn people whose every vertex is known
(tools/train_points.py), so it sees the head model's own points, those of the skull, the ears and
the neck too, and says of each how far off it may be.

Letters: f faces, p points, s numbers of state, k numbers of identity, h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.core.arrays import Rgb
from pipeline.core.types import Camera
from pipeline.io.tensors import read_header
from pipeline.perception.landmarks import Face, cut_square
from pipeline.perception.mobilenet import MobileNetV2
from pipeline.perception.pretrained import imagenet
from pipeline.system.assets import POINTS

KIND, VERSION = "fastgha-points", 1

SIDE = 144
"""Pixels of the square that the network sees."""
MARGIN = 1.5
"""Its side over the longer side of the face's box."""
BOX_SCALE, BOX_DROP = 1.4, 0.04
"""Size of the head model's face over that of the detector's box, and how much higher it is."""
MAX_SLANT = 0.6
"""Radians that the line of the eyes may lean in an upright picture."""
CLOSE, ROOM, SMALL = 224, 1.2, 112
"""Pixels of a close-up, its side over that of what is in it, and under how many of the picture's
pixels that shows no detail."""
SQUEEZED, HIDDEN, MODES = 32, 320, 96
BOUND = 6.0
"""Of a logarithm of a standard deviation."""


@dataclass(frozen=True)
class Guess:
    """What the network says of some squares: means, and logarithms of standard deviations."""

    points: Float[Tensor, "f p 2"]
    """In halves of the square's side from its middle."""
    points_log: Float[Tensor, "f p"]
    numbers: Float[Tensor, "f n"]
    """State, then identity; in their own units divided by `PointsNet.unit`."""
    numbers_log: Float[Tensor, "f n"]


class PointsNet(nn.Module):
    """The first fourteen blocks of MobileNetV2, then two layers over the whole square.

    Points are a mean and a mixture of modes, which begin as the principal directions in which
    points move: so the network learns a hundred numbers and not a thousand.
    """

    def __init__(self, points: int, numbers: int) -> None:
        super().__init__()
        self.features = without_norms(MobileNetV2().eval().features)
        self.squeeze = nn.Conv2d(96, SQUEEZED, 1)
        self.hidden = nn.Linear(SQUEEZED * (SIDE // 16) ** 2, HIDDEN)
        self.modes = nn.Linear(HIDDEN, MODES)
        self.places = nn.Linear(MODES, 2 * points)
        self.spread = nn.Linear(HIDDEN, points)
        self.numbers = nn.Linear(HIDDEN, 2 * numbers)

    def forward(self, rgb: Float[Tensor, "f 3 h w"]) -> Guess:
        """Return what is seen in squares of `SIDE` pixels; colours in [0, 1]."""
        x = imagenet(rgb).contiguous(memory_format=torch.channels_last)
        x = nn.functional.relu6(self.squeeze(self.features(x)))
        x = nn.functional.relu6(self.hidden(x.flatten(1))).float()
        points = self.places(self.modes(x)).float().unflatten(-1, (-1, 2))
        mean, log = self.numbers(x).float().chunk(2, dim=-1)
        spread = self.spread(x).float()
        return Guess(points, spread.clamp(-BOUND, BOUND), mean, log.clamp(-BOUND, BOUND))


def without_norms(features: nn.Sequential) -> nn.Sequential:
    """Return blocks whose frozen normalisations are part of the convolutions before them."""
    for parts in list(features.modules()):
        if not isinstance(parts, nn.Sequential):
            continue
        for i, (conv, norm) in enumerate(pairwise(parts)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                parts[i], parts[i + 1] = fuse_conv_bn_eval(conv, norm), nn.Identity()
    return features


@dataclass(frozen=True)
class CloseUp:
    """The square of a picture that has the head in it."""

    grey: UInt8[np.ndarray, "s s"]
    place: Float64[np.ndarray, "3"]
    """Left, top and side of the square in the picture, pixels."""

    def camera(self, camera: Camera) -> Camera:
        """Return a camera of the picture as that of the square."""
        left, top, side = self.place.tolist()
        scale = len(self.grey) / side
        crop = [[scale, 0, -scale * left], [0, scale, -scale * top], [0, 0, 1]]
        K = torch.tensor(crop).to(camera.K) @ camera.K
        return Camera(camera.world_to_camera, K, len(self.grey), len(self.grey))


@dataclass(frozen=True)
class PointsSeen:
    """What the network sees of one face, in pixels of the picture."""

    points: Float64[np.ndarray, "p 2"]
    sigma: Float64[np.ndarray, "p"]
    numbers: Float64[np.ndarray, "n"]
    """State and identity, in the units of `pipeline.tracking.surface`."""
    numbers_sigma: Float64[np.ndarray, "n"]
    marks: Float64[np.ndarray, "68 2"] | None = None
    """The detector's landmarks of the same face."""
    close_up: CloseUp | None = None


SEEN = ("points", "sigma", "numbers", "numbers_sigma")
"""What is always told of a face."""


def seen_arrays(seen: Sequence[PointsSeen | None]) -> dict[str, np.ndarray]:
    """Return what is seen in some views for a file, by name; empty if no view shows a face.

    The first dimension is that of the views; nan, and a black close-up, where nothing is.
    """
    some = next((one for one in seen if one is not None), None)
    if some is None:
        return {}
    blank = {name: np.full_like(getattr(some, name), np.nan) for name in SEEN}
    blank |= {
        "marks": np.full((68, 2), np.nan),
        "grey": np.zeros((CLOSE, CLOSE), np.uint8),
        "place": np.full(3, np.nan),
    }
    rows: list[dict[str, np.ndarray]] = []
    for one in seen:
        row = dict(blank)
        if one is not None:
            row |= {name: x for name, x in vars(one).items() if isinstance(x, np.ndarray)}
            row |= {} if one.close_up is None else vars(one.close_up)
        rows.append(row)
    return {f"seen_{name}": np.stack([row[name] for row in rows]) for name in blank}


def seen_of(arrays: Mapping[str, np.ndarray]) -> list[PointsSeen | None]:
    """Return what `seen_arrays` was given, where it was not empty."""
    own = {name[5:]: x for name, x in arrays.items() if name.startswith("seen_")}
    found: list[PointsSeen | None] = []
    for v in range(len(own["points"])):
        row = {name: x[v] for name, x in own.items()}
        shown = CloseUp(row["grey"], row["place"]) if np.isfinite(row["place"]).all() else None
        marks = row["marks"] if np.isfinite(row["marks"]).all() else None
        one = PointsSeen(
            **{name: row[name] for name in SEEN},
            marks=marks,
            close_up=shown,
        )
        found.append(one if np.isfinite(one.sigma).any() else None)
    return found


def close_up(
    picture: Image.Image, points: Float64[np.ndarray, "p 2"], side: int = CLOSE
) -> CloseUp | None:
    """Cut the upright square around the points of a head out of a picture; none of a small one."""
    low, high = points.min(0), points.max(0)
    length = ROOM * float((high - low).max())
    if length < SMALL:
        return None
    middle = (low + high) / 2
    grey = cut_square(picture.convert("L"), middle, length, 0.0, side)
    place = np.append(middle - length / 2, length)
    return CloseUp((grey * 255).round().astype(np.uint8), place)


@dataclass(frozen=True)
class Square:
    """A turned square of a picture, pixels and radians."""

    middle: Float64[np.ndarray, "2"]
    side: float
    angle: float = 0.0


class PointsFinder:
    """Finds the head model's points in squares of pictures.

    Args:
        path: Weights; the shipped ones if not given.

    Raises:
        FormatError: If they are not those of such a network.
    """

    def __init__(self, path: Path = POINTS) -> None:
        read_header(path, KIND, VERSION)
        state = load_file(path)
        self.vertices = state.pop("vertices").numpy().astype(np.int64)
        """Control vertices of the head model that the points are."""
        self._face = state.pop("face").numpy()
        self._centre, self._unit = (state.pop(n).double().numpy() for n in ("centre", "unit"))
        self._net = PointsNet(len(self.vertices), len(self._centre))
        self._net.load_state_dict({name: value.float() for name, value in state.items()})
        self._net = self._net.eval().requires_grad_(False)

    def __call__(self, rgb: Rgb, face: Face, looks: int = 2) -> PointsSeen:
        """Return the points of a detected face.

        Args:
            rgb: The picture.
            face: Where a detector found it.
            looks: The first square is a guess from the face's box, each next one better.
        """
        eyes = face.landmarks[42:48].mean(0) - face.landmarks[36:42].mean(0)
        angle = float(np.arctan2(eyes[1], eyes[0]))
        left, top, right, bottom = face.box
        size = BOX_SCALE * face.size
        # Eyes of a turned head lie on a slant without any roll.
        angle = angle if abs(angle) > MAX_SLANT else 0.0
        down = np.array([-np.sin(angle), np.cos(angle)])
        middle = np.array([(left + right) / 2, (top + bottom) / 2]) - BOX_DROP * size * down
        square = Square(middle, MARGIN * size, angle)
        picture = Image.fromarray(rgb)
        seen = self.look(picture, square)
        for _ in range(looks - 1):
            seen = self.look(picture, self.square(seen))
        return replace(seen, marks=face.landmarks)

    def look(self, picture: Image.Image, square: Square) -> PointsSeen:
        """Return the points seen in one square."""
        cut = cut_square(picture, square.middle, square.side, square.angle, SIDE)
        guess = self._net(torch.from_numpy(cut).permute(2, 0, 1)[None])
        cos, sin = np.cos(square.angle), np.sin(square.angle)
        turn = np.array([[cos, -sin], [sin, cos]]) * square.side / 2
        points = guess.points[0].double().numpy() @ turn.T + square.middle
        sigma = np.exp(guess.points_log[0].double().numpy()) * square.side / 2
        numbers = guess.numbers[0].double().numpy() * self._unit + self._centre
        numbers_sigma = np.exp(guess.numbers_log[0].double().numpy()) * self._unit
        return PointsSeen(points, sigma, numbers, numbers_sigma)

    def square(self, seen: PointsSeen) -> Square:
        """Return the square to look at next where a face was seen: upright, and well in it."""
        eyes = seen.points[42:48].mean(0) - seen.points[36:42].mean(0)
        chin = seen.points[8] - (seen.points[42:48].mean(0) + seen.points[36:42].mean(0)) / 2
        # Up is across the eyes where they are seen apart, and along the face where not.
        across, along = np.array([-eyes[1], eyes[0]]), chin
        down = across + along
        angle = float(np.arctan2(-down[0], down[1]))
        cos, sin = np.cos(angle), np.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        upright = seen.points[self._face] @ turn
        low, high = upright.min(0), upright.max(0)
        return Square(turn @ ((low + high) / 2), MARGIN * float((high - low).max()), angle)
