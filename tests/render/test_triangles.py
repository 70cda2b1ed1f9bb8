"""Tests of which triangle a camera sees, against each pixel's nearest one found by itself."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.types import Camera
from pipeline.render.triangles import draw_triangles

SIZE = 12


def nearest(corners: np.ndarray, x: float, y: float) -> tuple[int, float]:
    """Return the nearest triangle on the ray through a pixel of a camera of focal length SIZE."""
    ray = np.array([(x - SIZE / 2) / SIZE, (y - SIZE / 2) / SIZE, 1.0])
    best, depth = -1, np.inf
    for i, triangle in enumerate(corners):
        # The ray as a sum of the corners: inside if no share is negative.
        shares = np.linalg.solve(triangle.T, ray)
        if (shares >= 0).all() and 1 / shares.sum() < depth:
            best, depth = i, 1 / shares.sum()
    return best, depth


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.02, 1.0))
def test_each_pixel_sees_the_nearest_triangle_on_its_ray(seed: int, size: float):
    rng = np.random.default_rng(seed)
    middles = rng.uniform([-0.6, -0.6, 1.0], [0.6, 0.6, 2.0], (9, 3))
    corners = middles[:, None] + rng.normal(0, size * 0.4, (9, 3, 3)) * [1, 1, 0.3]
    K = torch.tensor([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]])
    drawn = draw_triangles(
        corners.reshape(-1, 3), np.arange(27, dtype=np.int32).reshape(9, 3),
        Camera(torch.eye(4), K, SIZE, SIZE),
    )  # fmt: skip
    for y in range(SIZE):
        for x in range(SIZE):
            which, depth = nearest(corners, x + 0.5, y + 0.5)
            assert drawn.triangle[y, x] == which
            assert np.isclose(drawn.depth[y, x], depth if which >= 0 else 0.0, rtol=1e-5)
            if which >= 0:
                seen = drawn.shares[y, x].astype(float) @ corners[which]
                np.testing.assert_allclose(seen[2], depth, rtol=1e-4)
                np.testing.assert_allclose(
                    seen[:2] / seen[2] * SIZE + SIZE / 2, [x + 0.5, y + 0.5], atol=1e-3
                )
