"""The similarity transform between two sets of points that correspond, some of them wrongly.

Letters: n points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from pipeline.core.errors import ShapeError


@dataclass(frozen=True)
class AlignConfig:
    """How robustly points are aligned."""

    tolerance: float = 0.006
    """Correspondences within this distance agree, metres in the target's frame."""
    trials: int = 400
    """Triples of points that propose a transform."""
    min_points: int = 8
    """Correspondences that must agree."""
    min_share: float = 0.35
    """And so many of those that are known: a scale near 0 makes some of any points agree."""


@dataclass(frozen=True)
class Similarity:
    """A transform y = scale R x + t."""

    scale: float
    R: Float64[np.ndarray, "3 3"]
    t: Float64[np.ndarray, "3"]

    def __call__(self, points: Float[np.ndarray, "*n 3"]) -> Float64[np.ndarray, "*n 3"]:
        """Transform points."""
        return self.scale * points @ self.R.T + self.t


@dataclass(frozen=True)
class Alignment:
    """A transform and how well it fits."""

    similarity: Similarity
    inliers: Bool[np.ndarray, "n"]
    residual: float
    """Root mean square distance of the inliers, in millimetres if the target is in metres."""


def umeyama(
    source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]
) -> Similarity | None:
    """Return the least-squares similarity from source to target; None if the points fix none.

    Source:
        Umeyama, Least-Squares Estimation of Transformation Parameters Between Two Point
        Patterns, PAMI 1991.
    """
    a, b = source - source.mean(0), target - target.mean(0)
    U, S, Vt = np.linalg.svd(b.T @ a / len(a))
    if not S[1] > 1e-9 * max(float(S[0]), 1e-30):
        return None  # all on one line
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(U) * np.linalg.det(Vt))])
    R = (U * signs) @ Vt
    scale = float((S * signs).sum() / (a**2).sum(1).mean())
    if not (np.isfinite(scale) and scale > 0):
        return None
    return Similarity(scale, R, target.mean(0) - scale * R @ source.mean(0))


def align(
    source: Float[np.ndarray, "n 3"],
    target: Float[np.ndarray, "n 3"],
    config: AlignConfig = AlignConfig(),
) -> Alignment | None:
    """Return the similarity that most correspondences agree on, by RANSAC, then least squares.

    The same points give the same result: the trials are drawn from a fixed seed.

    Args:
        source: In any frame and of any scale; rows with nan are left out.
        target: Metres.
        config: How robustly.

    Returns:
        None if too few correspondences agree.

    Raises:
        ShapeError: If the numbers of points differ.
    """
    if source.shape != target.shape or source.shape[1:] != (3,):
        raise ShapeError(
            f"Points [n, 3] correspond; got {list(source.shape)} and {list(target.shape)}.",
            "Give one target for each source.",
        )
    known = np.flatnonzero(np.isfinite(source).all(1) & np.isfinite(target).all(1))
    if len(known) < max(config.min_points, 3):
        return None
    needed = max(config.min_points, int(np.ceil(config.min_share * len(known))))
    x, y = source[known].astype(np.float64), target[known].astype(np.float64)
    best = _propose(x, y, config)
    for _ in range(10):
        if best.sum() < needed:
            return None
        fitted = umeyama(x[best], y[best])
        if fitted is None:
            return None
        agree = np.linalg.norm(fitted(x) - y, axis=1) < config.tolerance
        if (agree == best).all():
            break
        best = agree
    if best.sum() < needed or (fitted := umeyama(x[best], y[best])) is None:
        return None
    inliers = np.zeros(len(source), bool)
    inliers[known[best]] = True
    squares = ((fitted(x[best]) - y[best]) ** 2).sum(1)
    return Alignment(fitted, inliers, 1000 * float(np.sqrt(squares.mean())))


def _propose(x: np.ndarray, y: np.ndarray, config: AlignConfig) -> Bool[np.ndarray, "n"]:
    """Return the largest set of points that the transform of a triple agrees with.

    Of equal sets, the tighter one: counted with a cost that is the squared distance, at most the
    tolerance (MSAC).
    """
    rng = np.random.default_rng(0)
    triples = rng.random((config.trials, len(x))).argsort(axis=1)[:, :3]
    a, b = x[triples], y[triples]
    a_mean, b_mean = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
    a, b = a - a_mean, b - b_mean
    U, S, Vt = np.linalg.svd(np.einsum("kni,knj->kij", b, a) / 3)
    signs = np.ones((config.trials, 3))
    signs[:, 2] = np.sign(np.linalg.det(U) * np.linalg.det(Vt))
    R = (U * signs[:, None]) @ Vt
    scale = (S * signs).sum(1) / np.maximum((a**2).sum(2).mean(1), 1e-30)
    moved = scale[:, None, None] * np.einsum("nj,kij->kni", x, R)
    moved += b_mean - scale[:, None, None] * np.einsum("knj,kij->kni", a_mean, R)
    squares = ((moved - y) ** 2).sum(2)
    costs = np.minimum(squares, config.tolerance**2).sum(1)
    return squares[int(np.nanargmin(costs))] < config.tolerance**2
