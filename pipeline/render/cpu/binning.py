# pyright: basic
"""Sort the visible Gaussians by depth and list them for each tile of 16 x 16 pixels.

Letters: m visible Gaussians, r their rank from near to far.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.render.cpu.projection import (
    COLOR,
    DEPTH,
    LIMIT,
    PX,
    PY,
    QY,
    REACH_X,
    REACH_Y,
    RECORD,
    SLOPE_X,
    SLOPE_Y,
    U,
    V,
)

TILE = 16
"""Pixels along the edge of a tile."""

_DIGIT = 11
_ZERO, _HALF = np.float32(0.0), np.float32(0.5)


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


@njit(cache=True, nogil=True)
def pick_depths(columns, visible, keys):
    """Write the bits of the visible Gaussians' depths."""
    n = columns.shape[0] // 12
    bits = columns.view(np.uint32)
    for i in range(len(visible)):
        keys[i] = bits[DEPTH * n + visible[i]]


@njit(inline="always")
def _tiles_of(low, high, count):
    """First and last + 1 tile of pixels whose centres are between two coordinates."""
    first = int(max(np.float32(low - _HALF), _ZERO)) // TILE
    last = int(min(np.float32(high - _HALF), np.float32(count * TILE - 1)))
    return first, min(last // TILE + 1, count)


@njit(inline="always")
def tile_misses(records, r, x, y):
    """Whether a Gaussian leaves a whole tile out, from its least sigma over the pixel centres."""
    x0, x1 = x * TILE + _HALF - records[r + U], x * TILE + TILE - _HALF - records[r + U]
    y0, y1 = y * TILE + _HALF - records[r + V], y * TILE + TILE - _HALF - records[r + V]
    dy = min(max(_ZERO, y0), y1)
    dx = min(max(records[r + SLOPE_X] * dy, x0), x1)
    p, q = records[r + PX] * dx + records[r + PY] * dy, records[r + QY] * dy
    if p * p + q * q <= records[r + LIMIT]:
        return False
    dx = min(max(_ZERO, x0), x1)
    dy = min(max(records[r + SLOPE_Y] * dx, y0), y1)
    p, q = records[r + PX] * dx + records[r + PY] * dy, records[r + QY] * dy
    return p * p + q * q > records[r + LIMIT]


@njit(cache=True, nogil=True)
def make_records(columns, colors, channels, order, records, across, down, counts, start, stop):
    """Gather the records of ranks [start, stop) and count the Gaussians of each tile.

    Args:
        colors: n x channels, flat.
        counts: Gaussians of each tile, to add to.
    """
    n = columns.shape[0] // 12
    few = min(channels, 3)
    for rank in range(start, stop):
        i, r = np.int64(order[rank]), rank * RECORD
        for k in range(COLOR):
            records[r + k] = columns[k * n + i]
        for k in range(few):
            records[r + COLOR + k] = colors[i * channels + k]
        for k in range(few, 3):
            records[r + COLOR + k] = 0.0
        records[r + REACH_X] = columns[10 * n + i]
        records[r + REACH_Y] = columns[11 * n + i]
        records[r + 15] = 0.0
        x0, x1 = _tiles_of(
            records[r + U] - records[r + REACH_X], records[r + U] + records[r + REACH_X], across
        )
        y0, y1 = _tiles_of(
            records[r + V] - records[r + REACH_Y], records[r + V] + records[r + REACH_Y], down
        )
        for y in range(y0, y1):
            for x in range(x0, x1):
                if (x1 - x0) * (y1 - y0) == 1 or not tile_misses(records, r, x, y):
                    counts[y * across + x] += 1


@njit(cache=True, nogil=True)
def fill_tiles(records, across, down, heads, pairs, start, stop):
    """Write ranks [start, stop) to the lists of the tiles they touch.

    Args:
        heads: Where the next rank of each tile goes; moved on.
        pairs: The lists of all tiles, one after the other.
    """
    for rank in range(start, stop):
        r = rank * RECORD
        x0, x1 = _tiles_of(
            records[r + U] - records[r + REACH_X], records[r + U] + records[r + REACH_X], across
        )
        y0, y1 = _tiles_of(
            records[r + V] - records[r + REACH_Y], records[r + V] + records[r + REACH_Y], down
        )
        for y in range(y0, y1):
            for x in range(x0, x1):
                if (x1 - x0) * (y1 - y0) == 1 or not tile_misses(records, r, x, y):
                    tile = y * across + x
                    pairs[heads[tile]] = rank
                    heads[tile] += 1
