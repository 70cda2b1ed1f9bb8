"""Pictures that pass between the parts as arrays of numpy: their names, and where they hold what.

Letters: h height, w width.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8
from scipy import ndimage

Rgb = UInt8[np.ndarray, "h w 3"]
"""sRGB, 8 bit."""
Matte = UInt8[np.ndarray, "h w"]
"""Coverage by the person, 8 bit: as data sets ship it and files hold it."""
Alpha = Float32[np.ndarray, "h w"]
"""Coverage by the person, in [0, 1]: as networks give it."""


def nearest_true(
    mask: Bool[np.ndarray, "h w"],
) -> tuple[Int32[np.ndarray, "2 h w"], Bool[np.ndarray, "h w"]]:
    """Return the row and column of each pixel's nearest one in a mask, and whether there is one."""
    if not mask.any():
        return np.indices(mask.shape, np.int32), mask
    nearest = np.empty((2, *mask.shape), np.int32)
    ndimage.distance_transform_edt(~mask, return_distances=False,
                                   return_indices=True, indices=nearest)  # fmt: skip
    return nearest, np.ones_like(mask)
