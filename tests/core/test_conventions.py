"""A test for each line of pipeline/CONVENTIONS.md, named by its number."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline
from pipeline.core.errors import CameraError, LayoutError, ShapeError
from pipeline.core.geometry import (
    farthest_points,
    look_at,
    pixel_directions,
    plucker_rays,
    project,
    rays,
)
from pipeline.core.types import Camera, ExpressionCode, Gaussians, View
from pipeline.io.sheets import to_bytes


def frontal(size: int = 64, focal: float = 128.0) -> Camera:
    """A camera 1 m in front of the face."""
    K = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1.0]])
    return Camera(look_at(torch.tensor([0.0, 0, 1]), torch.zeros(3)), K, size, size)


def see(camera: Camera, point: list[float]) -> tuple[float, float, float]:
    pixel, depth = project(camera, torch.tensor([point]))
    return float(pixel[0, 0]), float(pixel[0, 1]), float(depth[0])


def test_every_line_has_a_test():
    page = (Path(pipeline.__file__).parent / "core" / "CONVENTIONS.md").read_text()
    lines = set(re.findall(r"^\| (\d+) \|", page, re.M))
    mine = set(re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.M))
    assert lines == mine


def test_1_the_subjects_left_is_right_in_a_frontal_picture_and_the_nose_is_nearest():
    x, y, z = see(frontal(), [0.1, 0, 0])
    assert x == pytest.approx(32 + 12.8) and y == pytest.approx(32)
    assert see(frontal(), [0, 0, 0.1])[2] < z


def test_2_the_camera_looks_along_z_with_y_down():
    direction = pixel_directions(frontal())
    assert (direction[2] == 1).all()
    assert direction[1, 0, 32] < 0 < direction[1, 63, 32]
    assert direction[0, 32, 0] < 0 < direction[0, 32, 63]
    assert see(frontal(), [0, 0.1, 0])[1] < 32, "up in the head frame is up in the picture"


def test_3_world_to_camera_takes_points_of_the_head_frame():
    camera = frontal()
    moved = camera.world_to_camera @ torch.tensor([0.1, 0.2, 0.3, 1.0])
    torch.testing.assert_close(moved[:3], torch.tensor([0.1, -0.2, 0.7]))
    torch.testing.assert_close(camera.centers, torch.tensor([0.0, 0, 1]))


def test_4_a_metre_is_one():
    assert see(frontal(), [0.0, 0.0, 0.0])[2] == pytest.approx(1.0)


def test_5_intrinsics_are_in_pixels():
    with pytest.raises(CameraError, match="in pixels"):
        frontal(focal=1.2)


def test_6_the_centre_of_the_first_pixel_is_half():
    camera = frontal()
    origin, direction = rays(camera)
    x, y, _ = see(camera, (origin[:, 0, 0] + direction[:, 0, 0]).tolist())
    assert (x, y) == (pytest.approx(0.5, abs=1e-4), pytest.approx(0.5, abs=1e-4))


def test_7_colour_is_rgb_in_0_to_1_and_channels_first():
    red = torch.zeros(3, 4, 4)
    red[0] = 1.0
    assert to_bytes(red)[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ShapeError, match="floats"):
        View(torch.zeros(3, 64, 64).byte(), torch.zeros(1, 64, 64), frontal())
    with pytest.raises(ShapeError, match="channels first"):
        View(torch.zeros(64, 64, 3), torch.zeros(1, 64, 64), frontal())


def test_8_what_no_gaussian_covers_is_white():
    from pipeline.render import render

    empty = Gaussians(*(torch.zeros(0, n) for n in (3, 4, 3)), torch.zeros(0), torch.zeros(0, 3))
    drawn = render(empty, frontal(), background=torch.ones(3), backend="reference")
    assert (drawn.color == 1).all() and (drawn.alpha == 0).all()


def one_gaussian(**changes: torch.Tensor) -> Gaussians:
    values = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[1.0, 0, 0, 0]]),
        "scales": torch.full((1, 3), 0.03),
        "opacities": torch.tensor([0.999]),
        "colors": torch.tensor([[1.0, 0, 0]]),
    }
    return Gaussians(**{**values, **changes})


def test_9_depth_is_along_z_not_along_the_ray():
    from pipeline.render import render

    aside = one_gaussian(means=torch.tensor([[0.2, 0, 0]]))
    drawn = render(aside, frontal(), backend="reference")
    x = int(32 + 0.2 * 128)
    assert drawn.depth[32, x, 0] == pytest.approx(1.0, abs=1e-3)


def test_10_quaternions_are_wxyz():
    from pipeline.render import render

    half = np.sqrt(0.5)
    long_x = torch.tensor([[0.08, 0.01, 0.01]])
    # a quarter turn about z lays the long axis along y
    turned = one_gaussian(scales=long_x, quats=torch.tensor([[half, 0, 0, half]]).float())
    alpha = render(turned, frontal(), backend="reference").alpha[..., 0]
    assert alpha[:, 32].sum() > 3 * alpha[32].sum()


def test_11_scales_are_metres_and_opacities_are_shares():
    from pipeline.render import render

    drawn = render(
        one_gaussian(opacities=torch.tensor([0.5])), frontal(size=65), backend="reference"
    )
    assert drawn.alpha[32, 32, 0] == pytest.approx(0.5, abs=1e-3)
    # one standard deviation away: 0.03 m x 128 px, and 0.3 px^2 of blur
    sigma = np.sqrt((0.03 * 128) ** 2 + 0.3)
    assert drawn.alpha[32, 36, 0] == pytest.approx(0.5 * np.exp(-8 / sigma**2), abs=1e-3)


def test_12_a_code_has_120_numbers_and_a_layout():
    from pipeline.faces import layouts

    assert (layouts.EXPRESSION, layouts.JAW) == (slice(0, 100), slice(100, 106))
    assert (layouts.LEFT_EYE, layouts.RIGHT_EYE) == (slice(106, 112), slice(112, 118))
    assert layouts.EYELIDS == slice(118, 120)
    with pytest.raises(ShapeError, match="120"):
        ExpressionCode(torch.zeros(119), "x")
    with pytest.raises(LayoutError, match="layout"):
        ExpressionCode(torch.zeros(120), "")
    with pytest.raises(ShapeError, match="finite"):
        ExpressionCode(torch.full((120,), torch.nan), "x")


def test_13_six_numbers_are_the_first_two_rows():
    from pipeline.faces import layouts

    neutral = layouts.neutral_code(layouts.MAKEHUMAN).values
    for part in (layouts.JAW, layouts.LEFT_EYE, layouts.RIGHT_EYE):
        assert neutral[part].tolist() == [1, 0, 0, 0, 1, 0]


def test_14_a_resized_camera_sees_the_same_point_at_the_same_place():
    camera = frontal()
    x, y, _ = see(camera, [0.05, 0.03, 0.02])
    X, Y, _ = see(camera.resized(128, 32), [0.05, 0.03, 0.02])
    assert (X, Y) == (pytest.approx(2 * x), pytest.approx(y / 2))


def test_a_point_on_a_pluecker_line_projects_to_its_pixel():
    camera = frontal(size=8, focal=16)
    d, m = plucker_rays(camera).split(3)
    points = torch.linalg.cross(d, m, dim=0) + 0.3 * d
    pixels, _ = project(camera, points.flatten(1).T)
    wanted = (
        torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy"), -1) + 0.5
    )
    torch.testing.assert_close(pixels.unflatten(0, (8, 8)), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda E: E.mT,
        lambda E: E * 1000,
        lambda E: E * torch.tensor([1.0, 1, -1, 1])[:, None],
        lambda E: E * torch.nan,
    ],
)
def test_a_transposed_scaled_mirrored_or_nan_camera_is_refused(spoil):
    camera = frontal()
    with pytest.raises(CameraError):
        Camera(spoil(camera.world_to_camera), camera.K, 64, 64)


def test_roll_turns_the_camera_clockwise():
    E = look_at(torch.tensor([0.0, 0, 1]), torch.zeros(3), roll=0.1)
    camera = Camera(E, frontal().K, 64, 64)
    assert see(camera, [0, 0.1, 0])[0] < 32


def test_farthest_points_never_repeat_and_go_to_the_far_ends():
    points = torch.tensor([[0.0], [0.1], [1.0], [1.0], [0.5]])[:, [0, 0, 0]]
    assert farthest_points(points, 3, 0) == [0, 2, 4]
    assert sorted(farthest_points(points, 5, 1)) == [0, 1, 2, 3, 4]
