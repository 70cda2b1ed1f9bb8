# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# ruff: noqa: ANN001, ANN202 (numba infers the types of the kernels)
"""Where small windows of one picture are in another, to a fraction of a pixel.

Source: Lucas and Kanade, An Iterative Image Registration Technique, IJCAI 1981, in the inverse
compositional form of Baker and Matthews, IJCV 2004; windows of mean 0 and variance 1.

Letters: p windows, s side of the pictures.
"""

from collections.abc import Sequence

import numba
import numpy as np
from jaxtyping import Bool, Float32, Float64

REACH = 7
"""Pixels from the middle of a window to its border."""
SPAN = 2 * REACH + 1
WIDE = SPAN + 1
"""A window's row in the kernel: one more, of weight 0, so that it fills whole registers."""
FLAT = np.float32(1e-4)
"""Added to a window's standard deviation, by which it is divided."""
LOST = np.float32(1e-6)
"""Share of the square of a mean from which a variance beside it is lost in rounding."""
STEPS = 8
"""Of a window's search, on each level."""
LEVELS = 3
"""Each of half the size of the one before."""
CLOSE_ENOUGH = 0.02
"""Pixels of its last step at which it ends."""


def pyramid(image: Float32[np.ndarray, "s s"]) -> list[Float32[np.ndarray, "h h"]]:
    """Return a picture at all levels, the finest first."""
    levels = [image]
    for _ in range(LEVELS - 1):
        levels.append(_halved(levels[-1]))
    return levels


def search(
    template: Float32[np.ndarray, "s s"],
    valid: Bool[np.ndarray, "s s"],
    levels: Sequence[Float32[np.ndarray, "h h"]],
    at: Float64[np.ndarray, "p 2"],
) -> tuple[Float64[np.ndarray, "p 2"], Float64[np.ndarray, "p 2 2"], Float64[np.ndarray, "p"]]:
    """Move windows until they agree.

    Args:
        template: The picture that the windows are of, in the pose of the other.
        valid: Where it is known.
        levels: The other picture's pyramid.
        at: Middles of the windows, pixels.

    Returns:
        Ways from the template to the image, pixels; their covariances, not finite where nothing
        was found; and correlations of the windows there, 0 where there was nothing to search.
    """
    off, told = np.zeros_like(at), np.zeros((len(at), 4))
    known = [valid]
    for _ in range(LEVELS - 1):
        known.append(_halved_mask(known[-1]))
    fine = list(zip(pyramid(template), known, levels, strict=True))
    for n in reversed(range(LEVELS)):
        off *= 2
        _kernel(*fine[n], at / 2**n, off, told, STEPS)
    with np.errstate(all="ignore"):
        # Windows that are the same correlate by 1, or by a rounding error more.
        a, b, c, noise = told[:, 0], told[:, 1], told[:, 2], 2 * (1 - told[:, 3]).clip(0)
        det = a * c - b * b
        covariance = np.stack([c, -b, -b, a], 1).reshape(-1, 2, 2) * (noise / det)[:, None, None]
    covariance[~(det > 1e-9)] = np.nan
    return off, covariance, told[:, 3]


@numba.njit(cache=True, nogil=True, fastmath=True)
def _halved(image):
    height, width = image.shape[0] // 2, image.shape[1] // 2
    out = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            above = image[2 * y, 2 * x] + image[2 * y, 2 * x + 1]
            under = image[2 * y + 1, 2 * x] + image[2 * y + 1, 2 * x + 1]
            out[y, x] = (above + under) * np.float32(0.25)
    return out


@numba.njit(cache=True, nogil=True)
def _halved_mask(mask):
    height, width = mask.shape[0] // 2, mask.shape[1] // 2
    out = np.empty((height, width), np.bool_)
    for y in range(height):
        for x in range(width):
            above = mask[2 * y, 2 * x] and mask[2 * y, 2 * x + 1]
            out[y, x] = above and mask[2 * y + 1, 2 * x] and mask[2 * y + 1, 2 * x + 1]
    return out


