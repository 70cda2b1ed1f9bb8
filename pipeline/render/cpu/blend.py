# pyright: basic, reportCallIssue=false, reportArgumentType=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""Blend the Gaussians of each tile from front to back.

A vector is a block of 4 x 4 pixels; a tile has 16 blocks. The list of a tile is taken in
chunks: for each Gaussian one vector test tells which blocks it touches, then each block runs
through its own Gaussians with its 16 pixels in registers.

Letters: b block, e entry of a block's list, T transmittance.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.render.cpu.projection import (
    COLOR,
    DEPTH,
    LIMIT,
    LOG2_255,
    LOG_OPACITY,
    PX,
    PY,
    QY,
    RECORD,
    SLOPE_X,
    SLOPE_Y,
    STEPS_X,
    STEPS_Y,
    TILE,
    U,
    V,
    reaches,
)
from pipeline.render.cpu.simd import (
    WIDTH,
    any_of,
    exp2,
    fma,
    from_bits,
    lanes,
    load,
    lowest_bit,
    minimum,
    prefetch,
    splat,
    store,
    to_bits,
    transpose_bits,
    where,
)
from pipeline.render.types import MAX_ALPHA, MIN_COVER, MIN_TRANSMITTANCE

CHUNK = 64
"""Gaussians of a tile's list that are blended before the next are looked at: bits of a word."""
AHEAD = 12
"""Records are fetched so many before they are needed."""
BLOCKS = 16
"""Blocks of a tile, each of WIDTH pixels."""
PLANES = 5
"""What is kept of a pixel: transmittance, three channels, weighted depth."""

LEAST = np.float32(-LOG2_255)
LOG_MAX_ALPHA = np.float32(math.log2(MAX_ALPHA))

_HALF = np.float32(0.5)
_ONE = np.uint64(1)


@njit(inline="always")
def touched_blocks(records, r, x, y):
    """Bits of the blocks of a tile that a Gaussian may reach; x, y: the tile's corner, pixels."""
    left = lanes(STEPS_X) * 4.0 + (x + _HALF - records[r + U])
    top = lanes(STEPS_Y) * 4.0 + (y + _HALF - records[r + V])
    return reaches(
        records[r + PX], records[r + PY], records[r + QY], records[r + SLOPE_X],
        records[r + SLOPE_Y], splat(records[r + LIMIT]), left, top, np.float32(3.0),
    )  # fmt: skip


