"""What errors of cameras do to a picture, and what they leave as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.evaluate.camera_errors import ERRORS, distance, orbit, place, turn
from tests.conftest import dome

MIDDLE = torch.tensor([CROP_CENTER])
ABOUT = MIDDLE + torch.tensor([[0.05, 0, 0], [0, 0.05, 0], [-0.05, 0, 0], [0, -0.05, 0]])


@pytest.fixture
def many() -> Camera:
    return dome(400, 100)


def moved(before: Camera, after: Camera, points: torch.Tensor) -> torch.Tensor:
    return project(after, points)[0] - project(before, points)[0]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_a_turn_leaves_the_centre_and_an_orbit_the_head_in_its_place(many: Camera):
    turned, orbited = turn(many, 2.0, rng()), orbit(many, 2.0, rng())
    torch.testing.assert_close(turned.centers, many.centers, atol=1e-4, rtol=0)
    assert moved(many, turned, MIDDLE).abs().mean() > 4  # pixels of 100, with a focal of 240
    assert moved(many, orbited, MIDDLE).abs().max() < 0.02
    was, now = many.centers - MIDDLE, orbited.centers - MIDDLE
    torch.testing.assert_close(was.norm(dim=1), now.norm(dim=1), atol=1e-4, rtol=0)
    angle = torch.rad2deg(torch.nn.functional.cosine_similarity(was, now).clamp(-1, 1).arccos())
    assert angle.square().mean().sqrt() == pytest.approx(2 * 2**0.5, rel=0.1)


def test_distance_goes_with_the_focal_length(many: Camera):
    far = distance(many, 10.0, rng())
    assert moved(many, far, MIDDLE).abs().max() < 0.02
    ratio = (far.centers - MIDDLE).norm(dim=1) / (many.centers - MIDDLE).norm(dim=1)
    torch.testing.assert_close(ratio, far.K[:, 0, 0] / many.K[:, 0, 0], atol=1e-3, rtol=0)
    assert float(ratio.log().std()) == pytest.approx(0.1, rel=0.1)
    # The head keeps its size but for what perspective changes.
    assert moved(many, far, ABOUT).abs().max() < 0.7


def test_the_pictures_place_moves_all_points_alike(many: Camera):
    shifts = moved(many, place(many, 3.0, rng()), ABOUT)
    torch.testing.assert_close(shifts, shifts[:, :1].expand_as(shifts), atol=1e-3, rtol=0)
    assert float(shifts[:, 0].std()) == pytest.approx(3.0, rel=0.1)


def test_without_an_error_cameras_stay(many: Camera):
    for error in ERRORS:
        same = error.disturb(many, 0.0, rng())
        torch.testing.assert_close(same.world_to_camera, many.world_to_camera)
        torch.testing.assert_close(same.K, many.K)
        assert error.levels[0] == 0
