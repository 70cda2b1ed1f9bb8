"""From a video of one head to frames that make, fit and judge an avatar.

All frames are tracked as one video. Up to six go to the network, the others supervise the fit, but
every tenth and the last fifth are held back: nothing is ever fitted to them.

Letters: m tracked frames, h w size of the crops.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

from pipeline.captures.capture import RawView
from pipeline.captures.photos import is_photo, read_photo
from pipeline.captures.video import CAMERA, ENDINGS, VideoCapture
from pipeline.core.arrays import Rgb
from pipeline.core.errors import InputError, MissingItemError
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import ARKIT, arkit_weights
from pipeline.io.sheets import to_bytes
from pipeline.model.fastgha import MAX_VIEWS
from pipeline.perception.landmarks import Detector, Face
from pipeline.perception.matting import MattingModel
from pipeline.perception.points import PointsSeen
from pipeline.prep.photos import CHIN, MIN_FACE, Picture, cut_head, find_face
from pipeline.prep.stages.crop import cropped, square_at_head
from pipeline.system.progress import Bars, Progress, no_bars, silent
from pipeline.tracking.tracker import Followed, HeadTracker, TrackedHead, landmarks_of

FPS = 25.0
"""Of a folder of frames, which does not say."""
EVERY, LAST = 10, 0.2
"""Of the tracked frames so many make one that is held back, and this share of them at the end."""
CLOSE_S = 0.17
"""Frames farther apart in time do not follow from each other: each is looked at afresh."""
UNDER_CHIN = 0.02
"""Metres under the chin, of a mouth that is shut, where the head ends."""
ALIKE = 1.5
"""Degrees, or what counts like them, under which two frames show the same."""
RIVAL = 0.5
"""A second face of this share of the first one's size is another person, no picture on a wall."""


@dataclass(frozen=True)
class VideoConfig:
    """What is taken of a video."""

    frames: int = 150
    """At most; a longer video is thinned. Each costs a second of a core to track and cut out, and
    neighbours tell nearly the same."""
    least: int = 20
    """Fewer frames with a face make no video."""
    inputs: int = MAX_VIEWS
    """For the network."""
    blurred: float = 0.4
    """A frame with less than this share of the usual sharpness teaches blur and is left out."""


