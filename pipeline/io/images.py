"""Pictures: files and bytes to arrays and back."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.errors import InputError
from pipeline.system.files import require_file, write_whole


def read_rgb(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read a picture upright, as 8-bit RGB; transparent parts become white.

    Raises:
        InputError: If the file is missing, truncated or not a picture.
    """
    require_file(path, "a picture")
    try:
        with Image.open(path) as image:
            upright = ImageOps.exif_transpose(image)
            if "A" in upright.getbands() or "transparency" in upright.info:
                rgba = upright.convert("RGBA")
                white = Image.new("RGBA", rgba.size, "white")
                upright = Image.alpha_composite(white, rgba)
            return np.asarray(upright.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise InputError(
            f"{path} is not a picture that can be read.", "Give a whole JPEG, PNG, WebP or AVIF."
        ) from error


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
        ValueError: If the bytes are not a whole picture.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise ValueError("not a picture") from error
    return image


def _encode(image: Image.Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
