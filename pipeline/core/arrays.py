"""Names of the pictures that pass between the parts as arrays of numpy.

Letters: h height, w width.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

Rgb = UInt8[np.ndarray, "h w 3"]
"""sRGB, 8 bit."""
Matte = UInt8[np.ndarray, "h w"]
"""Coverage by the person, 8 bit: as data sets ship it and files hold it."""
Alpha = Float32[np.ndarray, "h w"]
"""Coverage by the person, in [0, 1]: as networks give it."""
