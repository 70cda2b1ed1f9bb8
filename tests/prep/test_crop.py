"""Promises of the crop."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.captures.capture import RawView, factor_head_pose
from pipeline.core.errors import MissingItemError
from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.prep.stages import crop
from pipeline.prep.stages.crop import Box
from tests.captures.studio import over, shoot

numbers = st.floats(-1, 1, allow_nan=False)


def studio_view(t: int = 0, i: int = 0) -> RawView:
    studio = shoot(supersample=2)
    frame = studio.frames[t][i]
    return RawView(over(frame), studio.rig[i], frame.alpha)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(numbers, min_size=9, max_size=9),
    st.floats(-300, 300),
    st.floats(-300, 300),
    st.floats(50, 3000),
    st.sampled_from([64, 256, 512]),
)
def test_a_point_is_seen_at_the_same_place_before_and_after(n, left, top, side, size):
    E = torch.eye(4).double()
    E[:3, :3] = torch.from_numpy(Rotation.from_rotvec(n[:3]).as_matrix())
    E[:3, 3] = torch.tensor([0.1 * n[3], 0.1 * n[4], 1.2 + 0.5 * n[5]])
    K = torch.tensor([[1500.0, 0, 300], [0, 1480, 500], [0, 0, 1]]).double()
    camera = Camera(E, K, 667, 1024)
    part = crop.cropped(camera, Box(left, top, side), size)
    points = torch.tensor([n[6:], [0, 0, 0], [0.05, -0.08, 0.1]]).double() * 0.1
    before, after = project(camera, points)[0], project(part, points)[0]
    wanted = (before - torch.tensor([left, top])) * size / side
    assert float((wanted - after).abs().max()) < 1e-3


def test_pixels_go_where_the_camera_says():
    # A white spot in the picture is found where the cropped camera sees it.
    spots = np.zeros((300, 200, 3), np.uint8)
    v, u = np.mgrid[:300, :200] + 0.5
    spots[...] = (255 * np.exp(-((u - 80.3) ** 2 + (v - 150.8) ** 2) / 72))[..., None]
    view = RawView(spots, None, None)
    for box in (Box(-20.5, 60.25, 190.0), Box(40.0, 100.0, 90.5), Box(30.2, 120.7, 300.0)):
        image = crop.crop(view, box, 128).image[..., 0].astype(float)
        y, x = np.mgrid[:128, :128] + 0.5
        seen = np.array([(image * x).sum(), (image * y).sum()]) / image.sum()
        wanted = (np.array([80.3, 150.8]) - [box.left, box.top]) * 128 / box.side
        np.testing.assert_allclose(seen, wanted, atol=0.05)


def test_a_crop_shows_the_head_on_white_with_its_pose_factored_in():
    studio, view = shoot(supersample=2), studio_view(2, 0)
    H = studio.head_to_world[2]
    head = factor_head_pose(view.camera, H)
    box = crop.square_at_head(head)
    part = crop.crop(replace(view, camera=head), box, 96)
    assert part.image.shape == (96, 96, 3)
    assert part.alpha.shape == (96, 96)
    marks, _ = project(part.camera, torch.from_numpy(studio.frames[2][0].landmarks).double())
    x, y = marks[27:].long().T.numpy()
    assert (part.alpha[y, x] > 100).all()
    assert (part.image[part.alpha == 0] >= 254).all()
    middle, _ = project(part.camera, torch.tensor([CROP_CENTER]).double())
    torch.testing.assert_close(middle[0], torch.tensor([48.0, 48.0]).double())
    # Nothing of the green wall is left at the edge.
    same = crop.crop(RawView(studio.frames[2][0].rgb, head, view.matte, "white"), box, 96)
    assert np.abs(part.image.astype(int) - same.image).mean() < 1


def test_a_box_over_the_edge_is_marked_and_the_matte_ends_there():
    view = studio_view()
    part = crop.crop(view, Box(-48, -30, 96), 96)
    assert (part.inside[:30] == 0).all() and (part.inside[:, :48] == 0).all()
    assert (part.inside[40:, 60:] == 255).all()
    assert (part.alpha[part.inside == 0] == 0).all()
    bare = crop.crop(RawView(view.image, None, None), Box(-48, -30, 96), 96)
    assert bare.alpha is None
    assert (bare.image[:28, 50:] == bare.image[28, 50:]).all()  # the edge, repeated


def test_the_box_at_the_head_by_hand():
    K = torch.tensor([[1000.0, 0, 50], [0, 1000, 70], [0, 0, 1]])
    E = torch.eye(4)
    E[2, 3] = 2.0
    box = crop.square_at_head(Camera(E, K, 100, 140), 0.4, (0.0, 0.0, 0.0))
    assert (box.left, box.top, box.side) == pytest.approx((-50, -30, 200))


@pytest.mark.parametrize(
    "box", [Box(500, 0, 100), Box(0, 0, 3), Box(-9e5, -9e5, 2e6), Box(float("nan"), 0, 100)]
)
def test_a_box_that_misses_the_picture_is_refused(box):
    with pytest.raises(MissingItemError, match="not in the picture"):
        crop.crop(studio_view(), box, 64)


def test_a_head_behind_the_camera_is_refused():
    away = np.eye(4)
    away[2, 3] = 3.0
    behind = factor_head_pose(studio_view().camera, away)
    with pytest.raises(MissingItemError, match="behind"):
        crop.square_at_head(behind)
