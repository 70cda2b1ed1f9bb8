"""Stage: a square around the head from every raw picture, with its camera of the head frame.

Out   work/<capture>/crop/<timestep>.npz   rgb: JPEG on white where the data set ships a matte,
      else PNG with its background; alpha: PNG, the shipped matte; inside: PNG, where the picture
      is, if there is no matte; world_to_camera [v 4 4], K [v 3 3] in pixels of the crop; notes:
      by camera, how far a shipped matte is not where the tracked mesh is

Letters: h height, w width, c channels, s side of a crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from pipeline.captures.capture import Backdrop, RawView
from pipeline.core.arrays import Rgb
from pipeline.core.errors import FastGHAError, MissingItemError, ShapeError
from pipeline.core.framing import CROP_CENTER, HEAD_CROP_M
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.io.images import encode_jpeg, encode_png
from pipeline.prep.items import Item, load_item, save_item
from pipeline.prep.plan import Job
from pipeline.tracking.checks import geometry_problems

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
    camera: Camera,
    metres: float = HEAD_CROP_M,
    center: tuple[float, float, float] = CROP_CENTER,
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


def cropped(camera: Camera, box: Box, size: int) -> Camera:
    """Return the camera of a square cut from a picture and resampled to `size` pixels."""
    corner = torch.tensor([box.left, box.top], dtype=torch.float64)
    K = camera.K.double().clone()
    K[..., :2, 2] -= corner.to(K)
    K[..., :2, :] *= size / box.side
    return Camera(camera.world_to_camera, K.to(camera.K), size, size)


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


@dataclass
class CropStage:
    """Crops all views of a timestep."""

    job: Job

    def __call__(self, key: tuple[str, int]) -> None:
        """Make the item of one timestep."""
        plan, capture = self.job.plans[key[0]], self.job.capture(key[0])
        step, size = plan.timesteps[key[1]], self.job.config.size
        tracked = load_item(self.job.path("track", *key))
        E, K = tracked.arrays["world_to_camera"], tracked.arrays["K"]
        mesh = tracked.arrays["vertices"]
        rgb, alpha, inside = ([b""] * len(plan.cameras) for _ in range(3))
        cut_E, cut_K = np.full_like(E, np.nan), np.full_like(K, np.nan)
        dropped = dict(tracked.dropped)
        notes = {"size": str(size)}
        for v, camera in enumerate(plan.cameras):
            if "timestep" in dropped:
                break
            if not capture.has(step, camera):
                dropped.setdefault(camera, "there is no picture")
                continue
            if camera in dropped or not np.isfinite(E[v]).all():
                dropped.setdefault(camera, "its camera is not known")
                continue
            try:
                view = capture.view(step, camera)
                head = camera_of(view.image, E[v], K[v])
                box = square_at_head(head, self.job.config.metres)
                cut = crop(replace(view, camera=head), box, size)
            except FastGHAError as error:
                dropped[camera] = error.problem
                continue
            if view.matte is not None and len(mesh):
                doubts = geometry_problems(
                    head, head_to_world=np.eye(4), mesh=mesh, matte=view.matte
                )
                if doubts:
                    notes[camera] = "; ".join(doubts)
            seen = cropped(head, box, size)
            cut_E[v] = seen.world_to_camera.double().numpy()
            cut_K[v] = seen.K.double().numpy()
            if cut.alpha is None:
                rgb[v], inside[v] = encode_png(cut.image), encode_png(cut.inside)
            else:
                rgb[v], alpha[v] = encode_jpeg(cut.image), encode_png(cut.alpha)
        arrays = {"world_to_camera": cut_E, "K": cut_K}
        pictures = {"rgb": tuple(rgb), "alpha": tuple(alpha), "inside": tuple(inside)}
        save_item(self.job.path("crop", *key), Item(arrays, pictures, dropped, notes))


def camera_of(image: Rgb, E: Float64[np.ndarray, "4 4"], K: Float64[np.ndarray, "3 3"]) -> Camera:
    """Return the camera of a picture from its matrices."""
    return Camera(torch.from_numpy(E), torch.from_numpy(K), image.shape[1], image.shape[0])
