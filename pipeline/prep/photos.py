"""Pictures of one person to views that the avatar model takes, with the head tracked in them.

One way for photographs, videos and whatever else has no known cameras: `find_face` and
`HeadTracker.see` in each picture, one fit of all (`fit_head`), `cut_head` in each. `estimate_views`
does it all; the stages of `fastgha prep photos | video` do it step by step.

Letters: v pictures, s side of a crop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32
from PIL import Image, ImageDraw
from scipy import ndimage

from pipeline.captures.capture import RawView
from pipeline.captures.photos import exif_focal, read_photo
from pipeline.core.arrays import Rgb
from pipeline.core.errors import CameraError, InputError, MissingItemError, ShapeError
from pipeline.core.framing import (
    CROP_CENTER,
    HEAD_CROP_M,
    NECK,
    SHOULDERS,
    above_neck,
    beside_shoulders,
)
from pipeline.core.geometry import project
from pipeline.core.types import Camera, View
from pipeline.faces.guide import TrackedMesh, filled_depth
from pipeline.faces.heads import HeadModel, head_model
from pipeline.io.camera_file import CameraFile
from pipeline.perception.detectors import get_detector
from pipeline.perception.landmarks import Detector, Face
from pipeline.perception.matting import MattingModel, ModNet
from pipeline.perception.points import PointsSeen
from pipeline.prep.clothes import without_clothes
from pipeline.prep.stages.crop import Box, cropped, head_on_black, resample, square_at_head
from pipeline.system.files import require_file
from pipeline.system.progress import Progress, silent
from pipeline.tracking.tracker import HeadTracker, TrackedHead

DETECTOR = "mesh"
"""Of landmarks: it follows the head also where the head hides itself."""
MIN_FACE = 64
"""A smaller face, in pixels, would be blown up to something that nobody looks like."""
CHIN = 8
"""Number of the landmark."""
MAX_MISFIT, MAX_MISFIT_KNOWN = 1.0, 2.0
"""Of a picture's points to the fitted head, in the network's own standard deviations: 0.15 is usual
where the camera is free, 0.6 where it is given and right."""


@dataclass(frozen=True)
class CropConfig:
    """What a crop shows; lengths in metres, head frame."""

    size: float = HEAD_CROP_M
    """Side of the square at the head's distance, as the synthetic cameras see it."""
    center: tuple[float, float, float] = CROP_CENTER
    """The point in the middle of the crop."""
    neck: tuple[float, float] = NECK
    """See `pipeline.core.framing.NECK`."""
    shoulders: tuple[float, float] = SHOULDERS
    """See `pipeline.core.framing.SHOULDERS`."""
    context: float = 1.6
    """Side of the square that the matting network sees, over the crop's."""


@dataclass(frozen=True)
class Picture:
    """One picture of a person, before anything is known about it."""

    name: str
    """For messages."""
    raw: RawView
    focal: float | None = None
    """Pixels, if the picture tells it."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, pixels."""
        return self.raw.image.shape[1], self.raw.image.shape[0]


@dataclass(frozen=True)
class Photos:
    """Views of pictures, and what was found on the way."""

    view: View
    """Crops of v pictures, float32."""
    names: tuple[str, ...]
    """Of the pictures."""
    landmarks: Float64[np.ndarray, "v 68 2"]
    """Landmarks that were seen, in pixels of the crops."""
    errors: Float64[np.ndarray, "v"]
    """Weighted distance of the fitted head from what was seen, over the longer side of the face."""
    tracked: TrackedHead
    """The head that is seen in them: its mesh, cameras and expressions."""


def _ignore(_: str) -> None: ...


