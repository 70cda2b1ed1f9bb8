"""Where NeRSemble keeps the pictures of a sequence, in its several layouts."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from pipeline.captures.capture import natural
from pipeline.core.arrays import Matte, Rgb
from pipeline.core.errors import MissingItemError
from pipeline.io.raw_files import grey_of, read_picture, rgb_of
from pipeline.io.video_frames import VideoFrames

VIDEO = re.compile(r"cam_(\w+)\.mp4")
STILL = re.compile(r"cam_(\w+)\.(?:png|jpg|jpeg)")
NUMBERED = re.compile(r"cam_([^_]+)_(\d{1,6})\.(?:png|jpg|jpeg)")
FRAME = re.compile(r"frame_(\d{1,6})")
IMAGES = ("images-2x-73fps", "images-2x", "images-73fps", "images")
MATTES = ("alpha_map-73fps", "alpha_map", "alpha_maps")
EXPORTS = ("images", "images_2", "images_4", "images_8")
NO_SEQUENCES = ("BACKGROUND", "annotations", "calibration", "sequences")


class Pictures(ABC):
    """The pictures of one sequence."""

    kind: str
    """For the report."""
    mattes: str
    """For the report."""

    @abstractmethod
    def cameras(self) -> Iterable[str]:
        """Return the cameras that have pictures."""

    @abstractmethod
    def numbers_of(self, camera: str) -> Int64[np.ndarray, "n"]:
        """Return the numbers of a camera's frames; raises MissingItemError for a broken file."""

    @abstractmethod
    def read(self, index: int, camera: str) -> Rgb:
        """Read one picture."""

    @abstractmethod
    def matte(self, index: int, camera: str, size: tuple[int, ...]) -> Matte | None:
        """Read one matte, at (width, height); None if the sequence has none."""

    def has(self, index: int, camera: str) -> bool:
        """Say whether there is a picture."""
        try:
            return bool(np.isin(index, self.numbers_of(camera)))
        except MissingItemError:
            return False

    def numbers(self) -> Int64[np.ndarray, "n"]:
        """Return the numbers of the frames that any camera has."""
        found = [np.zeros(0, np.int64)]
        for camera in self.cameras():
            try:
                found.append(self.numbers_of(camera))
            except MissingItemError:
                continue
        return np.unique(np.concatenate(found))

    def close(self) -> None:  # noqa: B027  pictures in files keep nothing open
        """Close whatever files are open."""


class Videos(Pictures):
    """A video for each camera, and perhaps one of its matte."""

    kind = "videos"

    def __init__(self, folder: Path, mattes: Path) -> None:
        self._videos = _videos(folder)
        self._mattes = _videos(mattes) if mattes != folder else {}
        self.mattes = "alpha_maps (videos)" if self._mattes else "none shipped"

    def cameras(self) -> Iterable[str]:
        """Return the cameras that have a video."""
        return self._videos

    def numbers_of(self, camera: str) -> Int64[np.ndarray, "n"]:
        """Count the frames by the video's header."""
        video = self._videos.get(camera)
        return np.arange(0 if video is None else video.count())

    def has(self, index: int, camera: str) -> bool:
        """Say whether video and matte are long enough."""
        if not super().has(index, camera):
            return False
        try:
            return not self._mattes or (
                camera in self._mattes and index < self._mattes[camera].count()
            )
        except MissingItemError:
            return False

    def read(self, index: int, camera: str) -> Rgb:
        """Decode one frame."""
        if camera not in self._videos:
            raise MissingItemError(f"There is no video of camera {camera}.", "Download it.")
        return self._videos[camera].read(index)

    def matte(self, index: int, camera: str, size: tuple[int, ...]) -> Matte | None:
        """Decode one frame of the matte's video: its first channel."""
        if not self._mattes:
            return None
        if camera not in self._mattes:
            raise MissingItemError(f"There is no matte of camera {camera}.", "Download it.")
        return _sized(np.ascontiguousarray(self._mattes[camera].read(index)[..., 0]), size)

    def close(self) -> None:
        """Close all videos."""
        for video in (*self._videos.values(), *self._mattes.values()):
            video.close()


