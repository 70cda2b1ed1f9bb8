# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# ruff: noqa: ANN001, ANN202 (numba infers the types of the kernels)
"""Where small windows of one picture are in another, to a fraction of a pixel.

Source: Lucas and Kanade, An Iterative Image Registration Technique, IJCAI 1981, in the inverse
compositional form of Baker and Matthews, IJCV 2004; windows of mean 0 and variance 1.

Letters: p windows, s side of the pictures.
"""

import numba
import numpy as np
from jaxtyping import Bool, Float32, Float64

REACH = 7
"""Pixels from the middle of a window to its border."""
STEPS = 8
"""Of a window's search, on each level."""
LEVELS = 3
"""Each of half the size of the one before."""
CLOSE_ENOUGH = 0.02
"""Pixels of its last step at which it ends."""


def search(
    template: Float32[np.ndarray, "s s"],
    valid: Bool[np.ndarray, "s s"],
    image: Float32[np.ndarray, "s s"],
    at: Float64[np.ndarray, "p 2"],
) -> tuple[Float64[np.ndarray, "p 2"], Float64[np.ndarray, "p 2 2"], Float64[np.ndarray, "p"]]:
    """Move windows until they agree.

    Args:
        template: The picture that the windows are of, in the pose of the other.
        valid: Where it is known.
        image: The other picture.
        at: Middles of the windows, pixels.

    Returns:
        Ways from the template to the image, pixels; their covariances, not finite where nothing
        was found; and correlations of the windows there, 0 where there was nothing to search.
    """
    off = np.zeros_like(at)
    levels = [(template, valid, image)]
    for _ in range(LEVELS - 1):
        a, b, c = levels[-1]
        levels.append((_halved(a), _halved(b.astype(np.float32)) > 0.9, _halved(c)))
    for n in reversed(range(1, LEVELS)):
        _kernel(*levels[n], at / 2**n, off, np.zeros((len(at), 4)), STEPS)
        off *= 2
    told = np.zeros((len(at), 4))
    _kernel(template, valid, image, at, off, told, STEPS)
    with np.errstate(all="ignore"):
        a, b, c, noise = told[:, 0], told[:, 1], told[:, 2], 2 * (1 - told[:, 3])
        det = a * c - b * b
        covariance = np.stack([c, -b, -b, a], 1).reshape(-1, 2, 2) * (noise / det)[:, None, None]
    covariance[~(det > 1e-9)] = np.nan
    return off, covariance, told[:, 3]


def _halved(image: np.ndarray) -> np.ndarray:
    h, w = image.shape
    return image.reshape(h // 2, 2, w // 2, 2).mean((1, 3))


@numba.njit(cache=True, nogil=True, fastmath=True)
def _kernel(template, valid, image, at, off, told, steps):
    """Move each window; tell the sums of squares of its slopes and the correlation at the end."""
    height, width = template.shape
    side = 2 * REACH + 1
    shape = (side, side)
    t, gx, gy = (
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )
    share, f = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    bell = np.zeros(side, np.float32)
    for i in range(side):
        bell[i] = np.exp(-1.5 * ((i - REACH) / REACH) ** 2)
    for p in range(len(at)):
        left, top = int(np.floor(at[p, 0])) - REACH, int(np.floor(at[p, 1])) - REACH
        told[p] = 0
        count = np.float32(0)
        if left < 1 or top < 1 or left + side >= width or top + side >= height:
            off[p] = 0
            continue
        for i in range(side):
            for j in range(side):
                y, x = top + i, left + j
                known = valid[y, x] and valid[y, x - 1] and valid[y, x + 1]
                known = known and valid[y - 1, x] and valid[y + 1, x]
                share[i, j] = bell[i] * bell[j] if known else np.float32(0)
                t[i, j] = template[y, x]
                gx[i, j] = (template[y, x + 1] - template[y, x - 1]) * np.float32(0.5)
                gy[i, j] = (template[y + 1, x] - template[y - 1, x]) * np.float32(0.5)
                count += share[i, j]
        if count < 0.1 * side * side:
            off[p] = 0
            continue
        spread = _normalised(t, share, count)
        a, b, c = np.float32(1e-9), np.float32(0), np.float32(1e-9)
        for i in range(side):
            for j in range(side):
                gx[i, j] /= spread
                gy[i, j] /= spread
                a += share[i, j] * gx[i, j] * gx[i, j]
                b += share[i, j] * gx[i, j] * gy[i, j]
                c += share[i, j] * gy[i, j] * gy[i, j]
        det = a * c - b * b
        alike = np.float32(0)
        for step in range(steps + 1):
            x, y = left + off[p, 0], top + off[p, 1]
            column, row = int(np.floor(x)), int(np.floor(y))
            if column < 0 or row < 0 or column + side >= width or row + side >= height:
                alike = np.float32(0)
                break
            u, v = np.float32(x - column), np.float32(y - row)
            for i in range(side):
                above = image[row + i, column : column + side + 1]
                under = image[row + i + 1, column : column + side + 1]
                for j in range(side):
                    left_part = above[j] + v * (under[j] - above[j])
                    right_part = above[j + 1] + v * (under[j + 1] - above[j + 1])
                    f[i, j] = left_part + u * (right_part - left_part)
            _normalised(f, share, count)
            e, d, alike = np.float32(0), np.float32(0), np.float32(0)
            for i in range(side):
                for j in range(side):
                    miss = share[i, j] * (f[i, j] - t[i, j])
                    alike += share[i, j] * f[i, j] * t[i, j]
                    e += gx[i, j] * miss
                    d += gy[i, j] * miss
            alike /= count
            if step == steps:
                break
            x, y = (c * e - b * d) / det, (a * d - b * e) / det
            size = np.sqrt(x * x + y * y)
            if size > 1.0:
                x, y = x / size, y / size
            off[p, 0] -= x
            off[p, 1] -= y
            if size < CLOSE_ENOUGH:
                break
        told[p, 0], told[p, 1], told[p, 2], told[p, 3] = a, b, c, alike


@numba.njit(cache=True, nogil=True, fastmath=True)
def _normalised(values, share, count):
    """Give values mean 0 and variance 1, weighted; return what they were divided by."""
    side = len(values)
    total, square = np.float32(0), np.float32(0)
    for i in range(side):
        for j in range(side):
            total += share[i, j] * values[i, j]
    mean = total / count
    for i in range(side):
        for j in range(side):
            values[i, j] -= mean
            square += share[i, j] * values[i, j] * values[i, j]
    spread = np.sqrt(square / count) + np.float32(1e-4)
    for i in range(side):
        for j in range(side):
            values[i, j] /= spread
    return spread


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
