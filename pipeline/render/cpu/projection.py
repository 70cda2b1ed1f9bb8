# pyright: basic, reportCallIssue=false, reportArgumentType=false
# Numba infers the types of kernels; its stubs know neither them nor its options.
"""Where each Gaussian falls in a picture, and how its gradients come back from there.

Letters: n Gaussians, padded to a multiple of 16. Planes are flat arrays of rows of n numbers.
W, t: world_to_camera. J: Jacobian of the projection at the centre (kept near the picture).
S: covariance in the head frame, M = J W, M S M^T = ((a, b), (b, c)) in square pixels.
sigma = half the squared Mahalanobis distance of a pixel from the centre.

Source:
    Zwicker et al., EWA splatting, 2002; Kerbl et al., 2023; clamping and blur as gsplat 1.5.3.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from pipeline.render.cpu.simd import (
    WIDTH,
    floor,
    fma,
    gather,
    lanes,
    load,
    log2,
    lowest_bit,
    maximum,
    minimum,
    splat,
    sqrt,
    store,
    store_rows,
    sums,
    to_bits,
    where,
)
from pipeline.render.types import BLUR, FAR, MARGIN, MIN_ALPHA, NEAR

LOG2_E = math.log2(math.e)
LOG2_255 = -math.log2(MIN_ALPHA)

SHAPE_PLANES = 10
"""Planes of a set: mean x y z, covariance xx xy xz yy yz zz, opacity after these."""

RECORD = 16
"""Floats of a projected Gaussian: U, V, ... below."""
U, V = 0, 1
"""Centre, pixels."""
PX, PY, QY = 2, 3, 4
"""p = PX dx + PY dy, q = QY dy: sigma in units of log 2 is p^2 + q^2, never negative."""
LOG_OPACITY = 5
"""Logarithm of the opacity to base 2."""
DEPTH = 6
"""Metres."""
SLOPE_X, SLOPE_Y = 7, 8
"""dx of least sigma is SLOPE_X dy on a row; dy of least sigma is SLOPE_Y dx on a column."""
LIMIT = 9
"""p^2 + q^2 above this is not drawn; a little more than it must be, for rounding."""
COLOR = 10
"""First three channels."""

GRADIENT = 16
"""Floats of a Gaussian's gradient in a picture: moments of g = dL/dalpha alpha with
(1, dx, dy, dx dx, dx dy, dy dy), then three colours, then depth; the rest is 0."""
MOMENTS, GRADIENT_COLOR, GRADIENT_DEPTH = 0, 6, 9

TILE = 16
"""Pixels along the edge of a tile."""

LARGE = 1 << 16
"""In place of the bits of the 4 x 4 tiles of a box: it is larger, and all of it is taken."""

STEPS_X = (0.0, 1.0, 2.0, 3.0) * 4
STEPS_Y = (0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0)
"""Column and row of each lane where a vector is a square of 4 x 4."""

SPAN = 4096
"""Gaussians whose share of the camera's gradient is added up together: fixed, so that the sum
does not depend on the number of threads."""


def camera_numbers(E: np.ndarray, K: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return what the kernels need of a camera: W and t by rows, fx fy cx cy, slopes kept."""
    fx, fy, cx, cy = (float(K[i]) for i in ((0, 0), (1, 1), (0, 2), (1, 2)))
    over_x, over_y = MARGIN * 0.5 * width / fx, MARGIN * 0.5 * height / fy
    slopes = (
        -(cx / fx + over_x), (width - cx) / fx + over_x,
        -(cy / fy + over_y), (height - cy) / fy + over_y,
    )  # fmt: skip
    return np.array([*E[:3].ravel(), fx, fy, cx, cy, *slopes], np.float32)


