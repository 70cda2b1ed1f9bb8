"""Faces as the identity network wants them."""

from __future__ import annotations

import numpy as np


def test_a_face_is_turned_onto_arcfaces_points():
    from pipeline.perception.identity import ARCFACE_POINTS, EYES, MOUTH, NOSE, aligned
    from pipeline.perception.landmarks import Face

    angle, scale = 0.4, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    five = ARCFACE_POINTS @ turn.T + [70, 10]
    landmarks = np.zeros((68, 2))
    for eye, point in zip(EYES, five[:2]):
        landmarks[list(eye)] = point
    for i, point in zip((NOSE, *MOUTH), five[2:]):
        landmarks[i] = point
    y, x = np.mgrid[:320, :320] + 0.5
    picture = np.zeros((320, 320, 3), np.uint8)
    for point in five:
        picture[np.hypot(x - point[0], y - point[1]) < 4] = 255
    found = aligned(picture, Face((0, 0, 1, 1), landmarks, 1.0))[..., 0].astype(float)
    assert found.shape == (112, 112)
    y, x = np.mgrid[:112, :112] + 0.5
    for point in ARCFACE_POINTS:
        near = found * (np.hypot(x - point[0], y - point[1]) < 6)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert np.abs(centre - point).max() < 0.3