@njit(inline="always")
def turn_chunk(touched, count, halves):
    """Write, for each block, which of a chunk's Gaussians touch it: a bit for each.

    Args:
        touched: The blocks of each Gaussian; what follows the last is overwritten with 0.
        halves: BLOCKS x CHUNK bits as uint16, written.
    """
    for k in range(count, CHUNK):
        touched[k] = 0
    for k in range(0, CHUNK, WIDTH):
        transpose_bits(touched, k, halves, k // WIDTH, CHUNK // WIDTH)


@njit(inline="always")
def inside_bits(b, x, y, width, height):
    """Bits of the pixels of a block that are inside the picture."""
    left = lanes(STEPS_X) + np.float32(x + b % 4 * 4)
    top = lanes(STEPS_Y) + np.float32(y + b // 4 * 4)
    return to_bits((left < np.float32(width)) & (top < np.float32(height)))


@njit(inline="always")
def _blend_block(local, words, b, x, y, state, alive, used, weights, keep):
    """Blend a chunk's Gaussians into a block; returns the pixels that are not finished."""
    at = b * PLANES * WIDTH
    T, c0, c1, c2, d = (
        load(state, at), load(state, at + WIDTH), load(state, at + 2 * WIDTH),
        load(state, at + 3 * WIDTH), load(state, at + 4 * WIDTH),
    )  # fmt: skip
    corner_x = np.float32(x + b % 4 * 4) + _HALF
    corner_y = np.float32(y + b // 4 * 4) + _HALF
    steps_x, steps_y = lanes(STEPS_X), lanes(STEPS_Y)
    open_pixels = from_bits(alive)
    bit = np.uint16(1 << b)
    word = words[b]
    while word:
        k = lowest_bit(word)
        word &= word - _ONE
        r = k * RECORD
        dx, dy = steps_x + (corner_x - local[r + U]), steps_y + (corner_y - local[r + V])
        p, q = fma(local[r + PX], dx, local[r + PY] * dy), local[r + QY] * dy
        power = local[r + LOG_OPACITY] - fma(p, p, q * q)
        alpha = minimum(exp2(power), splat(MAX_ALPHA))
        drawn = (power >= LEAST) & open_pixels
        if not any_of(drawn):
            if keep:
                store(weights, k * WIDTH, splat(0.0))
            continue
        # Also where it only finishes pixels: the way back must see that too.
        used[k] |= bit
        weight = T * alpha
        left = T - weight
        goes_on = left > MIN_TRANSMITTANCE
        open_pixels = open_pixels & ~(drawn & ~goes_on)
        drawn = drawn & goes_on
        weight = where(drawn, weight, 0.0)
        T = where(drawn, left, T)
        c0 = fma(weight, local[r + COLOR], c0)
        c1 = fma(weight, local[r + COLOR + 1], c1)
        c2 = fma(weight, local[r + COLOR + 2], c2)
        d = fma(weight, local[r + DEPTH], d)
        if keep:
            store(weights, k * WIDTH, weight)
    store(state, at, T)
    store(state, at + WIDTH, c0)
    store(state, at + 2 * WIDTH, c1)
    store(state, at + 3 * WIDTH, c2)
    store(state, at + 4 * WIDTH, d)
    return to_bits(open_pixels)


def scratch_arrays(more: int) -> tuple[np.ndarray, ...]:
    """Return one thread's working memory for `blend_tiles` with so many extra channels."""
    return (
        np.empty(CHUNK * RECORD, np.float32),
        np.empty(BLOCKS, np.uint64),
        np.empty(CHUNK, np.uint16),
        np.empty(CHUNK, np.uint16),
        np.empty(BLOCKS, np.int64),
        np.empty(BLOCKS * PLANES * WIDTH, np.float32),
        np.empty((CHUNK if more else 0) * WIDTH, np.float32),
        np.empty(BLOCKS * more * WIDTH, np.float32),
    )


# Without numba's own memory management: it would count references at every block.
@njit(cache=True, nogil=True, _nrt=False)
def blend_tiles(
    records, extra, pairs, tiles, schedule, masks, width, height, background,
    color, through, cover, depth, raw_depth, scratch, start, stop,
):  # fmt: skip
    """Draw the tiles schedule[start:stop].

    Args:
        extra: Channels after the third, padded to a multiple of 16.
        pairs: Indices of all tiles' Gaussians; `tiles` tells where each tile's begin.
        masks: uint16 for each pair, written: the blocks it helped to draw.
        color: h x w x channels, flat, written; transmittance, alpha, depth likewise.
        raw_depth: Depth weighted by share, not divided by alpha; for the way back.

    Returns:
        How many pairs were drawn.
    """
    channels = len(background)
    more = extra.shape[1]
    across = (width + TILE - 1) // TILE
    local, words, touched, used, alive, state, weights, state_more = scratch
    halves = words.view(np.uint16)
    drawn_pairs = 0
    for turn in range(start, stop):
        tile = np.int64(schedule[turn])
        x, y = tile % across * TILE, tile // across * TILE
        left, top = np.float32(x), np.float32(y)
        for at in range(0, len(state), WIDTH):
            store(state, at, splat(0.0))
        for at in range(0, len(state_more), WIDTH):
            store(state_more, at, splat(0.0))
        open_blocks = np.int64(0)
        for b in range(BLOCKS):
            store(state, b * PLANES * WIDTH, splat(1.0))
            alive[b] = inside_bits(b, x, y, width, height)
            if alive[b]:
                open_blocks |= np.int64(1) << b
        first, last = np.int64(tiles[tile]), np.int64(tiles[tile + 1])
        while first < last:
            if open_blocks == 0:
                for pair in range(first, last):
                    masks[pair] = 0
                break
            count = min(CHUNK, last - first)
            for k in range(count):
                prefetch(records, np.int64(pairs[min(first + k + AHEAD, last - 1)]) * RECORD)
                r = np.int64(pairs[first + k]) * RECORD
                touched[k] = touched_blocks(records, r, left, top) & open_blocks
                store(local, k * RECORD, load(records, r))
                used[k] = 0
            turn_chunk(touched, count, halves)
            for b in range(BLOCKS):
                if alive[b] == 0:
                    continue
                alive[b] = _blend_block(
                    local, words, b, x, y, state, alive[b], used, weights, more > 0
                )
                if alive[b] == 0:
                    open_blocks &= ~(np.int64(1) << b)
                for channel in range(more):
                    at = (b * more + channel) * WIDTH
                    total = load(state_more, at)
                    word = words[b]
                    while word:
                        k = lowest_bit(word)
                        word &= word - _ONE
                        i = np.int64(pairs[first + k])
                        total = fma(load(weights, k * WIDTH), extra[i, channel], total)
                    store(state_more, at, total)
            for k in range(count):
                masks[first + k] = used[k]
                drawn_pairs += used[k] != 0
            first += count
        for b in range(BLOCKS):
            corner_x, corner_y = x + b % 4 * 4, y + b // 4 * 4
            for lane in range(WIDTH):
                px, py = corner_x + lane % 4, corner_y + lane // 4
                if px >= width or py >= height:
                    continue
                pixel = py * width + px
                at = b * PLANES * WIDTH + lane
                T = state[at]
                through[pixel] = T
                covered = np.float32(1.0) - T
                cover[pixel] = covered
                raw_depth[pixel] = state[at + 4 * WIDTH]
                depth[pixel] = state[at + 4 * WIDTH] / max(covered, np.float32(MIN_COVER))
                for channel in range(min(channels, 3)):
                    color[pixel * channels + channel] = (
                        state[at + (1 + channel) * WIDTH] + T * background[channel]
                    )
                for channel in range(max(channels - 3, 0)):
                    color[pixel * channels + 3 + channel] = (
                        state_more[(b * more + channel) * WIDTH + lane]
                        + T * background[3 + channel]
                    )
    return drawn_pairs