class Frames(Protocol):
    """The frames of a video in their order, upright."""

    name: str
    fps: float
    is_hdr: bool

    def __len__(self) -> int: ...

    def read(self, index: int) -> Rgb:
        """Return one frame; in order is fastest."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


@dataclass(frozen=True)
class Footage:
    """A video whose head is tracked and cut out."""

    name: str
    pixels: UInt8[Tensor, "m 4 h w"]
    """Head on white, then its matte; 0 to 255."""
    inside: Float[Tensor, "m 4"]
    """What of the crop the frame shows: left, top, right and bottom, as shares of its side."""
    cameras: Camera
    """[m], of the crops, from the head frame."""
    codes: ExpressionCode
    """[m, 120]"""
    neutral: np.ndarray
    """The person's mesh at rest."""
    posed: np.ndarray
    """Its vertices in each frame."""
    sharpness: Float64[np.ndarray, "m"]
    frames: Int64[np.ndarray, "m"]
    """Numbers of the frames in the video; photographs come after them, numbered by themselves."""
    inputs: tuple[int, ...] = ()
    """Rows that go to the network, and supervise."""
    reasons: tuple[str, ...] = ()
    """Why each of them was chosen."""
    supervise: tuple[int, ...] = ()
    """Rows that are fitted to."""
    judges: tuple[int, ...] = ()
    """Rows among them that are held back, and tell which state of a fit is the best."""
    unseen: tuple[int, ...] = ()
    """Rows at the end of the video, for which nothing is chosen at all."""

    def __len__(self) -> int:
        return len(self.pixels)

    def views(self, rows: Sequence[int], size: int | None = None) -> View:
        """Return some frames at a size that is at most the crops'."""
        chosen = list(rows)
        pixels = self.pixels[chosen].float() / 255
        size = size or pixels.shape[-1]
        if size != pixels.shape[-1]:
            pixels = functional.interpolate(pixels, (size, size), mode="area")
        camera = self.cameras[chosen].resized(size, size)
        return View(pixels[:, :3], pixels[:, 3:], camera)

    def head(self, rows: Sequence[int], size: int) -> Bool[Tensor, "v 1 h w"]:
        """Tell which pixels are the head's: of the matte, and not of neck and shoulders.

        What is below the chin moves by itself, and no avatar of a head knows how.
        """
        return (self.views(rows, size).alpha > 0.5) & self.above_chin(rows, size)

    def above_chin(self, rows: Sequence[int], size: int) -> Bool[Tensor, "v 1 h w"]:
        """Tell which pixels are higher than the chin, whatever they show."""
        camera = self.cameras[list(rows)].resized(size, size)
        y, x = torch.meshgrid(*[torch.arange(size) + 0.5] * 2, indexing="ij")
        pixels = torch.stack([x, y, torch.ones_like(x)], -1)
        # On the plane through the head's origin that faces the camera.
        E = camera.world_to_camera
        there = torch.einsum("vij,hwj->vhwi", torch.linalg.inv(camera.K), pixels)
        there = there * E[:, 2, 3, None, None, None] - E[:, None, None, :3, 3]
        height = torch.einsum("vi,vhwi->vhw", E[:, :3, 1], there)
        chin = float(landmarks_of(self.neutral)[CHIN, 1])
        return (height > chin - UNDER_CHIN)[:, None]

    def mesh(self, rows: Sequence[int]) -> TrackedMesh:
        """Return the mesh as it is posed in some frames."""
        return TrackedMesh(self.codes.layout, self.neutral, self.posed[list(rows)])


def is_video(path: Path) -> bool:
    """Say whether a path is a video by its name, or a folder, whose pictures are frames."""
    return path.suffix.lower() in ENDINGS or path.is_dir()


def read_footage(
    path: Path,
    size: int,
    *,
    detector: Detector,
    tracker: HeadTracker,
    matting: MattingModel,
    also: Sequence[Picture] = (),
    config: VideoConfig = VideoConfig(),
    bars: Bars = no_bars,
    note: Callable[[str], None] = lambda _: None,
) -> Footage:
    """Track the head of a video, cut it out of all frames, and say what each frame is for.

    Args:
        path: A video file, or a folder of its frames.
        size: Side of the crops, pixels.
        detector: Finds faces.
        tracker: Fits the head.
        matting: Cuts the person out.
        also: Photographs of the same person; they go to the network, and supervise.
        config: What is taken.
        bars: Shows how far it is.
        note: Told what was decided: thinned, shots and frames left out.

    Raises:
        CameraError: If the head cannot be fitted.
        InputError: If it is no video, or shows no face, a small one, two people, or too little.
    """
    source = open_frames(path)
    if source.is_hdr:
        note(f"{path.name} is of high dynamic range: its colours come out pale. Export it as SDR.")
    try:
        rows = thinned(len(source), config.frames)
        if len(rows) < len(source):
            note(f"{path.name} has {len(source)} frames: {len(rows)} of them are taken, evenly.")
        with bars("Tracking the head") as tick:
            seen = _follow(source, rows, detector, tracker, tick)
        shot = longest_shot(seen)
        if shot != range(len(rows)):
            note(f"{path.name} has cuts: only its longest shot is taken, frames {rows[shot[0]]} to "
                 f"{rows[shot[-1]]}.")  # fmt: skip
        kept = [n for n in shot if seen.seen[n] is not None]
        _check_faces(path, [seen.faces[n] for n in shot if n in seen.faces], len(kept), config)
        lost = len(shot) - len(kept)
        if lost:
            note(f"{lost} of {len(shot)} frames show no face and are left out.")
        # Of frames far apart in time none is tied to the one before.
        cuts = range(len(shot)) if _apart(source, rows) else ()
        part = Followed([seen.seen[n] for n in shot], list(cuts), {})
        picture = source.read(rows[kept[0]])
        head, _ = tracker.fit_video(part, (picture.shape[1], picture.shape[0]))
        with bars("Cutting out the head") as tick:
            pixels, inside, cameras, whole = _cut(
                source, [rows[n] for n in kept], head, size, matting, tick
            )
    finally:
        source.close()
    found = Footage(
        path.name, pixels, inside, cameras, head.codes[whole], head.mesh.neutral,
        head.mesh.posed[whole], sharpness(pixels), np.array([rows[kept[n]] for n in whole]),
    )  # fmt: skip
    found = with_roles(found, replace(config, inputs=config.inputs - len(also)), note)
    if not also:
        return found
    return _joined(found, _photographed(also, size, detector, tracker, matting, head, note))


