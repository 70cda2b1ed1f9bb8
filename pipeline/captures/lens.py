"""Lens distortion, taken out of pictures once, when they are read.

Letters: h height, w width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, UInt8
from scipy import ndimage

from pipeline.core.types import Camera
from pipeline.io.raw_files import number

Picture = TypeVar("Picture", bound=UInt8[np.ndarray, "..."])


@dataclass(frozen=True)
class Lens:
    """Radial and tangential distortion in OpenCV's model."""

    k1: float = 0.0
    k2: float = 0.0
    p1: float = 0.0
    p2: float = 0.0
    k3: float = 0.0

    @classmethod
    def read(cls, values: Mapping[str, Any], where: object) -> Lens | None:
        """Return the lens of an object with k1, k2, p1, p2, k3; None if all are zero or absent."""
        names = [n for n in ("k1", "k2", "p1", "p2", "k3") if values.get(n) is not None]
        lens = cls(**{name: number(values, name, where) for name in names})
        return None if lens == cls() else lens

    def distort(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return where a point (x, y, 1) of an ideal camera appears, in the same units."""
        r2 = x * x + y * y
        radial = 1 + r2 * (self.k1 + r2 * (self.k2 + r2 * self.k3))
        return (
            x * radial + 2 * self.p1 * x * y + self.p2 * (r2 + 2 * x * x),
            y * radial + self.p1 * (r2 + 2 * y * y) + 2 * self.p2 * x * y,
        )


def undistort(picture: Picture, camera: Camera, lens: Lens) -> Picture:
    """Return the picture that an ideal camera with the same `K` would have taken.

    What the real one did not see is repeated from its edge.
    """
    rows, columns = _sources(camera, lens)
    planes = picture[..., None] if picture.ndim == 2 else picture
    out = np.empty_like(planes)
    for c in range(planes.shape[2]):
        ndimage.map_coordinates(
            planes[..., c], [rows, columns], output=out[..., c], order=1, mode="nearest"
        )
    return out.reshape(picture.shape)  # pyright: ignore[reportReturnType]


def _sources(
    camera: Camera, lens: Lens
) -> tuple[Float64[np.ndarray, "h w"], Float64[np.ndarray, "h w"]]:
    """Return row and column, counted from the first pixel's centre, where each pixel comes from."""
    K = camera.K.double().numpy()
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    y = (v - K[1, 2]) / K[1, 1]
    x = (u - K[0, 2] - K[0, 1] * y) / K[0, 0]
    x, y = lens.distort(x, y)
    return K[1, 1] * y + K[1, 2] - 0.5, K[0, 0] * x + K[0, 1] * y + K[0, 2] - 0.5
