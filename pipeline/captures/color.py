"""Colour corrections that data sets ship beside their pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float32, Float64

from pipeline.core.arrays import Rgb
from pipeline.core.errors import InputError, MissingItemError, MissingPackageError
from pipeline.core.srgb import encode, linearize
from pipeline.io.raw_files import load_array, read_bytes

TERMS = (3, 4, 5, 7, 8, 10, 11, 14, 16, 17, 19, 20, 22, 35)
"""Numbers of terms for which Cheung's polynomials are defined."""

MAX_ABS = 1e3
"""A larger number in a colour correction comes of a damaged file."""


class Correction(Protocol):
    """Gives a picture in its true colours."""

    def __call__(self, image: Rgb) -> Rgb:
        """Correct one picture."""
        ...


class Affine:
    """An affine map of the encoded colours: rgb A + b, in [0, 1].

    Raises:
        MissingItemError: If the matrix has another shape.
    """

    def __init__(self, values: np.ndarray, where: object) -> None:
        fits = values.shape in ((3, 4), (4, 4)) and values.dtype.kind == "f"
        if not fits or not (np.abs(values) < MAX_ABS).all():
            raise MissingItemError(
                f"{where} is {values.dtype} {list(values.shape)}, not an affine colour matrix.",
                "Download it again.",
            )
        self._A = values[:3, :3].astype(np.float32)
        self._b = values[:3, 3].astype(np.float32)

    @classmethod
    def read(cls, path: Path) -> Affine:
        """Read the matrix from an npy file."""
        return cls(load_array(read_bytes(path), path), path)

    def __call__(self, image: Rgb) -> Rgb:
        """Correct one picture."""
        return _bytes(image.astype(np.float32) / 255 @ self._A + self._b)


class Cheung:
    """A polynomial in linear light, after Cheung et al. 2004.

    Raises:
        InputError: If the matrix is not 3 x one of the defined numbers of terms.
        MissingPackageError: If colour-science, which has the polynomials, is not installed.
    """

    def __init__(self, values: Any, where: object) -> None:
        self._map = _array(values)
        """[3, terms]"""
        shape = self._map.shape
        if len(shape) != 2 or shape[0] != 3 or shape[1] not in TERMS:
            raise InputError(
                f"{where} is {list(shape)}, not 3 x {', '.join(map(str, TERMS))} numbers.",
                "Download the colour calibration again.",
            )
        if not (np.abs(self._map) < MAX_ABS).all():
            raise InputError(
                f"{where} has absurd numbers.", "Download the colour calibration again."
            )

    @property
    def terms(self) -> int:
        """How many terms the polynomial has."""
        return self._map.shape[1]

    def __call__(self, image: Rgb) -> Rgb:
        """Correct one picture, a band of rows at a time: the terms take much memory."""
        augment = _augment()
        out = np.empty_like(image)
        for y in range(0, len(image), 64):
            linear = _DECODE[image[y : y + 64]]
            corrected = augment(linear.reshape(-1, 3), terms=self.terms) @ self._map.T
            out[y : y + 64] = _bytes(encode(np.clip(corrected, 0, 1))).reshape(
                out[y : y + 64].shape
            )
        return out


def _array(values: Any) -> np.ndarray:
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)


def _augment() -> Any:
    try:
        from colour.characterisation import (  # noqa: PLC0415  slow to import
            matrix_augmented_Cheung2004,
        )
    except ImportError as error:
        raise MissingPackageError(
            "Correcting these colours needs colour-science.", "Run pip install 'fastgha[prep]'."
        ) from error
    return matrix_augmented_Cheung2004


_DECODE = linearize(np.arange(256) / 255)


def _bytes(values: Float32[np.ndarray, "*n 3"] | Float64[np.ndarray, "*n 3"]) -> np.ndarray:
    return np.round(np.clip(values, 0, 1) * 255).astype(np.uint8)
