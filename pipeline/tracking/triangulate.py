"""Points in space from where several cameras see them.

Letters: v cameras, n points.
"""

import numpy as np
from jaxtyping import Float, Float64

MIN_ANGLE = 3.0
"""Degrees between two rays; nearer to parallel, they fix no depth."""


def triangulate(
    pixels: Float[np.ndarray, "v n 2"],
    world_to_camera: Float[np.ndarray, "v 4 4"],
    K: Float[np.ndarray, "v 3 3"],
    tolerance: Float[np.ndarray, "v"],
) -> Float64[np.ndarray, "n 3"]:
    """Return the point that most cameras agree on, for each landmark; nan where fewer than two do.

    Every pair of cameras proposes a point; the one that most cameras see within their tolerance
    is solved again from all of these.

    Args:
        pixels: nan where a camera does not see a point.
        world_to_camera: Of each camera, metres.
        K: Intrinsics, pixels.
        tolerance: How far from its projection a detection may be, pixels of each camera.
    """
    P = K @ world_to_camera[:, :3]
    out = np.full((pixels.shape[1], 3), np.nan)
    R = world_to_camera[:, :3, :3]
    centers = -np.einsum("vji,vj->vi", R, world_to_camera[:, :3, 3])
    for n in range(pixels.shape[1]):
        seen = np.flatnonzero(np.isfinite(pixels[:, n]).all(-1))
        best: np.ndarray = np.zeros(0, int)
        for a, b in _pairs(seen):
            X = _solve(P[[a, b]], pixels[[a, b], n])
            to_a, to_b = X - centers[a], X - centers[b]
            cos = to_a @ to_b / max(float(np.linalg.norm(to_a) * np.linalg.norm(to_b)), 1e-12)
            if not cos < np.cos(np.radians(MIN_ANGLE)):
                continue
            agree = seen[_miss(P[seen], X, pixels[seen, n]) < tolerance[seen]]
            if len(agree) > len(best):
                best = agree
        if len(best) >= 2:
            out[n] = _solve(P[best], pixels[best, n])
    return out


def _pairs(seen: np.ndarray, limit: int = 60) -> list[tuple[int, int]]:
    """Return pairs of cameras, spread evenly if there are many."""
    all_pairs = [(int(a), int(b)) for i, a in enumerate(seen) for b in seen[i + 1 :]]
    return all_pairs[:: max(len(all_pairs) // limit, 1)]


def _solve(P: np.ndarray, pixels: np.ndarray) -> Float64[np.ndarray, "3"]:
    rows = pixels[:, :, None] * P[:, 2:3] - P[:, :2]
    X = np.linalg.svd(rows.reshape(-1, 4))[2][-1]
    return X[:3] / (X[3] if abs(X[3]) > 1e-12 else 1e-12)


def _miss(P: np.ndarray, X: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    x = P[:, :, :3] @ X + P[:, :, 3]
    z = np.where(x[:, 2] > 1e-6, x[:, 2], np.nan)
    miss = np.linalg.norm(x[:, :2] / z[:, None] - pixels, axis=-1)
    return np.where(np.isfinite(miss), miss, np.inf)