def estimate_views(
    pictures: Sequence[Path | Picture],
    size: int,
    *,
    matting: MattingModel | None = None,
    detector: Detector | None = None,
    tracker: HeadTracker | None = None,
    known: CameraFile | None = None,
    which: int | None = None,
    config: CropConfig = CropConfig(),
    progress: Progress = silent,
    note: Callable[[str], None] = _ignore,
) -> Photos:
    """Find the head in pictures of one person, track it, cut it out and crop.

    Args:
        pictures: Files, whose EXIF orientation and 35 mm focal length are honoured, or pictures.
        size: Side of the square views, pixels.
        matting: Cuts the person out where a picture has no matte; MODNet if not given.
        detector: Finds faces; the face mesh if not given.
        tracker: Fits the head to many points; the shipped one if not given.
        known: Cameras of the pictures, in their order.
        which: Face to take where there are several, from 1; large ones near the middle come
            first.
        config: What the crops show.
        progress: Told after each picture is looked at and after each is cut out.
        note: Told what was decided about a picture.

    Raises:
        CameraError: If known cameras contradict what is seen, or a picture the others.
        InputError: If there is no picture, or a file is missing, not a picture, without a face,
            or with a face of under 64 pixels.
        MissingPackageError: If a default network's package is not installed.
        MissingWeightsError: If a default network's weights are not on this machine.
    """
    if not pictures:
        raise InputError("There is no photograph.", "Give one to six pictures of one person.")
    if size < 16:
        raise ShapeError(f"Views of {size} pixels show nothing.", "Ask for 64 or more.")
    detector = detector or get_detector(DETECTOR).make()
    matting = matting or ModNet()
    tracker = tracker or HeadTracker()

    taken: list[Picture] = []
    seen: list[PointsSeen] = []
    for i, one in enumerate(pictures):
        picture = one if isinstance(one, Picture) else read_picture(one)
        face = find_face(picture, detector, which, note)
        taken.append(picture)
        seen.append(tracker.see(picture.raw.image, face))
        progress(i + 1, 2 * len(pictures))
    tracked = fit_head(tracker, taken, seen, known)

    crops: list[View] = []
    landmarks: list[np.ndarray] = []
    marks = [one.points[: len(tracked.landmarks)] for one in seen]
    for i, (picture, camera) in enumerate(zip(taken, tracked.bundle.cameras, strict=True)):
        mesh = tracked.mesh[[i]]
        crops.append(cut_head(picture.raw, camera, mesh, size, matting, config))
        box = square_at_head(camera, config.size, config.center)
        landmarks.append((marks[i] - [box.left, box.top]) * (size / box.side))
        progress(len(pictures) + i + 1, 2 * len(pictures))
    relative = tracked.bundle.errors / [float(np.ptp(points, axis=0).max()) for points in marks]
    names = tuple(picture.name for picture in taken)
    return Photos(stacked(crops), names, np.stack(landmarks), relative, tracked)


def read_picture(path: Path) -> Picture:
    """Read a photograph.

    Raises:
        InputError: If the file is missing, or not a picture that is read here.
    """
    if path.suffix.lower() in (".heic", ".heif") and path.is_file():
        raise InputError(
            f"{path} is a HEIC picture, which is not read here.", "Export it as JPEG first."
        )
    require_file(path, "a picture")
    try:
        return Picture(path.name, read_photo(path), exif_focal(path))
    except MissingItemError as error:
        raise InputError(error.problem, "Give a whole JPEG, PNG, WebP or AVIF.") from error


def find_face(
    picture: Picture,
    detector: Detector,
    which: int | None = None,
    note: Callable[[str], None] = _ignore,
) -> Face:
    """Return the face of a picture.

    The largest one, where one at the picture's edge counts half of one in its middle.

    Raises:
        InputError: If there is none, the head lies on its side, or the face is too small.
    """
    rgb = picture.raw.image
    faces = detector(rgb)
    if not faces and _lies(rgb, detector):
        raise InputError(
            f"The head in {picture.name} lies on its side.", "Turn the picture upright."
        )
    face = _main_face(faces, picture, which, note)
    if face.size < MIN_FACE:
        raise InputError(
            f"The face in {picture.name} is only {face.size:.0f} pixels large.",
            f"Give a picture in which it has at least {MIN_FACE}.",
        )
    return face


def fit_head(
    tracker: HeadTracker,
    pictures: Sequence[Picture],
    seen: Sequence[PointsSeen],
    known: CameraFile | None = None,
) -> TrackedHead:
    """Fit one head to what was seen in all pictures; refuse what does not go together.

    Raises:
        CameraError: If known cameras contradict what is seen, or a picture the others.
        InputError: If known cameras are not those of these pictures.
    """
    sizes = [picture.size for picture in pictures]
    if known is None:
        found = tracker.fit(seen, sizes, focals=[picture.focal for picture in pictures])
    else:
        if len(known.cameras) != len(pictures):
            raise InputError(
                f"{len(known.cameras)} cameras for {len(pictures)} pictures.",
                "Give one for each, in the order of the pictures.",
            )
        rig = [_camera_of(known, i, picture) for i, picture in enumerate(pictures)]
        poses = "told" if known.frame == "head" else "static" if known.static else "each"
        found = tracker.fit(seen, sizes, cameras=rig, poses=poses)
    for picture, misfit, error in zip(pictures, found.bundle.misfit, found.bundle.errors):
        if not misfit <= (MAX_MISFIT if known is None else MAX_MISFIT_KNOWN):
            what = "The head in" if known is None else "The camera given for"
            raise CameraError(
                f"{what} {picture.name} does not fit what is seen there: the head is off by "
                f"{error:.0f} pixels.",
                "Leave this picture out."
                if known is None
                else "Check the cameras' order, axes (OpenCV) and units (metres); static: false "
                "if the head moved between the pictures.",
            )
    return found