def open_frames(path: Path) -> Frames:
    """Return the frames of a video file, or of a folder of pictures in the order of their names.

    Raises:
        InputError: If there is none.
    """
    return _FolderFrames(path) if path.is_dir() else _VideoFile(path)


def thinned(count: int, most: int) -> list[int]:
    """Return numbers of at most so many frames, an equal step apart."""
    return list(range(0, count, -(-count // most)))


def longest_shot(seen: Followed) -> range:
    """Return the longest run of frames without a cut; the first of equal ones."""
    bounds = [0, *sorted({*seen.cuts} - {0}), len(seen.seen)]
    shots = [range(a, b) for a, b in zip(bounds, bounds[1:])]
    return max(shots, key=len)


def held_back(count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which of so many rows are held back: every tenth, then the last fifth."""
    end = count - int(LAST * count)
    return tuple(range(EVERY // 2, end, EVERY)), tuple(range(end, count))


def sharpness(pixels: UInt8[Tensor, "m 4 h w"]) -> Float64[np.ndarray, "m"]:
    """Return how strong edges are inside the head: the mean square of a Laplacian of its grey."""
    found: list[float] = []
    for one in pixels:
        grey, matte = one[:3].float().mean(0), one[3] > 250
        edge = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1]
        edge = edge - grey[1:-1, :-2] - grey[1:-1, 2:]
        # Of the matte's inside alone: its edge against white is always sharp.
        deep = -functional.max_pool2d(-matte[None].float(), 5, 1, 2)[0, 1:-1, 1:-1]
        found.append(float((edge.square() * deep).sum() / deep.sum().clamp(min=1)))
    return np.array(found)


def choose_inputs(
    footage: Footage, candidates: Sequence[int], count: int
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Choose frames for the network, and say why.

    The one that is seen most from the front, those at the ends of yaw and pitch, an open mouth,
    shut eyes; what is left goes to frames far from all that are chosen. Of nearly equal ones the
    sharpest is taken.

    Args:
        footage: Tracked frames.
        candidates: Rows to choose from.
        count: How many, if there are so many.
    """
    rows = np.array(candidates)
    yaw, pitch = (x[rows] for x in directions(footage.cameras))
    units = torch.stack([arkit_weights(code) for code in footage.codes.values[rows]]).numpy()
    jaw = units[:, ARKIT["jawOpen"]]
    lids = units[:, [ARKIT["eyeBlinkLeft"], ARKIT["eyeBlinkRight"]]].min(1)
    sharp = footage.sharpness[rows]
    sharp = sharp / max(float(np.median(sharp)), 1e-9)
    # Degrees; an open mouth and shut eyes count as much as 15.
    place = np.stack([np.degrees(yaw), np.degrees(pitch), 15 * jaw, 15 * lids], 1)
    unsharp = 3 * np.clip(1 - sharp, 0, 1)
    middle = np.hypot(place[:, 0], place[:, 1]) + place[:, 2] + place[:, 3]
    wanted = [
        ("from the front", -middle),
        ("farthest to the left", place[:, 0]),
        ("farthest to the right", -place[:, 0]),
        ("mouth open", place[:, 2]),
        ("eyes shut", place[:, 3]),
        ("from above", place[:, 1]),
        ("from below", -place[:, 1]),
    ]
    chosen: list[int] = []
    reasons: list[str] = []
    for reason, score in wanted:
        best = int(np.argmax(score - unsharp))
        # What hardly differs from a chosen one shows nothing new.
        off = np.linalg.norm(place[chosen] - place[best], axis=1) if chosen else np.ones(0)
        if len(off) and off.min() < ALIKE:
            reasons[int(off.argmin())] += f", {reason}"
        elif len(chosen) < count:
            chosen.append(best)
            reasons.append(reason)
    while len(chosen) < min(count, len(rows)):
        far = np.linalg.norm(place[:, None] - place[chosen], axis=-1).min(1) - unsharp
        far[chosen] = -np.inf
        chosen.append(int(np.argmax(far)))
        reasons.append("unlike the others")
    return tuple(int(rows[n]) for n in chosen), tuple(reasons)


def directions(
    cameras: Camera,
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Return from how far to the head's left, and from how far above, cameras see it; radians."""
    x, y, z = cameras.centers.double().numpy().T
    return np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))


def sheet(footage: Footage) -> UInt8[np.ndarray, "h w 3"]:
    """Draw the frames that go to the network with why, and a strip of what the others are for."""
    side, strip = 256, 24
    count = len(footage.inputs)
    canvas = Image.new("RGB", (count * side, side + 3 * strip), "white")
    draw = ImageDraw.Draw(canvas)
    yaw, pitch = (np.degrees(x) for x in directions(footage.cameras))
    for n, (row, reason) in enumerate(zip(footage.inputs, footage.reasons, strict=True)):
        view = footage.views([row])
        canvas.paste(Image.fromarray(to_bytes(view.image[0])).resize((side, side)), (n * side, 0))
        where = f"frame {footage.frames[row]}  {yaw[row]:+.0f} {pitch[row]:+.0f} deg"
        draw.text((n * side + 4, side + 4), where, fill="black")
        draw.text((n * side + 4, side + strip), reason, fill="black")
    colors = {**dict.fromkeys(footage.supervise, "steelblue"),
              **dict.fromkeys((*footage.judges, *footage.unseen), "orange"),
              **dict.fromkeys(footage.inputs, "black")}  # fmt: skip
    width = count * side / max(len(footage), 1)
    for row in range(len(footage)):
        box = (row * width, side + 2 * strip, (row + 1) * width, side + 3 * strip)
        draw.rectangle(box, fill=colors.get(row, "lightgrey"))
    draw.text((4, side + 2 * strip + 6), "network: black   fitted: blue   held back: orange   "
              "blurred, left out: grey", fill="white")  # fmt: skip
    return np.asarray(canvas)


class _VideoFile:
    """A video file."""

    def __init__(self, path: Path) -> None:
        self._capture = VideoCapture(path)
        self.name, self.fps = path.name, self._capture.fps or FPS
        self.is_hdr = self._capture.is_hdr

    def __len__(self) -> int:
        return len(self._capture.timesteps)

    def read(self, index: int) -> Rgb:
        return self._capture.view(self._capture.timesteps[index], CAMERA).image

    def close(self) -> None:
        self._capture.close()


class _FolderFrames:
    """A folder of pictures."""

    def __init__(self, path: Path) -> None:
        self._paths = sorted(one for one in path.iterdir() if is_photo(one))
        self.name, self.fps, self.is_hdr = path.name, FPS, False
        if not self._paths:
            raise InputError(f"{path} has no pictures.", "Give a folder of a video's frames.")
        self._shape: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> Rgb:
        image = read_photo(self._paths[index]).image
        self._shape = self._shape or image.shape
        if image.shape != self._shape:
            raise InputError(
                f"{self._paths[index].name} is {image.shape[1]}x{image.shape[0]}, the first frame "
                f"{self._shape[1]}x{self._shape[0]}.",
                "Frames of one video have one size; give photographs one by one.",
            )
        return image

    def close(self) -> None:
        return None


class _Pictures:
    """Photographs."""

    def __init__(self, pictures: Sequence[Picture]) -> None:
        self._pictures, self.name, self.fps = pictures, "the photographs", FPS
        self.is_hdr = False

    def __len__(self) -> int:
        return len(self._pictures)

    def read(self, index: int) -> Rgb:
        return self._pictures[index].raw.image

    def close(self) -> None:
        return None


def _follow(
    source: Frames,
    rows: Sequence[int],
    detector: Detector,
    tracker: HeadTracker,
    progress: Progress,
) -> Followed:
    """See the head in some frames; those far apart in time each by itself."""
    pictures = (source.read(row) for row in rows)
    if not _apart(source, rows):
        return tracker.follow(pictures, detector, lambda done, _: progress(done, len(rows)))
    seen: list[PointsSeen | None] = []
    faces: dict[int, list[Face]] = {}
    for n, rgb in enumerate(pictures):
        found = tracker.follow([rgb], detector)
        seen += found.seen
        faces[n] = found.faces[0]
        progress(n + 1, len(rows))
    return Followed(seen, [], faces)


def _apart(source: Frames, rows: Sequence[int]) -> bool:
    """Say whether frames are too far apart in time to follow from each other."""
    return len(rows) > 1 and (rows[1] - rows[0]) / source.fps > CLOSE_S


def _check_faces(path: Path, faces: Sequence[list[Face]], kept: int, config: VideoConfig) -> None:
    """Refuse a video that shows no one, too little of one, or two people."""
    name = path.name
    if not kept:
        raise InputError(f"No frame of {name} shows a face.", "Give a video of one head, upright.")
    if kept < config.least:
        raise InputError(
            f"Only {kept} frames of {name} show a face in one shot.",
            f"Give a video with {config.least} or more, or photographs one by one.",
        )
    sizes = [sorted((face.size for face in one), reverse=True) for one in faces if one]
    two = sum(len(one) > 1 and one[1] > RIVAL * one[0] for one in sizes)
    if two > len(sizes) / 4:
        raise InputError(
            f"{name} shows two people.", "Give a video of one, or cut the other out of the picture."
        )
    usual = float(np.median([one[0] for one in sizes]))
    if usual < MIN_FACE:
        raise InputError(
            f"The face in {name} is only {usual:.0f} pixels large.",
            f"Give a video in which it has at least {MIN_FACE}.",
        )


def _cut(
    source: Frames,
    rows: Sequence[int],
    head: TrackedHead,
    size: int,
    matting: MattingModel,
    progress: Progress,
) -> tuple[UInt8[Tensor, "m 4 h w"], Float[Tensor, "m 4"], Camera, list[int]]:
    """Cut the head out of frames; also give which of them show it at all."""
    pixels: list[Tensor] = []
    inside: list[Tensor] = []
    cameras: list[Camera] = []
    whole: list[int] = []
    for n, row in enumerate(rows):
        rgb, camera = source.read(row), head.bundle.cameras[n]
        try:
            box = square_at_head(camera)
            view = cut_head(RawView(rgb, None, None), camera, head.mesh[[n]], size, matting)
        except MissingItemError:
            continue
        finally:
            progress(n + 1, len(rows))
        corner = np.array([box.left, box.top])
        ends = np.array([[0, 0], [rgb.shape[1], rgb.shape[0]]])
        inside.append(torch.from_numpy(((ends - corner) / box.side).clip(0, 1)).flatten().float())
        planes = torch.cat([view.image, view.alpha])
        pixels.append((planes * 255).round().to(torch.uint8))
        cameras.append(cropped(camera, box, size))
        whole.append(n)
    if not whole:
        raise InputError(f"The head is in no frame of {source.name}.", "Give another video.")
    camera = Camera(
        torch.stack([one.world_to_camera for one in cameras]).float(),
        torch.stack([one.K for one in cameras]).float(), size, size,
    )  # fmt: skip
    return torch.stack(pixels), torch.stack(inside), camera, whole


def _photographed(
    pictures: Sequence[Picture],
    size: int,
    detector: Detector,
    tracker: HeadTracker,
    matting: MattingModel,
    head: TrackedHead,
    note: Callable[[str], None],
) -> Footage:
    """Return photographs like frames, with the identity that the video's head has."""
    seen = [tracker.see(one.raw.image, find_face(one, detector, None, note)) for one in pictures]
    fitted = tracker.fit(
        seen, [one.size for one in pictures], focals=[one.focal for one in pictures],
        identity=head.bundle.identity,
    )  # fmt: skip
    source = _Pictures(pictures)
    everything = range(len(pictures))
    pixels, inside, cameras, whole = _cut(source, everything, fitted, size, matting, silent)
    rows = tuple(range(len(whole)))
    return Footage(
        source.name, pixels, inside, cameras, fitted.codes[whole], head.mesh.neutral,
        fitted.mesh.posed[whole], sharpness(pixels), np.array(whole), rows,
        tuple(pictures[n].name for n in whole), rows,
    )  # fmt: skip


def _joined(video: Footage, pictures: Footage) -> Footage:
    """Return a video's frames with photographs after them."""
    m = len(video)
    more = tuple(m + n for n in pictures.inputs)
    cameras = Camera(
        torch.cat([video.cameras.world_to_camera, pictures.cameras.world_to_camera]),
        torch.cat([video.cameras.K, pictures.cameras.K]),
        video.cameras.width, video.cameras.height,
    )  # fmt: skip
    codes = torch.cat([video.codes.values, pictures.codes.values])
    return replace(
        video,
        pixels=torch.cat([video.pixels, pictures.pixels]),
        inside=torch.cat([video.inside, pictures.inside]),
        cameras=cameras,
        codes=ExpressionCode(codes, video.codes.layout),
        posed=np.concatenate([video.posed, pictures.posed]),
        sharpness=np.concatenate([video.sharpness, pictures.sharpness]),
        frames=np.concatenate([video.frames, pictures.frames]),
        inputs=more + video.inputs,
        reasons=pictures.reasons + video.reasons,
        supervise=video.supervise + more,
    )


def with_roles(
    found: Footage, config: VideoConfig, note: Callable[[str], None] = lambda _: None
) -> Footage:
    """Return the frames with what each is for."""
    judges, unseen = held_back(len(found))
    seen = set(range(len(found))) - {*judges, *unseen}
    floor = config.blurred * float(np.median(found.sharpness))
    sharp = sorted(n for n in seen if found.sharpness[n] >= floor)
    if len(sharp) < len(seen):
        note(f"{len(seen) - len(sharp)} blurred frames are left out.")
    uncut = [n for n in sharp if _uncut(found.inside[n])]
    inputs, reasons = choose_inputs(found, uncut or sharp, config.inputs)
    return replace(
        found, inputs=inputs, reasons=reasons, supervise=tuple(sharp), judges=judges, unseen=unseen
    )


def _uncut(inside: Float[Tensor, "4"]) -> bool:
    """Say whether the frame shows nearly the whole crop; its sides may be narrow."""
    left, top, right, bottom = inside.tolist()
    return left < 0.2 and top < 0.1 and right > 0.8 and bottom > 0.8
