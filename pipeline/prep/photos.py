"""Photographs of one person to views that the avatar model takes.

Letters: v photographs, s side of a crop.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32
from PIL import ExifTags, Image, ImageDraw, UnidentifiedImageError
from scipy import ndimage

from pipeline.core.arrays import Rgb
from pipeline.core.errors import CameraError, InputError, ShapeError
from pipeline.core.framing import CROP_CENTER, HEAD_CROP_M, NECK, above_neck
from pipeline.core.geometry import project
from pipeline.core.types import Camera, View
from pipeline.io.camera_file import CameraFile
from pipeline.io.images import open_picture, read_rgb
from pipeline.perception.landmarks import MESH_HEAD, Detector, Face, MeshDetector
from pipeline.perception.matting import MattingModel, ModNet
from pipeline.perception.points import PointsSeen
from pipeline.prep.stages.crop import Box, cropped, resample, square_at_head
from pipeline.system.progress import Progress, silent
from pipeline.tracking import cameras
from pipeline.tracking.tracker import HeadTracker, TrackedHead

MIN_FACE = 64
"""A smaller face, in pixels, would be blown up to something that nobody looks like."""


MAX_MISFIT, MAX_MISFIT_KNOWN = 1.0, 2.0
"""Of a picture's points to the fitted head, in the network's own standard deviations: 0.15 is usual
where the camera is free, 0.6 where it is given and right."""
SENSORS = (4 / 3, 3 / 2, 16 / 9)
"""Proportions of pictures as cameras make them."""


@dataclass(frozen=True)
class CropConfig:
    """What a crop shows; lengths in metres, head frame."""

    size: float = HEAD_CROP_M
    """Side of the square at the head's distance, as the synthetic cameras see it."""
    center: tuple[float, float, float] = CROP_CENTER
    """The point in the middle of the crop."""
    neck: tuple[float, float] = NECK
    """See `pipeline.core.framing.NECK`."""
    context: float = 1.6
    """Side of the square that the matting network sees, over the crop's."""


@dataclass(frozen=True)
class Photos:
    """Views of photographs, and what was found on the way."""

    view: View
    """Crops of v photographs, float32."""
    names: tuple[str, ...]
    """File names."""
    landmarks: Float64[np.ndarray, "v 68 2"]
    """Landmarks that were detected, in pixels of the crops."""
    head: Float64[np.ndarray, "68 3"]
    """Landmarks of the head model in this person's size, metres, head frame."""
    errors: Float64[np.ndarray, "v"]
    """Weighted distance between the two, over the longer side of the face."""
    tracked: TrackedHead | None = None
    """The head that is seen in them, if a tracker was given."""


def _ignore(_: str) -> None: ...


def estimate_views(
    paths: Sequence[Path],
    size: int,
    *,
    matting: MattingModel | None = None,
    detector: Detector | None = None,
    model: Float64[np.ndarray, "68 3"] | None = None,
    tracker: HeadTracker | None = None,
    known: CameraFile | None = None,
    which: int | None = None,
    config: CropConfig = CropConfig(),
    progress: Progress = silent,
    note: Callable[[str], None] = _ignore,
) -> Photos:
    """Find the head in photographs of one person, estimate cameras, cut out and crop.

    Args:
        paths: Picture files; EXIF orientation and 35 mm focal length are honoured.
        size: Side of the square views, pixels.
        matting: Cuts the person out; MODNet if not given.
        detector: Finds faces; the face mesh if not given.
        model: 68 landmarks of the head model, metres, head frame, as the detector sees them; if
            not given, those of the average head as the face mesh does.
        tracker: Fits the head to many points; if not given, cameras come of the 68 landmarks.
        known: Cameras of the photographs, in their order; needs a tracker.
        which: Face to take where there are several, from 1; large ones near the middle come
            first.
        config: What the crops show.
        progress: Told after each photograph is read and after each is cut out.
        note: Told what was decided about a photograph.

    Raises:
        CameraError: If known cameras contradict what is seen, or a photograph the others.
        InputError: If there is no path, or a file is missing, not a picture, without a face,
            or with a face of under 64 pixels.
        MissingPackageError: If a default network's package is not installed.
        MissingWeightsError: If a default network's weights are not on this machine.
    """
    if not paths:
        raise InputError("There is no photograph.", "Give one to six pictures of one person.")
    if size < 16:
        raise ShapeError(f"Views of {size} pixels show nothing.", "Ask for 64 or more.")
    if detector is None:
        detector = MeshDetector()
    if matting is None:
        matting = ModNet()
    if model is None:
        model = MESH_HEAD

    pictures: list[Rgb] = []
    faces: list[Face] = []
    for i, path in enumerate(paths):
        pictures.append(_read(path))
        found = detector(pictures[-1])
        if not found and _lies(pictures[-1], detector):
            raise InputError(f"The head in {path} lies on its side.", "Turn the picture upright.")
        faces.append(_main_face(found, pictures[-1].shape, path, which, note))
        progress(i + 1, 2 * len(paths))

    sizes = [(rgb.shape[1], rgb.shape[0]) for rgb in pictures]
    focals = [_exif_focal(path, size) for path, size in zip(paths, sizes, strict=True)]
    tracked = None
    if tracker is None:
        fit = cameras.estimate([face.landmarks for face in faces], sizes, model, focals)
        placed, head, errors = fit.cameras, fit.head, fit.errors
    else:
        seen = [tracker.see(rgb, face) for rgb, face in zip(pictures, faces, strict=True)]
        tracked = _track(tracker, seen, paths, sizes, focals, known)
        placed, head = list(tracked.bundle.cameras), tracked.landmarks.astype(float)
        errors = tracked.bundle.errors
        faces = [replace(face, landmarks=one.points[:68]) for face, one in zip(faces, seen)]

    chin = float(head[8, 1])
    crops: list[View] = []
    landmarks: list[np.ndarray] = []
    for i, (rgb, face, camera) in enumerate(zip(pictures, faces, placed, strict=True)):
        box = square_at_head(camera, config.size, config.center)
        corner, side = np.array([box.left, box.top]), box.side
        alpha = _matte(rgb, face, corner, side, matting, config)
        crops.append(_crop(rgb, alpha, camera, box, size, chin, config.neck))
        landmarks.append((face.landmarks - corner) * (size / side))
        progress(len(paths) + i + 1, 2 * len(paths))
    view = View(
        torch.stack([crop.image for crop in crops]),
        torch.stack([crop.alpha for crop in crops]),
        Camera(
            torch.stack([crop.camera.world_to_camera for crop in crops]),
            torch.stack([crop.camera.K for crop in crops]),
            size,
            size,
        ),
    )
    relative = errors / np.array([face.size for face in faces])
    names = tuple(p.name for p in paths)
    return Photos(view, names, np.stack(landmarks), head, relative, tracked)