def _camera_of(known: CameraFile, i: int, picture: Picture) -> Camera:
    """Return the camera of a picture, in its pixels."""
    camera = known.cameras[i]
    width, height = picture.size
    if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
        raise InputError(
            f"{picture.name} has {width}x{height} pixels, its camera "
            f"{camera.width}x{camera.height}.",
            "Give cameras of the pictures as they are: not cropped, not turned.",
        )
    return camera.resized(width, height)


def cut_head(
    raw: RawView,
    camera: Camera,
    mesh: TrackedMesh,
    size: int,
    matting: MattingModel,
    config: CropConfig = CropConfig(),
    head: HeadModel | None = None,
) -> View:
    """Cut the head out of a picture, down to its neck, on white.

    Args:
        raw: The picture; its own matte is taken where it has one.
        camera: Of the whole picture, from the head frame.
        mesh: As posed in this picture alone.
        size: Side of the square view, pixels.
        matting: Cuts the person out.
        config: What the view shows.
        head: Model of the mesh; the one of its layout on this machine if not given.

    Raises:
        MissingItemError: If the head is not in the picture.
        ShapeError: If the matting gives no matte of the picture.
    """
    box = square_at_head(camera, config.size, config.center)
    model = head or head_model(mesh.layout)
    landmarks = model.landmarks(mesh.neutral)
    if raw.matte is None:
        marks = project(camera, torch.from_numpy(landmarks).to(camera.K))[0].double().numpy()
        alpha = _matte(raw.image, marks, box, matting, config)
    else:
        alpha = raw.matte.astype(np.float32) / 255
    # Premultiplied: resampling then mixes no background into the edge.
    black = head_on_black(raw.image, alpha[..., None], raw.backdrop) / np.float32(255)
    planes = resample(np.concatenate([black, alpha[..., None]], axis=-1), box, size)
    pixels = torch.from_numpy(planes).permute(2, 0, 1)
    seen = cropped(camera, box, size)
    depth = torch.from_numpy(filled_depth(mesh, seen, model))
    chin = float(landmarks[CHIN, 1])
    kept = above_neck(seen, depth, chin, config.neck)
    kept = kept * beside_shoulders(seen, depth, chin, config.shoulders)
    kept = kept * without_clothes(pixels[3], depth, mesh, seen, model, chin)
    pixels = pixels * kept.to(pixels)
    matte = pixels[3:].clamp(0, 1)
    image = (pixels[:3] + 1 - matte).clamp(0, 1)
    return View(image, matte, seen)


def stacked(views: Sequence[View]) -> View:
    """Return single views of one size as one [v]."""
    first = views[0].camera
    camera = Camera(
        torch.stack([one.camera.world_to_camera for one in views]).float(),
        torch.stack([one.camera.K for one in views]).float(),
        first.width,
        first.height,
    )
    image, alpha = (torch.stack([getattr(v, name) for v in views]) for name in ("image", "alpha"))
    return View(image, alpha, camera)


