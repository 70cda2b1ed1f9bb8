"""The curve of sRGB: between the numbers of pictures and light.

Source:
    IEC 61966-2-1.
"""

import numpy as np


def linearize(encoded: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB values in [0, 1]."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def encode(linear: np.ndarray) -> np.ndarray:
    """Return the sRGB values of linear light in [0, 1]."""
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