@numba.njit(cache=True, nogil=True, fastmath=True)
def _kernel(template, valid, image, at, off, told, steps):
    """Move each window; tell the sums of squares of its slopes and the correlation at the end.

    All sums over a window are of the picture's raw values: what its own mean and variance change
    is put right afterwards, so that a step goes over the window once.
    """
    height, width = template.shape
    shape, zero, one = (SPAN, WIDE), np.float32(0), np.float32(1)
    share, t = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    gx, gy = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    bell = np.zeros(SPAN, np.float32)
    for i in range(SPAN):
        bell[i] = np.exp(-1.5 * ((i - REACH) / REACH) ** 2)
    for p in range(len(at)):
        left, top = int(np.floor(at[p, 0])) - REACH, int(np.floor(at[p, 1])) - REACH
        told[p] = 0
        if left < 1 or top < 1 or left + WIDE >= width or top + SPAN >= height:
            off[p] = 0
            continue
        count, total = zero, zero
        for i in range(SPAN):
            for j in range(SPAN):
                y, x = top + i, left + j
                known = valid[y, x] and valid[y, x - 1] and valid[y, x + 1]
                known = known and valid[y - 1, x] and valid[y + 1, x]
                share[i, j] = bell[i] * bell[j] if known else zero
                t[i, j] = template[y, x]
                gx[i, j] = (template[y, x + 1] - template[y, x - 1]) * np.float32(0.5)
                gy[i, j] = (template[y + 1, x] - template[y - 1, x]) * np.float32(0.5)
                count += share[i, j]
                total += share[i, j] * t[i, j]
        if count < 0.1 * SPAN * SPAN:
            off[p] = 0
            continue
        mean, square = total / count, zero
        for i in range(SPAN):
            for j in range(WIDE):
                square += share[i, j] * (t[i, j] - mean) ** 2
        scale = one / (np.sqrt(square / count) + FLAT)
        a, b, c = np.float32(1e-9), zero, np.float32(1e-9)
        sum_t, sum_x, sum_y, t_x, t_y = zero, zero, zero, zero, zero
        for i in range(SPAN):
            for j in range(WIDE):
                value, x, y = (t[i, j] - mean) * scale, gx[i, j] * scale, gy[i, j] * scale
                wx, wy = share[i, j] * x, share[i, j] * y
                a, b, c = a + wx * x, b + wx * y, c + wy * y
                sum_t, sum_x, sum_y = sum_t + share[i, j] * value, sum_x + wx, sum_y + wy
                t_x, t_y = t_x + wx * value, t_y + wy * value
                t[i, j], gx[i, j], gy[i, j] = share[i, j] * value, wx, wy
        det, alike = a * c - b * b, zero
        for step in range(steps + 1):
            x, y = left + off[p, 0], top + off[p, 1]
            column, row = int(np.floor(x)), int(np.floor(y))
            if column < 0 or row < 0 or column + WIDE >= width or row + SPAN >= height:
                alike = zero
                break
            u, v = np.float32(x - column), np.float32(y - row)
            f_s, f_f, f_t, f_x, f_y = zero, zero, zero, zero, zero
            for i in range(SPAN):
                above, under = image[row + i], image[row + i + 1]
                for j in range(WIDE):
                    at_left = above[column + j]
                    at_left += v * (under[column + j] - at_left)
                    at_right = above[column + j + 1]
                    at_right += v * (under[column + j + 1] - at_right)
                    f = at_left + u * (at_right - at_left) - mean
                    f_s += share[i, j] * f
                    f_f += share[i, j] * f * f
                    f_t += t[i, j] * f
                    f_x += gx[i, j] * f
                    f_y += gy[i, j] * f
            middle = f_s / count
            far = middle * middle
            scale = one / (np.sqrt(max(f_f / count - far, LOST * far)) + FLAT)
            alike = (f_t - middle * sum_t) * scale / count
            if step == steps:
                break
            e, d = (f_x - middle * sum_x) * scale - t_x, (f_y - middle * sum_y) * scale - t_y
            x, y = (c * e - b * d) / det, (a * d - b * e) / det
            size = np.sqrt(x * x + y * y)
            if size > 1.0:
                x, y = x / size, y / size
            off[p, 0] -= x
            off[p, 1] -= y
            if size < CLOSE_ENOUGH:
                break
        told[p, 0], told[p, 1], told[p, 2], told[p, 3] = a, b, c, alike


@numba.njit(cache=True, nogil=True)
def carried(triangle, shares, faces, inside, K, grey, depth, hidden):  # noqa: ANN201
    """Draw what a picture shows of the places that the pixels of another see.

    Args:
        triangle: Of a mesh, that each pixel of the other picture sees [s, s]; -1 where none.
        shares: Barycentric coordinates there [s, s, 3].
        faces: Triangles of the mesh [f, 3].
        inside: Its vertices in the camera of the picture [v, 3], metres.
        K: Of that camera [3, 3].
        grey: The picture [s, s].
        depth: Of the mesh in it [s, s], metres.
        hidden: Metres behind it from which a place is not shown.

    Returns:
        The picture as the other one's pixels see it [s, s], and where it is known [s, s].
    """
    warped, valid = np.zeros(triangle.shape, np.float32), np.zeros(triangle.shape, np.bool_)
    height, width = grey.shape
    for y in range(len(triangle)):
        for x in range(triangle.shape[1]):
            if triangle[y, x] < 0:
                continue
            a, b, c = faces[triangle[y, x]]
            wa, wb, wc = shares[y, x]
            z = wa * inside[a, 2] + wb * inside[b, 2] + wc * inside[c, 2]
            px = (wa * inside[a, 0] + wb * inside[b, 0] + wc * inside[c, 0]) / z * K[0, 0] + K[0, 2]
            py = (wa * inside[a, 1] + wb * inside[b, 1] + wc * inside[c, 1]) / z * K[1, 1] + K[1, 2]
            px, py = px - 0.5, py - 0.5
            if not (0 <= px < width - 1 and 0 <= py < height - 1):
                continue
            i, j = int(py), int(px)
            v, u = py - i, px - j
            warped[y, x] = (1 - v) * ((1 - u) * grey[i, j] + u * grey[i, j + 1]) + v * (
                (1 - u) * grey[i + 1, j] + u * grey[i + 1, j + 1]
            )
            valid[y, x] = abs(depth[int(py + 0.5), int(px + 0.5)] - z) < hidden
    return warped, valid