@njit(inline="always")
def _rotation(w, x, y, z):
    """Rotation matrix by rows of a unit quaternion."""
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@njit(cache=True, nogil=True, _nrt=False)
def pack_shapes(means, quats, scales, opacities, planes, start, stop):
    """Write means, covariances and opacities of Gaussians [start, stop) as planes.

    Args:
        means: Flat and padded, as are the others: n x 3, n x 4, n x 3, n.
        planes: 10 planes.
    """
    n = planes.shape[0] // SHAPE_PLANES
    for i in range(start, stop, WIDTH):
        for k in range(3):
            store(planes, k * n + i, gather(means, 3 * i + k, 3))
        w, x, y, z = (
            gather(quats, 4 * i, 4), gather(quats, 4 * i + 1, 4),
            gather(quats, 4 * i + 2, 4), gather(quats, 4 * i + 3, 4),
        )  # fmt: skip
        inverse = 1.0 / sqrt(w * w + x * x + y * y + z * z)
        R = _rotation(w * inverse, x * inverse, y * inverse, z * inverse)
        s0, s1, s2 = (
            gather(scales, 3 * i, 3),
            gather(scales, 3 * i + 1, 3),
            gather(scales, 3 * i + 2, 3),
        )
        v0, v1, v2 = s0 * s0, s1 * s1, s2 * s2
        store(planes, 3 * n + i, R[0] * R[0] * v0 + R[1] * R[1] * v1 + R[2] * R[2] * v2)
        store(planes, 4 * n + i, R[0] * R[3] * v0 + R[1] * R[4] * v1 + R[2] * R[5] * v2)
        store(planes, 5 * n + i, R[0] * R[6] * v0 + R[1] * R[7] * v1 + R[2] * R[8] * v2)
        store(planes, 6 * n + i, R[3] * R[3] * v0 + R[4] * R[4] * v1 + R[5] * R[5] * v2)
        store(planes, 7 * n + i, R[3] * R[6] * v0 + R[4] * R[7] * v1 + R[5] * R[8] * v2)
        store(planes, 8 * n + i, R[6] * R[6] * v0 + R[7] * R[7] * v1 + R[8] * R[8] * v2)
        store(planes, 9 * n + i, load(opacities, i))


@njit(inline="always")
def _project(planes, i, n, view):
    """What both directions need: the way from the centre to the blurred covariance."""
    x, y, z = load(planes, i), load(planes, n + i), load(planes, 2 * n + i)
    mx = view[0] * x + view[1] * y + view[2] * z + view[3]
    my = view[4] * x + view[5] * y + view[6] * z + view[7]
    mz = view[8] * x + view[9] * y + view[10] * z + view[11]
    rz = 1.0 / mz
    sx, sy = mx * rz, my * rz
    kx = minimum(splat(view[17]), maximum(splat(view[16]), sx))
    ky = minimum(splat(view[19]), maximum(splat(view[18]), sy))
    fx, fy = view[12] * rz, view[13] * rz
    jx, jy = fx * kx, fy * ky
    M = (
        fx * view[0] - jx * view[8], fx * view[1] - jx * view[9], fx * view[2] - jx * view[10],
        fy * view[4] - jy * view[8], fy * view[5] - jy * view[9], fy * view[6] - jy * view[10],
    )  # fmt: skip
    xx, xy, xz = load(planes, 3 * n + i), load(planes, 4 * n + i), load(planes, 5 * n + i)
    yy, yz, zz = load(planes, 6 * n + i), load(planes, 7 * n + i), load(planes, 8 * n + i)
    MS = (
        M[0] * xx + M[1] * xy + M[2] * xz,
        M[0] * xy + M[1] * yy + M[2] * yz,
        M[0] * xz + M[1] * yz + M[2] * zz,
        M[3] * xx + M[4] * xy + M[5] * xz,
        M[3] * xy + M[4] * yy + M[5] * yz,
        M[3] * xz + M[4] * yz + M[5] * zz,
    )
    a = M[0] * MS[0] + M[1] * MS[1] + M[2] * MS[2]
    b = M[0] * MS[3] + M[1] * MS[4] + M[2] * MS[5]
    c = M[3] * MS[3] + M[4] * MS[4] + M[5] * MS[5]
    sharp = a * c - b * b
    a, c = a + BLUR, c + BLUR
    return (mz, rz, sx, sy, kx, ky, M, MS, a, b, c, sharp)


@njit(inline="always")
def reaches(px, py, qy, slope_x, slope_y, limit, x0, y0, size):
    """Which of sixteen squares of pixel centres a Gaussian may reach.

    The least sigma over a rectangle lies on the side nearest the centre in x or in y.

    Args:
        x0: Left edges less the Gaussian's centre, a vector; y0 likewise.
        size: From the first to the last pixel centre of a square.
    """
    x1, y1 = x0 + size, y0 + size
    zero = splat(0.0)
    near_y = minimum(maximum(zero, y0), y1)
    best_x = minimum(maximum(slope_x * near_y, x0), x1)
    p, q = px * best_x + py * near_y, qy * near_y
    near_x = minimum(maximum(zero, x0), x1)
    best_y = minimum(maximum(slope_y * near_x, y0), y1)
    p2, q2 = px * near_x + py * best_y, qy * best_y
    return to_bits((fma(p, p, q * q) <= limit) | (fma(p2, p2, q2 * q2) <= limit))