def _track(
    tracker: HeadTracker,
    seen: Sequence[PointsSeen],
    paths: Sequence[Path],
    sizes: Sequence[tuple[int, int]],
    focals: Sequence[float | None],
    known: CameraFile | None,
) -> TrackedHead:
    """Fit the head; refuse what does not go together."""
    if known is None:
        found = tracker.fit(seen, sizes, focals=focals)
    else:
        rig = [_camera_of(known, i, path, sizes) for i, path in enumerate(paths)]
        if len(known.cameras) != len(paths):
            raise InputError(
                f"{len(known.cameras)} cameras for {len(paths)} pictures.",
                "Give one for each, in the order of the pictures.",
            )
        poses = "told" if known.frame == "head" else "static" if known.static else "each"
        found = tracker.fit(seen, sizes, cameras=rig, poses=poses)
    for path, misfit, error in zip(paths, found.bundle.misfit, found.bundle.errors, strict=True):
        if not misfit <= (MAX_MISFIT if known is None else MAX_MISFIT_KNOWN):
            what = "The head in" if known is None else "The camera given for"
            raise CameraError(
                f"{what} {path} does not fit what is seen there: the head is off by "
                f"{error:.0f} pixels.",
                "Leave this picture out."
                if known is None
                else "Check the cameras' order, axes (OpenCV) and units (metres); static: false "
                "if the head moved between the pictures.",
            )
    return found


def _camera_of(known: CameraFile, i: int, path: Path, sizes: Sequence[tuple[int, int]]) -> Camera:
    """Return the camera of a picture, in its pixels."""
    camera = known.cameras[min(i, len(known.cameras) - 1)]
    width, height = sizes[i]
    if abs(width * camera.height - height * camera.width) > max(camera.width, camera.height):
        raise InputError(
            f"{path} has {width}x{height} pixels, its camera {camera.width}x{camera.height}.",
            "Give cameras of the pictures as they are: not cropped, not turned.",
        )
    return camera.resized(width, height)


def sheet(photos: Photos) -> Image.Image:
    """Draw what was estimated: a row for each photograph.

    Crop with the detected landmarks (green) and the head model's (red) and the head's axes
    (x red, y green, z blue, 5 cm); the picture as the model sees it; the matte.
    """
    side = 384
    scale = side / photos.view.camera.width
    canvas = Image.new("RGB", (3 * side, len(photos.names) * side), "white")
    axes = np.concatenate([np.zeros((1, 3)), 0.05 * np.eye(3)])
    for i, name in enumerate(photos.names):
        head = photos.head if photos.tracked is None else photos.tracked.seen_landmarks(i)
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


