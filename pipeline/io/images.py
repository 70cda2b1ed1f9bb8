"""Pictures: files and bytes to arrays and back."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import InputError
from pipeline.system.files import require_file, write_whole

MAX_PIXELS = 2**27
"""A larger picture would take gigabytes; cameras make up to 100 million."""
MAX_RATIO = 20
"""A picture that is longer shows no head, and work on it may take for ever."""

BROKEN = (
    OSError, EOFError, UnidentifiedImageError, SyntaxError, ValueError, TypeError, KeyError,
    IndexError, AttributeError, RuntimeError, OverflowError, MemoryError, struct.error, zlib.error,
)  # fmt: skip
"""What Pillow raises at damaged bytes."""


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture upright, as 8-bit RGB; transparent parts become white.

    Raises:
        InputError: If the file is missing, truncated, not a picture, or of an absurd size.
    """
    require_file(path, "a picture")
    try:
        with warnings.catch_warnings(), open_picture(path, path) as image:
            # Some (odd metadata of a picture that can be read) concern nobody here.
            warnings.simplefilter("ignore", UserWarning)
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                upright = Image.alpha_composite(white, rgba)
            return np.asarray(upright.convert("RGB"))
    except BROKEN as error:
        raise InputError(
            f"{path} is not a picture that can be read.", "Give a whole JPEG, PNG, WebP or AVIF."
        ) from error


def open_picture(source: Path | io.BytesIO, where: object) -> Image.Image:
    """Open a picture as far as its header, whose size must be sane; the pixels wait.

    Other faults are Pillow's own.

    Raises:
        InputError: If it has too many pixels or is much longer than wide.
    """
    remedy = f"Give one of at most {MAX_PIXELS // 10**6} million pixels."
    try:
        with warnings.catch_warnings():
            # Of sizes between Pillow's limit and ours, and of odd metadata.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            image = Image.open(source)
    except Image.DecompressionBombError as error:
        raise InputError(f"{where} has too many pixels.", remedy) from error
    width, height = image.size
    long = max(width, height) > MAX_RATIO * min(width, height)
    if long or width * height > MAX_PIXELS:
        image.close()
        if long:
            remedy = f"Give one that is at most {MAX_RATIO} times as long as it is wide."
        raise InputError(f"{where} is {width}x{height} pixels.", remedy)
    return image


def write_rgb(path: Path, rgb: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a picture whole, in the format of its ending."""
    image = Image.fromarray(rgb)
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path} has no ending of a picture.", "Name it .png or .jpg.")
    write_whole(path, lambda part: image.save(part, kind, quality=92))


def encode_jpeg(rgb: UInt8[np.ndarray, "h w 3"], quality: int = 95) -> bytes:
    """Return a picture as JPEG bytes with colour at full resolution."""
    return _encode(Image.fromarray(rgb), "JPEG", quality=quality, subsampling=0)


def encode_png(
    picture: UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"],
) -> bytes:
    """Return a picture (8-bit colour or grey, or 16-bit grey) as PNG bytes."""
    return _encode(Image.fromarray(picture), "PNG", compress_level=2)


def decode(data: bytes) -> Image.Image:
    """Open an encoded picture.

    Raises:
        ValueError: If the bytes are not a whole picture, or one of an absurd size.
    """
    try:
        image = open_picture(io.BytesIO(data), "It")
        image.load()
    except (*BROKEN, InputError) as error:
        raise ValueError("not a picture") from error
    return image


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
