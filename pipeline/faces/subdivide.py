"""One level of Catmull-Clark subdivision of quads, as a sparse matrix.

Source:
    Catmull and Clark, Recursively generated B-spline surfaces, 1978; boundaries as cubic
    B-splines (DeRose et al., 1998).

Letters: v vertices, q quads, e edges, s vertices of the finer mesh (v, then e, then q).
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, Int32
from scipy.sparse import coo_matrix, csr_matrix, diags_array, vstack


def subdivide(
    quads: Int32[np.ndarray, "q 4"], vertices: int
) -> tuple[csr_matrix, Int32[np.ndarray, "q4 4"]]:
    """Return the matrix from control vertices to the finer mesh's, and the finer quads.

    Rows of control vertices that no quad uses leave them where they are.
    """
    edges, of_quad = _edges(quads)
    v, e, q = vertices, len(edges), len(quads)
    face_points = _matrix(np.arange(q).repeat(4), quads.ravel(), 0.25, (q, v))
    ends = _matrix(np.arange(e).repeat(2), edges.ravel(), 0.5, (e, v))
    uses = np.bincount(of_quad.ravel(), minlength=e)
    beside = _matrix(of_quad.ravel(), np.arange(q).repeat(4), 1.0, (e, q))
    inner = (uses == 2).astype(float)
    edge_points = diags_array(1 - 0.5 * inner) @ ends + diags_array(0.25 * inner) @ (
        beside @ face_points
    )
    # Control vertices: inside (F + 2 R + (n - 3) P) / n, on a boundary (E1 + 6 P + E2) / 8.
    on_edge = edges[uses == 1].ravel()
    boundary = np.bincount(on_edge, minlength=v) > 0
    degree = np.maximum(np.bincount(edges.ravel(), minlength=v), 1)
    face_count = np.maximum(np.bincount(quads.ravel(), minlength=v), 1)
    faces_at = _matrix(quads.ravel(), np.arange(q).repeat(4), 1.0, (v, q))
    edges_at = _matrix(edges.ravel(), np.arange(e).repeat(2), 1.0, (v, e))
    used = np.bincount(quads.ravel(), minlength=v) > 0
    smooth = (used & ~boundary).astype(float)
    keep = _matrix(np.arange(v), np.arange(v), 1.0, (v, v))
    inside = (
        diags_array(smooth / (degree * face_count)) @ (faces_at @ face_points)
        + diags_array(2 * smooth / degree**2) @ (edges_at @ ends)
        + diags_array(smooth * (degree - 3) / degree) @ keep
    )
    rim = (used & boundary).astype(float)
    rim_edges = edges_at @ diags_array((uses == 1).astype(float))
    # Each rim midpoint carries half of this vertex: 1/4 of two midpoints is (E1 + 2 P + E2)/8.
    outside = diags_array(0.25 * rim) @ (rim_edges @ ends) + diags_array(0.5 * rim) @ keep
    unused = diags_array((~used).astype(float)) @ keep
    matrix = _stack([inside + outside + unused, edge_points, face_points])
    center = v + e + np.arange(q)
    mid = v + of_quad
    fine = np.concatenate(
        [np.stack([quads[:, i], mid[:, i], center, mid[:, i - 1]], 1) for i in range(4)]
    )
    return matrix, fine.astype(np.int32)


def subdivide_uvs(
    quads: Int32[np.ndarray, "q 4"], uvs: Float32[np.ndarray, "k 2"]
) -> tuple[Float32[np.ndarray, "s 2"], Int32[np.ndarray, "q4 4"]]:
    """Return texture coordinates halved along their edges, in the order of `subdivide`'s quads."""
    edges, of_quad = _edges(quads)
    fine = np.concatenate([uvs, uvs[edges].mean(1), uvs[quads].mean(1)])
    center = len(uvs) + len(edges) + np.arange(len(quads))
    mid = len(uvs) + of_quad
    faces = np.concatenate(
        [np.stack([quads[:, i], mid[:, i], center, mid[:, i - 1]], 1) for i in range(4)]
    )
    return fine.astype(np.float32), faces.astype(np.int32)


def _edges(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges [e, 2] and, for each quad, the edge from each corner to the next."""
    pairs = np.stack([quads, np.roll(quads, -1, axis=1)], -1).reshape(-1, 2)
    edges, inverse = np.unique(np.sort(pairs, axis=1), axis=0, return_inverse=True)
    return edges, inverse.reshape(-1, 4)


def _matrix(
    rows: np.ndarray, columns: np.ndarray, value: float, shape: tuple[int, int]
) -> csr_matrix:
    return csr_matrix(coo_matrix((np.full(len(rows), value), (rows, columns)), shape=shape))


def _stack(blocks: list[Any]) -> csr_matrix:
    """Stack matrices over each other, as float32."""
    return csr_matrix(vstack(blocks), dtype=np.float32)