def _read(path: Path) -> Rgb:
    if path.suffix.lower() in (".heic", ".heif") and path.is_file():
        raise InputError(
            f"{path} is a HEIC picture, which is not read here.", "Export it as JPEG first."
        )
    return read_rgb(path)


def _lies(rgb: Rgb, detector: Detector) -> bool:
    """Say whether a face is seen once the picture is turned."""
    return any(detector(np.ascontiguousarray(np.rot90(rgb, turns))) for turns in (1, 3, 2))


def _main_face(
    faces: list[Face],
    shape: tuple[int, ...],
    path: Path,
    which: int | None = None,
    note: Callable[[str], None] = _ignore,
) -> Face:
    """Return the largest face, where one at the picture's edge counts half of one in its middle."""
    if not faces:
        raise InputError(
            f"No face was found in {path}.", "Give a picture with a face that looks at the camera."
        )
    middle = np.array([shape[1], shape[0]]) / 2

    def weight(face: Face) -> float:
        left, top, right, bottom = face.box
        off = np.abs(np.array([left + right, top + bottom]) / 2 - middle) / middle
        return face.size * (1 - 0.5 * min(float(off.max()), 1.0))

    ordered = sorted(faces, key=weight, reverse=True)
    if which is not None and not 1 <= which <= len(ordered):
        raise InputError(
            f"{path} shows {len(ordered)} faces; there is no face {which}.",
            f"Choose 1 to {len(ordered)}.",
        )
    face = ordered[(which or 1) - 1]
    if len(ordered) > 1:
        x, y = ((face.box[0] + face.box[2]) / 2, (face.box[1] + face.box[3]) / 2)
        note(
            f"{path.name} shows {len(ordered)} faces: number {which or 1}, at ({x:.0f}, {y:.0f}), "
            "is taken."
        )
    if min(face.box[:2]) < 0 or face.box[2] > shape[1] or face.box[3] > shape[0]:
        note(f"The face in {path.name} goes beyond the border: what is cut off is guessed.")
    if face.size < MIN_FACE:
        raise InputError(
            f"The face in {path} is only {face.size:.0f} pixels large.",
            f"Give a picture in which it has at least {MIN_FACE}.",
        )
    return face


def _exif_focal(path: Path, size: tuple[int, int]) -> float | None:
    """Return the focal length in pixels if the camera noted it and the picture was not cut.

    A cut keeps the note but makes it wrong; most cuts also change the picture's proportions.
    """
    if not any(abs(max(size) / min(size) - ratio) < 0.01 * ratio for ratio in SENSORS):
        return None
    try:
        with open_picture(path, path) as image:
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
            equivalent = float(tags.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    except (OSError, UnidentifiedImageError, SyntaxError, TypeError, ValueError):
        return None  # damaged metadata is no reason to refuse a picture that can be read
    # 43.27 mm is the diagonal of a 36 x 24 mm film.
    return float(np.hypot(*size)) * equivalent / 43.27 if 8 <= equivalent <= 1000 else None


def _matte(
    rgb: Rgb, face: Face, corner: np.ndarray, side: float, matting: MattingModel, config: CropConfig
) -> Float32[np.ndarray, "h w"]:
    """Return the matte of the whole picture, from a look at the surroundings of the head.

    People in the background are left out: only what hangs together with the face stays.
    """
    height, width = rgb.shape[:2]
    margin = side * (config.context - 1) / 2
    left, top = np.clip(np.floor(corner - margin), 0, [width - 1, height - 1]).astype(int).tolist()
    far = np.ceil(corner + side + margin).astype(int)
    right, bottom = np.clip(far, [left + 1, top + 1], [width, height]).tolist()
    part = np.clip(matting(rgb[top:bottom, left:right]).astype(np.float32), 0, 1)
    if part.shape != (bottom - top, right - left):
        raise ShapeError(
            f"The matte is {list(part.shape)}, the picture {[bottom - top, right - left]}.",
            "A matting gives one number for each pixel of its picture.",
        )
    labels = _parts(part > 0.05)
    x0, y0, x1, y1 = face.box
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


def _crop(
    rgb: Rgb,
    alpha: Float32[np.ndarray, "h w"],
    camera: Camera,
    box: Box,
    size: int,
    chin: float,
    neck: tuple[float, float],
) -> View:
    """Cut the square, composite on white and cut off what is below the neck."""
    head = np.concatenate([rgb / np.float32(255) * alpha[..., None], alpha[..., None]], axis=-1)
    # Premultiplied: resampling then mixes no background into the edge.
    planes = resample(head, box, size)
    pixels = torch.from_numpy(planes).permute(2, 0, 1)
    view_camera = cropped(camera, box, size)
    pixels = pixels * above_neck(view_camera, chin, neck)
    matte = pixels[3:].clamp(0, 1)
    image = (pixels[:3] + 1 - matte).clamp(0, 1)
    return View(image, matte, view_camera)