@njit(inline="always")
def _boxes_of(records, edges, lane, i, boxes, counts, across):
    """Find the tiles a Gaussian may reach, write them as a box and count them."""
    x0, x1 = np.int64(edges[lane]), np.int64(edges[WIDTH + lane]) + 1
    y0, y1 = np.int64(edges[2 * WIDTH + lane]), np.int64(edges[3 * WIDTH + lane]) + 1
    wide, high = x1 - x0, y1 - y0
    boxes[2 * i] = x0 | x1 << 16 | y0 << 32 | y1 << 48
    if wide > 4 or high > 4:
        boxes[2 * i + 1] = LARGE
        for y in range(y0, y1):
            for x in range(x0, x1):
                counts[y * across + x] += 1
        return
    bits = ((np.int64(1) << wide) - 1) * np.int64(0x1111) & ((np.int64(1) << 4 * high) - 1)
    # A box of one row or column is touched all along: its ends are where the ellipse ends.
    if wide > 1 and high > 1:
        r = i * RECORD
        left = lanes(STEPS_X) * TILE + (np.float32(x0 * TILE) + np.float32(0.5) - records[r + U])
        top = lanes(STEPS_Y) * TILE + (np.float32(y0 * TILE) + np.float32(0.5) - records[r + V])
        bits &= reaches(
            records[r + PX], records[r + PY], records[r + QY], records[r + SLOPE_X],
            records[r + SLOPE_Y], splat(records[r + LIMIT]), left, top, np.float32(TILE - 1),
        )  # fmt: skip
    boxes[2 * i + 1] = bits
    while bits:
        b = lowest_bit(bits)
        counts[(y0 + (b >> 2)) * across + x0 + (b & 3)] += 1
        bits &= bits - 1


@njit(cache=True, nogil=True, _nrt=False)
def project(
    planes, colors, channels, view, width, height, antialiased,
    records, boxes, visible, keys, counts, edges, start, stop,
):  # fmt: skip
    """Project Gaussians [start, stop); list those that may be seen, and their tiles.

    Args:
        planes: 10 planes of `pack_shapes`.
        colors: N x channels, flat, padded.
        view: From `camera_numbers`.
        records: N x RECORD, written where visible.
        boxes: 2 for each Gaussian, written where visible: tiles x0, x1, y0, y1 in 16 bits each;
            and which of its 4 x 4 tiles it touches, or LARGE: then all of a larger box.
        visible: Indices are written here from `start` on; so are `keys`, the bits of the depth.
        counts: Gaussians of each tile, to add to.
        edges: Working memory, 4 x 16.

    Returns:
        How many may be seen.
    """
    n = planes.shape[0] // SHAPE_PLANES
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    count = 0
    root = splat(math.sqrt(0.5 * LOG2_E))
    zero = splat(0.0)
    bits_of = records.view(np.uint32)
    for i in range(start, stop, WIDTH):
        mz, rz, sx, sy, kx, ky, M, MS, a, b, c, sharp = _project(planes, i, n, view)
        det = a * c - b * b
        opacity = load(planes, 9 * n + i)
        if antialiased:
            opacity = opacity * sqrt(maximum(sharp / det, zero))
        u = sx * view[12] + view[14]
        v = sy * view[13] + view[15]
        fine = (mz >= NEAR) & (mz <= FAR) & (det > 0.0) & (opacity >= MIN_ALPHA)
        logarithm = log2(where(fine, opacity, 1.0))
        # The least bit more than exact: a pixel on the edge must not depend on this bound.
        limit = (logarithm + LOG2_255) * 1.0005 + 0.0005
        reach_x = sqrt(limit * a * (2.0 / LOG2_E)) + 0.01
        reach_y = sqrt(limit * c * (2.0 / LOG2_E)) + 0.01
        fine = fine & (u + reach_x > 0.5) & (u - reach_x < width - 0.5)
        fine = fine & (v + reach_y > 0.5) & (v - reach_y < height - 0.5)
        bits = to_bits(fine)
        if bits == 0:
            continue
        p = root * sqrt(c / det)
        few = min(channels, 3)
        store_rows(
            records, i * RECORD,
            (
                u, v, p, -(p * b / c), root / sqrt(c), logarithm, mz, b / c, b / a, limit,
                gather(colors, i * channels, channels),
                gather(colors, i * channels + 1, channels) if few > 1 else zero,
                gather(colors, i * channels + 2, channels) if few > 2 else zero,
            ),
        )  # fmt: skip
        inverse = 1.0 / TILE
        right, bottom = splat(across - 1), splat(down - 1)
        store(edges, 0, maximum(zero, floor((u - reach_x - 0.5) * inverse)))
        store(edges, WIDTH, minimum(right, floor((u + reach_x - 0.5) * inverse)))
        store(edges, 2 * WIDTH, maximum(zero, floor((v - reach_y - 0.5) * inverse)))
        store(edges, 3 * WIDTH, minimum(bottom, floor((v + reach_y - 0.5) * inverse)))
        while bits:
            lane = lowest_bit(bits)
            visible[start + count] = i + lane
            keys[start + count] = bits_of[(i + lane) * RECORD + DEPTH]
            _boxes_of(records, edges, lane, i + lane, boxes, counts, across)
            count += 1
            bits &= bits - 1
    return count