def sheet(photos: Photos) -> Image.Image:
    """Draw what was estimated: a row for each picture.

    Crop with the landmarks as seen (green) and the fitted head's (red) and the head's axes
    (x red, y green, z blue, 5 cm); the picture as the model sees it; the matte.
    """
    side = 384
    scale = side / photos.view.camera.width
    canvas = Image.new("RGB", (3 * side, len(photos.names) * side), "white")
    axes = np.concatenate([np.zeros((1, 3)), 0.05 * np.eye(3)])
    for i, name in enumerate(photos.names):
        head = photos.tracked.seen_landmarks(i)
        points = torch.from_numpy(np.concatenate([head, axes])).float()
        view = photos.view[i]
        rgb = Image.fromarray((view.image.permute(1, 2, 0) * 255).round().byte().numpy())
        alpha = Image.fromarray((view.alpha[0] * 255).round().byte().numpy())
        rgb, alpha = rgb.resize((side, side)), alpha.resize((side, side))
        marked = rgb.copy()
        draw = ImageDraw.Draw(marked)
        drawn = project(view.camera, points)[0].double().numpy() * scale
        for dots, colour in ((photos.landmarks[i] * scale, "lime"), (drawn[:68], "red")):
            for x, y in dots.tolist():
                draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colour)
        ends: list[tuple[float, float]] = [(x, y) for x, y in drawn[68:].tolist()]
        for tip, colour in zip(ends[1:], ("red", "green", "blue"), strict=True):
            draw.line([ends[0], tip], fill=colour, width=3)
        distance = float(view.camera.centers.norm())
        text = f"{name}  {distance:.2f} m  miss {photos.errors[i]:.1%} of the face"
        draw.text((4.0, 4.0), text, fill="black")
        for column, picture in enumerate((marked, rgb, alpha)):
            canvas.paste(picture, (column * side, i * side))
    return canvas


def _lies(rgb: Rgb, detector: Detector) -> bool:
    """Say whether a face is seen once the picture is turned."""
    return any(detector(np.ascontiguousarray(np.rot90(rgb, turns))) for turns in (1, 3, 2))


def _main_face(
    faces: Sequence[Face], picture: Picture, which: int | None, note: Callable[[str], None]
) -> Face:
    name, (width, height) = picture.name, picture.size
    if not faces:
        raise InputError(
            f"No face was found in {name}.", "Give a picture with a face that looks at the camera."
        )
    middle = np.array([width, height]) / 2

    def weight(face: Face) -> float:
        left, top, right, bottom = face.box
        off = np.abs(np.array([left + right, top + bottom]) / 2 - middle) / middle
        return face.size * (1 - 0.5 * min(float(off.max()), 1.0))

    ordered = sorted(faces, key=weight, reverse=True)
    if which is not None and not 1 <= which <= len(ordered):
        raise InputError(
            f"{name} shows {len(ordered)} faces; there is no face {which}.",
            f"Choose 1 to {len(ordered)}.",
        )
    face = ordered[(which or 1) - 1]
    if len(ordered) > 1:
        x, y = ((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2)
        note(
            f"{name} shows {len(ordered)} faces: number {which or 1}, at ({x:.0f}, {y:.0f}), "
            "is taken."
        )
    if min(face.box[:2]) < 0 or face.box[2] > width or face.box[3] > height:
        note(f"The face in {name} goes beyond the border: what is cut off is guessed.")
    return face


def _matte(
    rgb: Rgb,
    marks: Float64[np.ndarray, "68 2"],
    box: Box,
    matting: MattingModel,
    config: CropConfig,
) -> Float32[np.ndarray, "h w"]:
    """Return the matte of the whole picture, from a look at the surroundings of the head.

    People in the background are left out: only what hangs together with the face stays.
    """
    height, width = rgb.shape[:2]
    corner, margin = np.array([box.left, box.top]), box.side * (config.context - 1) / 2
    left, top = np.clip(np.floor(corner - margin), 0, [width - 1, height - 1]).astype(int).tolist()
    far = np.ceil(corner + box.side + margin).astype(int)
    right, bottom = np.clip(far, [left + 1, top + 1], [width, height]).tolist()
    part = np.clip(matting(rgb[top:bottom, left:right]).astype(np.float32), 0, 1)
    if part.shape != (bottom - top, right - left):
        raise ShapeError(
            f"The matte is {list(part.shape)}, the picture {[bottom - top, right - left]}.",
            "A matting gives one number for each pixel of its picture.",
        )
    labels = _parts(part > 0.05)
    (x0, y0), (x1, y1) = marks.min(0), marks.max(0)
    window = (
        slice(max(int(y0) - top, 0), max(int(y1) - top, 1)),
        slice(max(int(x0) - left, 0), max(int(x1) - left, 1)),
    )
    counts = np.bincount(labels[window].ravel())
    if len(counts) > 1:
        part = part * (labels == counts[1:].argmax() + 1)
    alpha = np.zeros((height, width), np.float32)
    alpha[top:bottom, left:right] = part
    return alpha


def _parts(mask: Bool[np.ndarray, "h w"]) -> Int32[np.ndarray, "h w"]:
    """Number the connected parts of a mask from 1; 0 is outside."""
    labels = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, output=labels)
    return labels
