# pyright: basic, reportCallIssue=false, reportArgumentType=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""Carry gradients of a picture back to the Gaussians of each tile.

Front to back as in `blend`, whose steps are repeated to the bit. What lies behind a Gaussian is
known from one number for each pixel: R, the share of the loss that all later Gaussians and the
background bring, which starts as the whole and loses each Gaussian's part when it is passed.
dL/dalpha = T v.c - R / (1 - alpha).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipeline.render.cpu.blend import (
    AHEAD,
    BLOCKS,
    CHUNK,
    LEAST,
    LOG_MAX_ALPHA,
    inside_bits,
    turn_chunk,
)
from pipeline.render.cpu.projection import (
    COLOR,
    DEPTH,
    GRADIENT,
    LOG_OPACITY,
    PX,
    PY,
    QY,
    RECORD,
    STEPS_X,
    STEPS_Y,
    TILE,
    U,
    V,
)
from pipeline.render.cpu.simd import (
    WIDTH,
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
    sums,
    to_bits,
    where,
)
from pipeline.render.types import MAX_ALPHA, MIN_COVER, MIN_TRANSMITTANCE

PLANES = 6
"""What is kept of a pixel: T, R, gradients of three channels and of the weighted depth."""

_HALF = np.float32(0.5)
_ONE = np.uint64(1)


