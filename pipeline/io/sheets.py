"""Sheets: several pictures in one, to look at."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor


def grid(rows: Sequence[Float[Tensor, "v 3 h w"]]) -> UInt8[np.ndarray, "h w 3"]:
    """Lay pictures out in rows, filled with white."""
    columns = max(len(row) for row in rows)
    filled = [torch.cat([r.cpu(), torch.ones(columns - len(r), *r.shape[1:])]) for r in rows]
    sheet = torch.cat([torch.cat(list(row), dim=-1) for row in filled], dim=-2)
    return to_bytes(sheet)


def to_bytes(image: Float[Tensor, "3 h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture in [0, 1] as bytes, rounded to nearest."""
    scaled = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(1, 2, 0).cpu().numpy()
