"""Reader of a plain folder of photographs of one person: each is a moment of its own.

Cameras are not known; `pipeline.prep.photos` estimates them, of all photographs together.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from pipeline.captures.capture import Capture, RawView, Timestep, backdrop, natural
from pipeline.core.arrays import Matte
from pipeline.core.errors import InputError, MissingItemError
from pipeline.io.images import open_picture
from pipeline.io.raw_files import read_picture, rgb_of

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
UNREAD = (".heic", ".heif", ".cr2", ".cr3", ".nef", ".arw", ".dng")
"""Photographs too, but in formats that are not read."""
OPAQUE = 250
CAMERA = "photo"
SENSORS = (4 / 3, 3 / 2, 16 / 9)
"""Proportions of pictures as cameras make them."""


class PhotosCapture(Capture):
    """The photographs of one folder, by name.

    Raises:
        InputError: If there is none that can be read.
    """

    source = "photos"
    color = "as-photographed"
    cameras = (CAMERA,)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = self.subject = path.resolve().name
        names = natural(p.name for p in path.iterdir() if p.is_file()) if path.is_dir() else []
        self.files = tuple(path / n for n in names if is_photo(Path(n)))
        """The photographs; the index of a timestep counts them from 0."""
        self._unread = [n for n in names if Path(n).suffix.lower() in UNREAD]
        if not self.files:
            raise InputError(
                f"There is no photograph in {path}"
                + (f", but {len(self._unread)} raw or HEIC files." if self._unread else "."),
                f"Give pictures of the kinds {', '.join(ENDINGS)}.",
            )
        self.timesteps = tuple(Timestep("photos", i) for i in range(len(self.files)))
        self.facts = {"cameras": "not known, to be estimated"}

    def missing(self) -> Mapping[str, str]:
        """Photographs in formats that are not read."""
        return {name: "not read; export it as JPEG" for name in self._unread}

    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether there is such a photograph."""
        return camera == CAMERA and timestep in self.timesteps

    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Read one photograph upright; a transparent one has its matte with it."""
        if not self.has(timestep, camera):
            raise MissingItemError(
                f"{self.path} has no photograph {timestep.index}.", f"It has {len(self.files)}."
            )
        return read_photo(self.files[timestep.index])

    def focal(self, timestep: Timestep) -> float | None:
        """Return the focal length that the camera noted, pixels."""
        return exif_focal(self.files[timestep.index])


def read_photo(path: Path) -> RawView:
    """Read one photograph upright; a transparent one has its matte with it.

    Raises:
        MissingItemError: If it is missing or damaged.
    """
    picture = read_picture(path)
    matte: Matte | None = None
    if "A" in picture.getbands():
        cover = np.asarray(picture.getchannel("A"))
        # Many programs save an alpha channel that is opaque everywhere: nobody cut that out.
        matte = cover if cover.min() < OPAQUE else None
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    image = rgb_of(picture, path)
    return RawView(image, None, matte, backdrop(image, matte))


def exif_focal(path: Path) -> float | None:
    """Return the focal length in pixels if the camera noted it and the picture was not cut.

    A cut keeps the note but makes it wrong; most cuts also change the picture's proportions.
    """
    try:
        with open_picture(path, path) as image:
            size = image.size
            tags = image.getexif().get_ifd(ExifTags.IFD.Exif)
            equivalent = float(tags.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
    except (OSError, UnidentifiedImageError, SyntaxError, TypeError, ValueError):
        return None  # damaged metadata is no reason to refuse a picture that can be read
    whole = any(abs(max(size) / min(size) - ratio) < 0.01 * ratio for ratio in SENSORS)
    # 43.27 mm is the diagonal of a 36 x 24 mm film.
    focal = float(np.hypot(*size)) * equivalent / 43.27
    return focal if whole and 8 <= equivalent <= 1000 else None


def is_photo(path: Path) -> bool:
    """Say whether a file is named as a photograph that can be read."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".")
