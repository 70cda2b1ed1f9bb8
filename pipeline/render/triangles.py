# pyright: reportUnknownParameterType=false, reportMissingParameterType=false
# ruff: noqa: ANN001, ANN201, ANN202 (numba infers the types of the kernel)
"""Which triangle a camera sees at each pixel, and how far away; no textures or lights.

Letters: n vertices, m triangles, h height, w width.
"""

from dataclasses import dataclass

import numba
import numpy as np
from jaxtyping import Float, Float32, Int, Int32

from pipeline.core.types import Camera

NEAR = 0.05
"""Triangles with a corner nearer than this are left out, metres."""


@dataclass(frozen=True)
class Drawn:
    """The nearest triangle at the centre of each pixel."""

    depth: Float32[np.ndarray, "h w"]
    """Along the camera's z axis, metres; 0 where there is none."""
    triangle: Int32[np.ndarray, "h w"]
    """Its number; -1 where there is none."""
    shares: Float32[np.ndarray, "h w 3"]
    """Barycentric coordinates in it of the point seen, in space; 0 where there is none."""


def draw_depth(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], camera: Camera
) -> Float32[np.ndarray, "h w"]:
    """Return the depth of the nearest triangle at each pixel's centre, metres; 0 where none is.

    Args:
        vertices: Head frame, metres; triangles with a corner that is not finite are left out.
        faces: Either way round.
        camera: A single one.
    """
    return draw_triangles(vertices, faces, camera).depth


def draw_triangles(
    vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"], camera: Camera
) -> Drawn:
    """Return which triangle is seen at each pixel's centre; arguments as of `draw_depth`."""
    E, K = camera.world_to_camera.double().numpy(), camera.K.double().numpy()
    inside = vertices.astype(np.float64) @ E[:3, :3].T + E[:3, 3]
    x, y, z = (inside @ K.T).T
    z = np.where(np.isfinite(inside).all(1), inside[:, 2], 0.0)
    safe = np.where(z > NEAR, z, 1.0)
    size = (camera.height, camera.width)
    drawn = Drawn(
        np.zeros(size, np.float32), np.full(size, -1, np.int32), np.zeros((*size, 3), np.float32)
    )
    _fill(
        np.nan_to_num(x) / safe, np.nan_to_num(y) / safe, z, np.ascontiguousarray(faces), NEAR,
        drawn.depth, drawn.triangle, drawn.shares,
    )  # fmt: skip
    return drawn


@numba.njit(cache=True, nogil=True)
def _fill(x, y, z, faces, near, out, triangle, shares):
    height, width = out.shape
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if z[a] <= near or z[b] <= near or z[c] <= near:
            continue
        xa, xb, xc, ya, yb, yc = x[a], x[b], x[c], y[a], y[b], y[c]
        # Most triangles of a far head are smaller than a pixel and cover no centre of one.
        left = max(int(np.ceil(min(xa, xb, xc) - 0.5)), 0)
        right = min(int(np.floor(max(xa, xb, xc) - 0.5)), width - 1)
        top = max(int(np.ceil(min(ya, yb, yc) - 0.5)), 0)
        bottom = min(int(np.floor(max(ya, yb, yc) - 0.5)), height - 1)
        area = (xb - xa) * (yc - ya) - (xc - xa) * (yb - ya)
        if left > right or top > bottom or area == 0.0:
            continue
        per_area, per_a, per_b, per_c = 1.0 / area, 1.0 / z[a], 1.0 / z[b], 1.0 / z[c]
        for row in range(top, bottom + 1):
            for column in range(left, right + 1):
                px, py = column + 0.5, row + 0.5
                wa = ((xb - px) * (yc - py) - (xc - px) * (yb - py)) * per_area
                wb = ((xc - px) * (ya - py) - (xa - px) * (yc - py)) * per_area
                wc = 1.0 - wa - wb
                if wa < 0.0 or wb < 0.0 or wc < 0.0:
                    continue
                depth = 1.0 / (wa * per_a + wb * per_b + wc * per_c)  # linear in space
                if out[row, column] == 0.0 or depth < out[row, column]:
                    out[row, column] = depth
                    triangle[row, column] = f
                    shares[row, column, 0] = wa * per_a * depth
                    shares[row, column, 1] = wb * per_b * depth
                    shares[row, column, 2] = wc * per_c * depth