class Stills(Pictures):
    """A picture file for each frame and camera."""

    def __init__(
        self, kind: str, images: dict[tuple[int, str], Path], mattes: dict[tuple[int, str], Path]
    ) -> None:
        self.kind = kind
        self._images = images
        self._mattes = mattes
        self.mattes = "alpha maps" if mattes else "none shipped"
        by_camera: dict[str, list[int]] = defaultdict(list)
        for index, camera in images:
            by_camera[camera].append(index)
        self._numbers = {c: np.unique(numbers) for c, numbers in by_camera.items()}

    def cameras(self) -> Iterable[str]:
        """Return the cameras that have pictures."""
        return self._numbers

    def numbers_of(self, camera: str) -> Int64[np.ndarray, "n"]:
        """Return the numbers in the files' names."""
        return self._numbers.get(camera, np.zeros(0, np.int64))

    def has(self, index: int, camera: str) -> bool:
        """Say whether there is a picture with its matte."""
        key = (index, camera)
        return key in self._images and (not self._mattes or key in self._mattes)

    def read(self, index: int, camera: str) -> Rgb:
        """Read one picture file."""
        file = self._images.get((index, camera))
        if file is None:
            raise MissingItemError(
                f"There is no picture of frame {index} by camera {camera}.",
                "Not every camera has every frame.",
            )
        return rgb_of(read_picture(file), file)

    def matte(self, index: int, camera: str, size: tuple[int, ...]) -> Matte | None:
        """Read one matte file."""
        if not self._mattes:
            return None
        file = self._mattes.get((index, camera))
        if file is None:
            raise MissingItemError(
                f"There is no matte of frame {index} by camera {camera}.",
                "Others of this sequence have one; this was lost.",
            )
        return _sized(grey_of(read_picture(file), file), size)


def find_sequences(path: Path) -> dict[str, Pictures]:
    """Return the sequences of a participant that have pictures, by name."""
    roots = [folder for folder in (path / "sequences", path) if folder.is_dir()]
    found: dict[str, Pictures] = {}
    for folder in (child for root in roots for child in root.iterdir() if child.is_dir()):
        if folder.name not in NO_SEQUENCES and folder.name not in found:
            pictures = _pictures(folder)
            if pictures is not None:
                found[folder.name] = pictures
    return {name: found[name] for name in natural(found)}


def _pictures(folder: Path) -> Pictures | None:
    """Return the best pictures of a sequence: with mattes before without, stills before videos."""
    frames = _frames(folder)
    if frames is not None:
        return frames
    exported = _exported(folder)
    if exported is not None and (exported.mattes != "none shipped"):
        return exported
    for videos in (folder / "images", folder):
        if _videos(videos):
            return Videos(videos, folder / "alpha_maps")
    return exported


def _frames(folder: Path) -> Stills | None:
    """Version 1's zips: a folder for each frame."""
    images: dict[tuple[int, str], Path] = {}
    mattes: dict[tuple[int, str], Path] = {}
    kinds: set[str] = set()
    for frame in folder.iterdir():
        number = FRAME.fullmatch(frame.name)
        if number is None or not frame.is_dir():
            continue
        for names, target in ((IMAGES, images), (MATTES, mattes)):
            name = next((n for n in names if (frame / n).is_dir()), None)
            if name is None:
                continue
            if target is images:
                kinds.add(name)
            for file in (frame / name).iterdir():
                if camera := STILL.fullmatch(file.name):
                    target[int(number[1]), camera[1]] = file
    return Stills("+".join(sorted(kinds)), images, mattes) if images else None


def _exported(folder: Path) -> Stills | None:
    """What VHAP leaves in a sequence: numbered pictures, the largest that there are."""
    for name in EXPORTS:
        images = _numbered(folder / name)
        if images:
            return Stills(f"{name} (VHAP)", images, _numbered(folder / "alpha_maps"))
    return None


def _numbered(folder: Path) -> dict[tuple[int, str], Path]:
    found: dict[tuple[int, str], Path] = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        if name := NUMBERED.fullmatch(file.name):
            found[int(name[2]), name[1]] = file
    return found


def _videos(folder: Path) -> dict[str, VideoFrames]:
    files = natural(p.name for p in folder.iterdir()) if folder.is_dir() else []
    return {name[1]: VideoFrames(folder / f) for f in files if (name := VIDEO.fullmatch(f))}


def _sized(matte: Matte, size: tuple[int, ...]) -> Matte:
    if matte.shape == (size[1], size[0]):
        return matte
    return np.asarray(Image.fromarray(matte).resize((size[0], size[1]), Image.Resampling.BOX))
