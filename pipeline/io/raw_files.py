"""Small foreign files, read with care: JSON, matrices, pictures, arrays without pickles."""

from __future__ import annotations

import io
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.core.arrays import Matte, Rgb
from pipeline.core.errors import FormatError, InputError, MissingItemError
from pipeline.io.images import open_picture
from pipeline.system.files import explain, is_file, read_object, require_file

BROKEN = (
    OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError,
    RuntimeError, NotImplementedError, OverflowError, MemoryError, struct.error, zlib.error,
    tokenize.TokenError,
    zipfile.BadZipFile, UnidentifiedImageError, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
"""What the readers of pictures and archives raise at damaged bytes."""

DRIFTED = "This layout differs from the one that is read; check the download or the export."

MAX_BYTES = 256 * 2**20
"""A larger member of an archive, or array, is not one of these data sets'."""


MAX_ABS = 1e9
"""A larger number in a calibration is as good as not finite."""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: If the file is missing, damaged or not an object.
    """
    if not is_file(path):
        raise InputError(f"{path} is missing.", "Download or export it again.")
    try:
        return read_object(path, "a JSON file of the data set that you named")
    except FormatError as error:
        raise InputError(
            f"{path} is damaged: {error.problem.removeprefix(str(path)).strip()}",
            "Download or export it again, and check that it is of the data set that you named.",
        ) from error


def need(values: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: object) -> Any:
    """Return an entry of a JSON object.

    Raises:
        InputError: If it is missing or of another type; names what is there instead.
    """
    if key not in values:
        there = ", ".join(sorted(map(str, values))[:12])
        raise InputError(
            f"{where} has no {key!r}; it has {there or 'nothing'}.",
            DRIFTED,
        )
    value = values[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InputError(
            f"{where}: {key!r} is a {type(value).__name__}.",
            DRIFTED,
        )
    return value


def number(values: Mapping[str, Any], key: str, where: object) -> float:
    """Return a finite number of a JSON object.

    Raises:
        InputError: If it is missing or not one.
    """
    value = need(values, key, (int, float), where)
    if not abs(value) < MAX_ABS:  # written so that nan fails too
        raise InputError(f"{where}: {key!r} is no usable number.", "Export it again.")
    return float(value)


def matrix(values: Any, shape: tuple[int, ...], where: object) -> Float64[np.ndarray, "..."]:
    """Return an array of finite numbers from nested lists.

    Raises:
        InputError: If it has another shape, or holds something else.
    """
    try:
        array = np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        array = np.zeros(0)
    if array.shape != shape or not (np.abs(array) < MAX_ABS).all():
        raise InputError(
            f"{where} is not {'x'.join(map(str, shape))} finite numbers.",
            "Download or export it again; a drifted layout cannot be read.",
        )
    return array


def decode_picture(data: bytes, where: object) -> Image.Image:
    """Open an encoded picture, whole.

    Raises:
        MissingItemError: If it is truncated, not a picture, or absurdly large.
    """
    try:
        with warnings.catch_warnings():
            # Some (odd metadata of a picture that can be read) concern nobody here.
            warnings.simplefilter("ignore", UserWarning)
            image = open_picture(io.BytesIO(data), where)
            image.load()
            return ImageOps.exif_transpose(image)
    except InputError as error:
        raise MissingItemError(error.problem, error.remedy) from error
    except BROKEN as error:
        raise MissingItemError(f"{where} is not a whole picture.", "Download it again.") from error


def read_picture(path: Path) -> Image.Image:
    """Open a picture file upright, whole.

    Raises:
        MissingItemError: If it is missing or damaged.
    """
    return decode_picture(read_bytes(path), path)


def read_bytes(path: Path) -> bytes:
    """Read a file that may be missing.

    Raises:
        MissingItemError: If it cannot be read.
    """
    try:
        return require_file(path, "what was downloaded or exported").read_bytes()
    except InputError as error:
        raise MissingItemError(error.problem, error.remedy) from error
    except OSError as error:
        told = explain(error, f"Cannot read {path}")
        raise MissingItemError(told.problem, told.remedy) from error


def rgb_of(image: Image.Image, where: object) -> Rgb:
    """Return a picture as 8-bit RGB.

    Raises:
        MissingItemError: If it is not an 8-bit picture with colours or greys.
    """
    if image.mode not in ("RGB", "RGBA", "RGBX", "L", "LA", "P", "CMYK", "YCbCr"):
        raise MissingItemError(
            f"{where} is a picture of the kind {image.mode}.", "An 8-bit colour picture is needed."
        )
    return np.asarray(image.convert("RGB"))


def grey_of(image: Image.Image, where: object) -> Matte:
    """Return the first channel of an 8-bit picture, as labels and mattes are written.

    Raises:
        MissingItemError: If it is not an 8-bit picture.
    """
    if image.mode in ("P", "1"):
        image = image.convert("L") if image.mode == "1" else image
    values = np.asarray(image)
    if values.ndim == 3:
        values = values[..., 0]
    if values.ndim != 2 or values.dtype != np.uint8:
        raise MissingItemError(
            f"{where} is a picture of the kind {image.mode}.", "An 8-bit grey picture is needed."
        )
    return np.ascontiguousarray(values)


def read_npz(
    path: Path, wanted: Callable[[str], bool] = lambda name: True, max_bytes: int = MAX_BYTES
) -> dict[str, np.ndarray]:
    """Read the arrays of an npz file; a pickled one is refused, not executed.

    Args:
        path: The file.
        wanted: Says by its name whether an array is of use; others are not looked at.
        max_bytes: Of all wanted arrays together.

    Raises:
        MissingItemError: If the file is missing, damaged, too large, or holds objects.
    """
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            if isinstance(file, np.ndarray):
                raise MissingItemError(f"{path} is not an npz file.", "Export it again.")
            sizes = {i.filename.removesuffix(".npy"): i.file_size for i in file.zip.infolist()}
            names = [name for name in file.files if wanted(name)]
            if sum(sizes.get(name, max_bytes + 1) for name in names) > max_bytes:
                raise MissingItemError(
                    f"{path} unpacks to over {max_bytes >> 20} MB.", "Export it again."
                )
            arrays = {name: file[name] for name in names}
            if any(a.dtype.kind not in "biufSU" for a in arrays.values()):
                raise ValueError("neither numbers nor text")
            return arrays
    except MissingItemError:
        raise
    except BROKEN as error:
        raise MissingItemError(
            f"{path} is not a whole npz file of plain arrays.", "Export it again."
        ) from error


def load_array(data: bytes, where: object) -> np.ndarray:
    """Read an npy file's bytes; pickled objects are refused.

    Raises:
        MissingItemError: If it is damaged or holds objects.
    """
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
    except BROKEN as error:
        raise MissingItemError(
            f"{where} is not a whole npy file of plain numbers.", "Download it again."
        ) from error
    if not isinstance(array, np.ndarray):
        raise MissingItemError(f"{where} is not an npy file.", "Download it again.")
    return array