@njit(inline="always")
def _backward_block(local, words, b, x, y, state, alive, slots, dots, weights, more):
    """Add a chunk's gradients in a block to `slots`; returns the pixels not finished."""
    at = b * PLANES * WIDTH
    T, R, v0, v1, v2, vd = (
        load(state, at), load(state, at + WIDTH), load(state, at + 2 * WIDTH),
        load(state, at + 3 * WIDTH), load(state, at + 4 * WIDTH), load(state, at + 5 * WIDTH),
    )  # fmt: skip
    corner_x = np.float32(x + b % 4 * 4) + _HALF
    corner_y = np.float32(y + b // 4 * 4) + _HALF
    steps_x, steps_y = lanes(STEPS_X), lanes(STEPS_Y)
    open_pixels = from_bits(alive)
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
        weight = T * alpha
        left = T - weight
        goes_on = left > MIN_TRANSMITTANCE
        open_pixels = open_pixels & ~(drawn & ~goes_on)
        drawn = drawn & goes_on
        weight = where(drawn, weight, 0.0)
        value = v0 * local[r + COLOR]
        value = fma(v1, local[r + COLOR + 1], value)
        value = fma(v2, local[r + COLOR + 2], value)
        value = fma(vd, local[r + DEPTH], value)
        if more:
            value = value + load(dots, k * WIDTH)
            store(weights, k * WIDTH, weight)
        R = R - weight * value
        # alpha dL/dalpha; nothing where alpha is held at its most
        g = fma(weight, value, -(R * alpha / (1.0 - alpha)))
        g = where(drawn & (power <= LOG_MAX_ALPHA), g, 0.0)
        T = where(drawn, left, T)
        gx, gy = g * dx, g * dy
        total = sums(
            (
                g,
                gx,
                gy,
                gx * dx,
                gx * dy,
                gy * dy,
                weight * v0,
                weight * v1,
                weight * v2,
                weight * vd,
            )
        )
        store(slots, k * GRADIENT, load(slots, k * GRADIENT) + total)
    store(state, at, T)
    store(state, at + WIDTH, R)
    return to_bits(open_pixels)


@njit(inline="always")
def _dots_of_block(pairs, first, extra, more, words, b, v_more, dots):
    """What the channels after the third bring to v.c, for each Gaussian of a block."""
    word = words[b]
    while word:
        k = lowest_bit(word)
        word &= word - _ONE
        i = np.int64(pairs[first + k])
        total = splat(0.0)
        for channel in range(more):
            total = fma(load(v_more, (b * more + channel) * WIDTH), extra[i, channel], total)
        store(dots, k * WIDTH, total)


@njit(inline="always")
def _extra_of_block(more, words, b, v_more, weights, slots_more):
    """Add the gradients of the channels after the third; `more` is a multiple of 16."""
    word = words[b]
    while word:
        k = lowest_bit(word)
        word &= word - _ONE
        weight = load(weights, k * WIDTH)
        for channel in range(0, more, WIDTH):
            at = (b * more + channel) * WIDTH
            total = sums((
                weight * load(v_more, at), weight * load(v_more, at + 16),
                weight * load(v_more, at + 32), weight * load(v_more, at + 48),
                weight * load(v_more, at + 64), weight * load(v_more, at + 80),
                weight * load(v_more, at + 96), weight * load(v_more, at + 112),
                weight * load(v_more, at + 128), weight * load(v_more, at + 144),
                weight * load(v_more, at + 160), weight * load(v_more, at + 176),
                weight * load(v_more, at + 192), weight * load(v_more, at + 208),
                weight * load(v_more, at + 224), weight * load(v_more, at + 240),
            ))  # fmt: skip
            slot = k * more + channel
            store(slots_more, slot, load(slots_more, slot) + total)


def scratch_arrays(more: int) -> tuple[np.ndarray, ...]:
    """Return one thread's working memory for `blend_tiles_backward`."""
    each = (CHUNK if more else 0) * WIDTH
    return (
        np.empty(CHUNK * RECORD, np.float32),
        np.empty(BLOCKS, np.uint64),
        np.empty(CHUNK, np.uint16),
        np.empty(BLOCKS, np.int64),
        np.empty(BLOCKS * PLANES * WIDTH, np.float32),
        np.empty(BLOCKS * more * WIDTH, np.float32),
        np.empty(each, np.float32),
        np.empty(each, np.float32),
        np.empty(CHUNK * GRADIENT, np.float32),
        np.empty(CHUNK * more, np.float32),
    )


@njit(cache=True, nogil=True, _nrt=False)
def blend_tiles_backward(
    records, extra, pairs, tiles, schedule, masks, width, height, channels,
    color, through, raw_depth, v_color, v_cover, v_depth, offsets, slots, slots_more,
    scratch, start, stop,
):  # fmt: skip
    """Write the gradients of the pairs of tiles schedule[start:stop].

    Args:
        extra: Channels after the third, padded to a multiple of 16.
        color: What was drawn, with the background; so are `through` and `raw_depth`.
        v_color: Gradients of the picture, flat; `v_depth` is that of the divided depth.
        offsets: Where each tile's slots begin.
        slots: GRADIENT floats for each drawn pair, written in the order of the pairs.
    """
    more = slots_more.shape[1]
    across = (width + TILE - 1) // TILE
    local, words, touched, alive, state, v_more, dots, weights, sum_slots, sum_more = scratch
    halves = words.view(np.uint16)
    for turn in range(start, stop):
        tile = np.int64(schedule[turn])
        x, y = tile % across * TILE, tile // across * TILE
        slot, end = np.int64(offsets[tile]), np.int64(offsets[tile + 1])
        if slot == end:
            continue
        for at in range(0, len(state), WIDTH):
            store(state, at, splat(0.0))
        for at in range(0, len(v_more), WIDTH):
            store(v_more, at, splat(0.0))
        for b in range(BLOCKS):
            alive[b] = inside_bits(b, x, y, width, height)
            for lane in range(WIDTH):
                px, py = x + b % 4 * 4 + lane % 4, y + b // 4 * 4 + lane // 4
                if px >= width or py >= height:
                    continue
                pixel = py * width + px
                at = b * PLANES * WIDTH + lane
                T = through[pixel]
                covered = np.float32(1.0) - T
                v_raw = v_depth[pixel] / max(covered, np.float32(MIN_COVER))
                v_alpha = v_cover[pixel]
                if covered > np.float32(MIN_COVER):
                    v_alpha -= v_raw * raw_depth[pixel] / covered
                R = v_raw * raw_depth[pixel] - v_alpha * T
                for channel in range(channels):
                    v = v_color[pixel * channels + channel]
                    R += v * color[pixel * channels + channel]
                    if channel < 3:
                        state[at + (2 + channel) * WIDTH] = v
                    else:
                        v_more[(b * more + channel - 3) * WIDTH + lane] = v
                state[at] = 1.0
                state[at + WIDTH] = R
                state[at + 5 * WIDTH] = v_raw
        first, last = np.int64(tiles[tile]), np.int64(tiles[tile + 1])
        while first < last and slot < end:
            count = min(CHUNK, last - first)
            for k in range(count):
                touched[k] = masks[first + k]
                later = min(first + k + AHEAD, last - 1)
                if masks[later]:
                    prefetch(records, np.int64(pairs[later]) * RECORD)
                if touched[k]:
                    r = np.int64(pairs[first + k]) * RECORD
                    store(local, k * RECORD, load(records, r))
            turn_chunk(touched, count, halves)
            for at in range(0, count * GRADIENT, WIDTH):
                store(sum_slots, at, splat(0.0))
            for at in range(0, count * more, WIDTH):
                store(sum_more, at, splat(0.0))
            for b in range(BLOCKS):
                if more:
                    _dots_of_block(pairs, first, extra, more, words, b, v_more, dots)
                alive[b] = _backward_block(
                    local, words, b, x, y, state, alive[b], sum_slots, dots, weights,
                    more > 0,
                )  # fmt: skip
                if more:
                    _extra_of_block(more, words, b, v_more, weights, sum_more)
            for k in range(count):
                if masks[first + k] == 0:
                    continue
                store(slots, slot * GRADIENT, load(sum_slots, k * GRADIENT))
                for channel in range(more):
                    slots_more[slot, channel] = sum_more[k * more + channel]
                slot += 1
            first += count


@njit(cache=True, nogil=True, _nrt=False)
def count_drawn(tiles, masks, offsets):
    """Write where each tile's drawn pairs begin, counted over all tiles."""
    total = 0
    for tile in range(len(tiles) - 1):
        offsets[tile] = total
        for pair in range(tiles[tile], tiles[tile + 1]):
            total += masks[pair] != 0
    offsets[len(tiles) - 1] = total


@njit(cache=True, nogil=True, _nrt=False)
def add_slots(pairs, masks, slots, slots_more, moments, v_extra, low, high):
    """Add the slots of each Gaussian, tile by tile: one sum, whoever computed the slots.

    Args:
        moments: GRADIENT floats for each Gaussian, flat, to add to.
        v_extra: n x more, to add to.
        low: Only Gaussians from this index to below `high`.
    """
    more = slots_more.shape[1]
    slot = np.int64(0)
    for pair in range(len(pairs)):
        if masks[pair] == 0:
            continue
        i = np.int64(pairs[pair])
        if low <= i < high:
            prefetch(moments, np.int64(pairs[min(pair + AHEAD, len(pairs) - 1)]) * GRADIENT)
            store(moments, i * GRADIENT, load(moments, i * GRADIENT) + load(slots, slot * GRADIENT))
            for channel in range(more):
                v_extra[i, channel] += slots_more[slot, channel]
        slot += 1