@njit(cache=True, nogil=True, _nrt=False)
def project_backward(planes, view, antialiased, moments, out, camera_out, start, stop):
    """Carry gradients of projected Gaussians [start, stop) to means, covariances and camera.

    Args:
        moments: GRADIENT floats for each Gaussian, flat.
        out: 10 planes to add to, as `planes`; covariances count their off-diagonals once.
        camera_out: [spans, 16], a row for each SPAN of Gaussians; written.
    """
    n = planes.shape[0] // SHAPE_PLANES
    for first in range(start, stop, SPAN):
        g0 = g1 = g2 = g3 = g4 = g5 = g6 = g7 = g8 = g9 = g10 = g11 = splat(0.0)
        for i in range(first, min(first + SPAN, stop), WIDTH):
            m = i * GRADIENT
            s0, s1, s2 = (
                gather(moments, m + 0, GRADIENT),
                gather(moments, m + 1, GRADIENT),
                gather(moments, m + 2, GRADIENT),
            )
            s3, s4, s5 = (
                gather(moments, m + 3, GRADIENT),
                gather(moments, m + 4, GRADIENT),
                gather(moments, m + 5, GRADIENT),
            )
            v_depth = gather(moments, m + GRADIENT_DEPTH, GRADIENT)
            touched = (s0 < 0.0) | (s0 > 0.0) | (s3 < 0.0) | (s3 > 0.0)
            touched = touched | (s5 < 0.0) | (s5 > 0.0) | (v_depth < 0.0) | (v_depth > 0.0)
            if to_bits(touched) == 0:
                continue
            mz, rz, sx, sy, kx, ky, M, MS, a, b, c, sharp = _project(planes, i, n, view)
            inverse = 1.0 / (a * c - b * b)
            A, B, C = c * inverse, -(b * inverse), a * inverse
            v_u, v_v = A * s1 + B * s2, B * s1 + C * s2
            # dL/d(covariance) = Q (moments) Q / 2 with Q = ((A, B), (B, C)); symmetric
            r0, r1 = A * s3 + B * s4, A * s4 + B * s5
            r2, r3 = B * s3 + C * s4, B * s4 + C * s5
            v_a, v_b, v_c = (
                0.5 * (r0 * A + r1 * B), 0.5 * (r0 * B + r1 * C), 0.5 * (r2 * B + r3 * C),
            )  # fmt: skip
            opacity = load(planes, 9 * n + i)
            shown = where(touched, opacity, 1.0)
            if antialiased:
                ratio = sharp * inverse
                half = where(ratio > 0.0, 0.5 * s0, 0.0)
                # d log sqrt(sharp / det), with sharp's matrix = ((a - .3, b), (b, c - .3))
                sharper = half / where(ratio > 0.0, sharp, 1.0)
                v_a = v_a + sharper * (c - BLUR) - half * A
                v_c = v_c + sharper * (a - BLUR) - half * C
                v_b = v_b - sharper * b - half * B
            v_opacity = s0 / shown
            # covariance: M^T V M
            P = (
                v_a * M[0] + v_b * M[3], v_a * M[1] + v_b * M[4], v_a * M[2] + v_b * M[5],
                v_b * M[0] + v_c * M[3], v_b * M[1] + v_c * M[4], v_b * M[2] + v_c * M[5],
            )  # fmt: skip
            v_xx = M[0] * P[0] + M[3] * P[3]
            v_xy = M[0] * P[1] + M[3] * P[4]
            v_xz = M[0] * P[2] + M[3] * P[5]
            v_yy = M[1] * P[1] + M[4] * P[4]
            v_yz = M[1] * P[2] + M[4] * P[5]
            v_zz = M[2] * P[2] + M[5] * P[5]
            # M: 2 V M S
            N0 = 2.0 * (v_a * MS[0] + v_b * MS[3])
            N1 = 2.0 * (v_a * MS[1] + v_b * MS[4])
            N2 = 2.0 * (v_a * MS[2] + v_b * MS[5])
            N3 = 2.0 * (v_b * MS[0] + v_c * MS[3])
            N4 = 2.0 * (v_b * MS[1] + v_c * MS[4])
            N5 = 2.0 * (v_b * MS[2] + v_c * MS[5])
            fx, fy = view[12] * rz, view[13] * rz
            jx, jy = fx * kx, fy * ky
            v_fx = N0 * view[0] + N1 * view[1] + N2 * view[2]
            v_fy = N3 * view[4] + N4 * view[5] + N5 * view[6]
            v_jx = -(N0 * view[8] + N1 * view[9] + N2 * view[10])
            v_jy = -(N3 * view[8] + N4 * view[9] + N5 * view[10])
            v_kx, v_ky = v_jx * fx, v_jy * fy
            v_fx, v_fy = v_fx + v_jx * kx, v_fy + v_jy * ky
            v_sx = v_u * view[12] + where((kx <= sx) & (kx >= sx), v_kx, 0.0)
            v_sy = v_v * view[13] + where((ky <= sy) & (ky >= sy), v_ky, 0.0)
            v_mx, v_my = v_sx * rz, v_sy * rz
            v_rz = v_fx * view[12] + v_fy * view[13]
            v_mz = v_depth - (v_sx * sx + v_sy * sy + v_rz * rz) * rz
            v_mx, v_my, v_mz = (
                where(touched, v_mx, 0.0),
                where(touched, v_my, 0.0),
                where(touched, v_mz, 0.0),
            )
            x, y, z = load(planes, i), load(planes, n + i), load(planes, 2 * n + i)
            _add(out, i, touched, view[0] * v_mx + view[4] * v_my + view[8] * v_mz)
            _add(out, n + i, touched, view[1] * v_mx + view[5] * v_my + view[9] * v_mz)
            _add(out, 2 * n + i, touched, view[2] * v_mx + view[6] * v_my + view[10] * v_mz)
            _add(out, 3 * n + i, touched, v_xx)
            _add(out, 4 * n + i, touched, v_xy)
            _add(out, 5 * n + i, touched, v_xz)
            _add(out, 6 * n + i, touched, v_yy)
            _add(out, 7 * n + i, touched, v_yz)
            _add(out, 8 * n + i, touched, v_zz)
            _add(out, 9 * n + i, touched, v_opacity)
            g0 = g0 + where(touched, v_mx * x + fx * N0, 0.0)
            g1 = g1 + where(touched, v_mx * y + fx * N1, 0.0)
            g2 = g2 + where(touched, v_mx * z + fx * N2, 0.0)
            g3 = g3 + v_mx
            g4 = g4 + where(touched, v_my * x + fy * N3, 0.0)
            g5 = g5 + where(touched, v_my * y + fy * N4, 0.0)
            g6 = g6 + where(touched, v_my * z + fy * N5, 0.0)
            g7 = g7 + v_my
            g8 = g8 + where(touched, v_mz * x - jx * N0 - jy * N3, 0.0)
            g9 = g9 + where(touched, v_mz * y - jx * N1 - jy * N4, 0.0)
            g10 = g10 + where(touched, v_mz * z - jx * N2 - jy * N5, 0.0)
            g11 = g11 + v_mz
        store(
            camera_out, first // SPAN * 16, sums((g0, g1, g2, g3, g4, g5, g6, g7, g8, g9, g10, g11))
        )


