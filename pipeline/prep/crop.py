"""Crop a picture to a square around the head, and its camera with it.

Letters: h height, w width, n points, s side of a crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from pipeline.captures.capture import Backdrop, RawView, factor_head_pose
from pipeline.core.errors import MissingItemError, ShapeError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.synthetic.cameras import TARGET

MIN_SIDE = 16
"""A smaller box, in pixels, shows nothing that could be recognised."""
MAX_OUTSIDE = 4.0
"""A box larger than so many pictures comes of a wrong pose or a wrong unit."""


@dataclass(frozen=True)
class Box:
    """A square of a picture, in pixels; may reach over the picture's edge."""

    left: float
    top: float
    side: float


@dataclass(frozen=True)
class CropConfig:
    """What a crop shows."""

    size: int = 512
    """Width and height of the crops, pixels."""
    around: Literal["head", "mesh", "matte"] = "head"
    """A square of fixed size at the head (needs its pose), or around the tracked vertices, or
    around the upper part of the matte. With the first, all people have one scale."""
    metres: float = 0.40
    """Side of the square at the head, for `head`."""
    center: tuple[float, float, float] = TARGET
    """The point in its middle, head frame, metres, for `head`."""
    margin: float = 0.25
    """Added on each side, as a share of the longer side of what the box is around, for `mesh`
    and `matte`."""


@dataclass(frozen=True)
class Crop:
    """A square picture with its camera."""

    image: UInt8[np.ndarray, "s s 3"]
    """sRGB; on white if there is a matte, else with its background, repeated from the edge where
    the box reaches over the picture."""
    alpha: UInt8[np.ndarray, "s s"] | None
    """Coverage by the person, if the capture ships it."""
    inside: UInt8[np.ndarray, "s s"]
    """255 where the picture is, 0 where only its repeated edge is; a matte made later is to be
    multiplied by it."""
    camera: Camera | None
    """Of the crop; in the frame that the picture's camera was in."""
    box: Box


def square_at_head(
    camera: Camera, metres: float, center: tuple[float, float, float] = TARGET
) -> Box:
    """Return the square of fixed size at the head.

    Args:
        camera: A single camera of the head frame.
        metres: Side of the square at the distance of `center`.
        center: The point in the middle, head frame.

    Raises:
        MissingItemError: If the point is behind the camera.
    """
    middle, depth = project(camera, torch.tensor([center]).to(camera.K))
    if not float(depth) > 0:
        raise MissingItemError(
            "The head is behind the camera.", "Check the pose and the camera of this picture."
        )
    side = float(camera.K[0, 0]) * metres / float(depth)
    left, top = (middle[0].double() - side / 2).tolist()
    return Box(left, top, side)


def square_around(points: Float[np.ndarray, "n 2"], margin: float) -> Box:
    """Return the square around points of a picture, with a margin on each side.

    Raises:
        MissingItemError: If no point is finite.
    """
    known = points[np.isfinite(points).all(axis=-1)]
    if not len(known):
        raise MissingItemError("There is nothing to crop to.", "Leave this picture out.")
    low, high = known.min(axis=0), known.max(axis=0)
    side = float((high - low).max()) * (1 + 2 * margin)
    left, top = ((low + high - side) / 2).tolist()
    return Box(left, top, side)


def square_on_matte(matte: UInt8[np.ndarray, "h w"], margin: float) -> Box:
    """Return the square around the upper part of a matte, where the head is.

    The person goes on below the head, so the box hangs from the top: down to the first row
    whose depth is 1.3 times the greatest width so far, the proportions of a head.

    Raises:
        MissingItemError: If the matte is empty.
    """
    solid = matte > 127
    rows = np.flatnonzero(solid.any(axis=1))
    if not len(rows):
        raise MissingItemError("The matte is empty.", "Leave this picture out.")
    top = int(rows[0])
    columns = [np.flatnonzero(solid[y]) for y in range(top, int(rows[-1]) + 1)]
    widths = np.array([c[-1] - c[0] + 1 if len(c) else 0 for c in columns])
    deep = np.arange(1, len(widths) + 1) >= 1.3 * np.maximum.accumulate(widths)
    height = int(deep.argmax()) + 1 if deep.any() else len(widths)
    head = [c for c in columns[:height] if len(c)]
    left, right = min(int(c[0]) for c in head), max(int(c[-1]) for c in head) + 1
    corners = np.array([[left, top], [right, top + height]], float)
    return square_around(corners, margin)


def cropped(camera: Camera, box: Box, size: int) -> Camera:
    """Return the camera of a square cut from a picture and resampled to `size` pixels."""
    corner = torch.tensor([box.left, box.top], dtype=torch.float64)
    K = camera.K.double().clone()
    K[..., :2, 2] -= corner.to(K)
    K[..., :2, :] *= size / box.side
    return Camera(camera.world_to_camera, K.to(camera.K), size, size)


