# pyright: basic, reportCallIssue=false, reportArgumentType=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""Sort the visible Gaussians by depth and list them for each tile of 16 x 16 pixels."""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.render.cpu.projection import LARGE
from pipeline.render.cpu.simd import lowest_bit, prefetch

AHEAD = 16
"""Boxes are fetched so many before they are needed."""

_DIGIT = 11
"""Bits sorted at a time: three rounds make 32."""


@njit(cache=True, nogil=True)
def sort_by_depth(keys, indices):
    """Order indices by their keys, stably: a radix sort of positive floats read as integers.

    Args:
        keys: uint32, the bits of the depths; overwritten.
        indices: int32; overwritten.

    Returns:
        The ordered indices (one of two buffers).
    """
    m = len(keys)
    other_keys, other = np.empty_like(keys), np.empty_like(indices)
    counts = np.zeros((3, 1 << _DIGIT), np.int32)
    low = np.uint32((1 << _DIGIT) - 1)
    for i in range(m):
        key = keys[i]
        counts[0, key & low] += 1
        counts[1, (key >> np.uint32(_DIGIT)) & low] += 1
        counts[2, key >> np.uint32(2 * _DIGIT)] += 1
    for digit in range(3):
        row = counts[digit]
        shift = np.uint32(digit * _DIGIT)
        if m and row[(keys[0] >> shift) & low] == m:
            continue
        total = 0
        for d in range(1 << _DIGIT):
            total, row[d] = total + row[d], total
        for i in range(m):
            d = (keys[i] >> shift) & low
            at = row[d]
            row[d] = at + 1
            other_keys[at] = keys[i]
            other[at] = indices[i]
        keys, other_keys = other_keys, keys
        indices, other = other, indices
    return indices


@njit(cache=True, nogil=True, _nrt=False)
def fill_tiles(order, boxes, across, low, high, heads, pairs):
    """Write the Gaussians of the tiles in rows [low, high), each tile's from near to far.

    Args:
        order: Indices from near to far.
        boxes: The tiles each touches, from `projection.project`.
        heads: Where the next Gaussian of each tile goes; moved on.
        pairs: The lists of all tiles, one after the other.
    """
    for rank in range(len(order)):
        prefetch(boxes, 2 * np.int64(order[min(rank + AHEAD, len(order) - 1)]))
        i = np.int64(order[rank])
        box, bits = boxes[2 * i], boxes[2 * i + 1]
        y0, y1 = box >> 32 & 0xFFFF, box >> 48
        if y1 <= low or y0 >= high:
            continue
        x0, x1 = box & 0xFFFF, box >> 16 & 0xFFFF
        if bits == LARGE:
            for y in range(max(y0, low), min(y1, high)):
                for x in range(x0, x1):
                    tile = y * across + x
                    pairs[heads[tile]] = i
                    heads[tile] += 1
            continue
        while bits:
            b = lowest_bit(bits)
            bits &= bits - 1
            y = y0 + (b >> 2)
            if low <= y < high:
                tile = y * across + x0 + (b & 3)
                pairs[heads[tile]] = i
                heads[tile] += 1