@njit(inline="always")
def _add(array, at, condition, value):
    store(array, at, load(array, at) + where(condition, value, 0.0))


@njit(cache=True, nogil=True, _nrt=False)
def unpack_shapes(
    quats, scales, gradients, v_means, v_quats, v_scales, v_opacities, row, start, stop
):
    """Carry gradients of means, covariances and opacities to the parameters.

    Args:
        gradients: 10 planes from `project_backward`.
        v_means: Flat, n x 3, to write; so are the others.
        row: Working memory, 7 x 16.
    """
    n = gradients.shape[0] // SHAPE_PLANES
    for i in range(start, stop, WIDTH):
        w, x, y, z = (
            gather(quats, 4 * i, 4), gather(quats, 4 * i + 1, 4),
            gather(quats, 4 * i + 2, 4), gather(quats, 4 * i + 3, 4),
        )  # fmt: skip
        inverse = 1.0 / sqrt(w * w + x * x + y * y + z * z)
        w, x, y, z = w * inverse, x * inverse, y * inverse, z * inverse
        R = _rotation(w, x, y, z)
        s0, s1, s2 = (
            gather(scales, 3 * i, 3),
            gather(scales, 3 * i + 1, 3),
            gather(scales, 3 * i + 2, 3),
        )
        xx, xy, xz = (
            load(gradients, 3 * n + i),
            load(gradients, 4 * n + i),
            load(gradients, 5 * n + i),
        )
        yy, yz, zz = (
            load(gradients, 6 * n + i),
            load(gradients, 7 * n + i),
            load(gradients, 8 * n + i),
        )
        # Half of dL/d(R scale): covariance' R scale; then by rows of R and by scale.
        D = (
            xx * R[0] + xy * R[3] + xz * R[6],
            xx * R[1] + xy * R[4] + xz * R[7],
            xx * R[2] + xy * R[5] + xz * R[8],
            xy * R[0] + yy * R[3] + yz * R[6],
            xy * R[1] + yy * R[4] + yz * R[7],
            xy * R[2] + yy * R[5] + yz * R[8],
            xz * R[0] + yz * R[3] + zz * R[6],
            xz * R[1] + yz * R[4] + zz * R[7],
            xz * R[2] + yz * R[5] + zz * R[8],
        )
        store(row, 0, 2.0 * s0 * (R[0] * D[0] + R[3] * D[3] + R[6] * D[6]))
        store(row, WIDTH, 2.0 * s1 * (R[1] * D[1] + R[4] * D[4] + R[7] * D[7]))
        store(row, 2 * WIDTH, 2.0 * s2 * (R[2] * D[2] + R[5] * D[5] + R[8] * D[8]))
        t0, t1, t2 = 2.0 * s0 * s0, 2.0 * s1 * s1, 2.0 * s2 * s2
        G = (
            D[0] * t0, D[1] * t1, D[2] * t2, D[3] * t0, D[4] * t1,
            D[5] * t2, D[6] * t0, D[7] * t1, D[8] * t2,
        )  # fmt: skip
        v_w = 2.0 * (x * (G[7] - G[5]) + y * (G[2] - G[6]) + z * (G[3] - G[1]))
        v_x = 2.0 * (y * (G[1] + G[3]) + z * (G[2] + G[6]) + w * (G[7] - G[5])) - 4.0 * x * (
            G[4] + G[8]
        )
        v_y = 2.0 * (x * (G[1] + G[3]) + z * (G[5] + G[7]) + w * (G[2] - G[6])) - 4.0 * y * (
            G[0] + G[8]
        )
        v_z = 2.0 * (x * (G[2] + G[6]) + y * (G[5] + G[7]) + w * (G[3] - G[1])) - 4.0 * z * (
            G[0] + G[4]
        )
        along = v_w * w + v_x * x + v_y * y + v_z * z
        store(row, 3 * WIDTH, (v_w - along * w) * inverse)
        store(row, 4 * WIDTH, (v_x - along * x) * inverse)
        store(row, 5 * WIDTH, (v_y - along * y) * inverse)
        store(row, 6 * WIDTH, (v_z - along * z) * inverse)
        for j in range(WIDTH):
            for k in range(3):
                v_means[3 * (i + j) + k] = gradients[k * n + i + j]
                v_scales[3 * (i + j) + k] = row[k * WIDTH + j]
            for k in range(4):
                v_quats[4 * (i + j) + k] = row[(3 + k) * WIDTH + j]
            v_opacities[i + j] = gradients[9 * n + i + j]