def choose_box(
    view: RawView, head: Camera | None, points: np.ndarray | None, config: CropConfig
) -> Box:
    """Return the box that the settings ask for.

    Args:
        view: The picture.
        head: Its camera in the head frame, if the pose is known.
        points: Tracked vertices or landmarks in the picture [n, 2], if known.
        config: What a crop shows.

    Raises:
        MissingItemError: If what the box is to be around is not known.
    """
    if config.around == "head" and head is not None:
        return square_at_head(head, config.metres, config.center)
    if config.around == "mesh" and points is not None:
        return square_around(points, config.margin)
    if config.around == "matte" and view.matte is not None:
        return square_on_matte(view.matte, config.margin)
    lacking = {"head": "head pose", "mesh": "tracked mesh", "matte": "matte"}[config.around]
    raise MissingItemError(
        f"The capture has no {lacking} of this picture.", "Track it first, or crop around another."
    )


def crop(view: RawView, box: Box, size: int) -> Crop:
    """Cut a square out of a picture and resample it.

    With a matte, the head is resampled premultiplied, so that no background mixes into its edge,
    and put on white.

    Raises:
        MissingItemError: If the box misses the picture, or is absurdly small or large.
    """
    height, width = view.image.shape[:2]
    overlap_x = min(box.left + box.side, width) - max(box.left, 0)
    overlap_y = min(box.top + box.side, height) - max(box.top, 0)
    fits = MIN_SIDE <= box.side <= MAX_OUTSIDE * max(width, height)
    # Written so that nan fails too.
    if not (fits and overlap_x >= MIN_SIDE and overlap_y >= MIN_SIDE):
        raise MissingItemError(
            f"The head's box (left {box.left:.0f}, top {box.top:.0f}, side {box.side:.0f}) is not "
            f"in the picture of {width}x{height}.",
            "Check the pose and the units of this capture, or leave the picture out.",
        )
    inside = resample(np.full((height, width, 1), 255, np.uint8), box, size)[..., 0]
    camera = None if view.camera is None else cropped(view.camera, box, size)
    if view.matte is None:
        return Crop(resample(view.image, box, size, edge=True), None, inside, camera, box)
    planes = np.concatenate([premultiplied(view), view.matte[..., None]], axis=-1)
    planes = resample(planes.astype(np.float32), box, size)
    alpha = planes[..., 3:].clip(0, 255)
    # Bicubic weights overshoot at edges: the head is never brighter than its coverage.
    head = planes[..., :3].clip(0, alpha)
    image = np.round(head + 255 - alpha).astype(np.uint8)
    return Crop(image, np.round(alpha[..., 0]).astype(np.uint8), inside, camera, box)


def crop_head(
    view: RawView,
    head_to_world: np.ndarray | None,
    points: np.ndarray | None = None,
    config: CropConfig = CropConfig(),
) -> Crop:
    """Crop to the head, with its pose factored into the camera.

    Args:
        view: The picture with its camera of the world.
        head_to_world: Rigid motion [4, 4], metres; without it, the camera stays the world's.
        points: Tracked vertices in the picture [n, 2], pixels.
        config: What the crop shows.
    """
    if view.camera is not None and head_to_world is not None:
        head = factor_head_pose(view.camera, head_to_world)
        view = RawView(view.image, head, view.matte, view.backdrop)
    else:
        head = None
    return crop(view, choose_box(view, head, points, config), config.size)


def premultiplied(view: RawView) -> Float32[np.ndarray, "h w 3"]:
    """Return the head alone on black, 0 to 255, from a picture whose backdrop is known.

    Raises:
        ShapeError: If the view has no matte.
    """
    if view.matte is None:
        raise ShapeError("A picture without a matte cannot be cut out.", "Matte it first.")
    cover = view.matte[..., None].astype(np.float32) / 255
    return head_on_black(view.image, cover, view.backdrop)


def head_on_black(
    image: UInt8[np.ndarray, "h w 3"], cover: Float32[np.ndarray, "h w 1"], backdrop: Backdrop
) -> Float32[np.ndarray, "h w 3"]:
    """Return the head alone on black, 0 to 255; `cover` is in [0, 1]."""
    pixels = image.astype(np.float32)
    if backdrop == "scene":
        return pixels * cover
    if backdrop == "white":
        pixels = pixels - 255 * (1 - cover)
    return np.clip(pixels, 0, 255 * cover)


def resample(
    planes: UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"],
    box: Box,
    size: int,
    *,
    edge: bool = False,
) -> np.ndarray:
    """Cut a square out of planes and bring it to `size` pixels, smoothed where it shrinks.

    Args:
        planes: Any number of channels.
        box: May reach over the edge.
        size: Side of the result, pixels.
        edge: Repeat the edge outside the picture; else 0 is there.
    """
    height, width = planes.shape[:2]
    low_x, low_y = int(np.floor(min(box.left, 0))), int(np.floor(min(box.top, 0)))
    high_x = int(np.ceil(max(box.left + box.side - width, 0)))
    high_y = int(np.ceil(max(box.top + box.side - height, 0)))
    around = ((-low_y, high_y), (-low_x, high_x), (0, 0))
    padded = np.pad(planes, around, mode="edge" if edge else "constant")
    left, top = box.left - low_x, box.top - low_y
    place = (left, top, min(left + box.side, padded.shape[1]), min(top + box.side, padded.shape[0]))
    pictures = [
        Image.fromarray(np.ascontiguousarray(padded[..., c])).resize(
            (size, size), Image.Resampling.BICUBIC, box=place
        )
        for c in range(planes.shape[2])
    ]
    return np.stack([np.asarray(picture) for picture in pictures], axis=-1)
