"""Skin tells how a head turned between pictures: on drawn people, whose cameras are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, shift
from scipy.spatial.transform import Rotation

from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.perception.points import CloseUp, PointsFinder, close_up
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.tracking.models import identity_space
from pipeline.tracking.skin import SkinConfig, inverse_root
from pipeline.tracking.texture import TextureConfig, align
from pipeline.tracking.windows import pyramid, search

SIZE = 256
FAST = TextureConfig(SkinConfig(spacing=0.016), rounds=2)


UNSURE = np.diag([0.04, 0.04, 0.04, 0.006, 0.006, 0.04]) ** 2
"""Of a pose: turns, metres aside, the logarithm of the distance."""


def told(count: int) -> np.ndarray:
    return np.tile(np.linalg.inv(UNSURE), (count, 1, 1))


def few(keys: int) -> TextureConfig:
    return replace(FAST, skin=replace(FAST.skin, keys=keys))


def textured(seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(96, 96))
    smooth = gaussian_filter(noise, 2)
    return (0.5 + 0.2 * smooth / smooth.std()).astype(np.float32)


@pytest.mark.parametrize("way", [(0.0, 0.0), (0.4, -0.3), (-3.3, 2.6)])
def test_a_window_is_found_to_a_tenth_of_a_pixel_in_another_light(way: tuple[float, float]):
    image = textured()
    moved = 0.3 + 0.5 * shift(image, way[::-1], order=3, mode="nearest")
    at = np.array([[40.0, 40.0], [50.0, 55.0], [60.0, 44.0]])
    known = np.ones(image.shape, bool)
    off, covariance, alike = search(image, known, pyramid(moved.astype(np.float32)), at)
    assert np.abs(off - way).max() < 0.1 and alike.min() > 0.98
    assert np.isfinite(covariance).all()


def test_along_an_edge_a_window_is_unsure():
    image = np.broadcast_to(textured()[:1], (96, 96)).copy()  # stripes from top to bottom
    image += 0.01 * textured(1)
    known = np.ones(image.shape, bool)
    other = pyramid(image + 0.01 * textured(2))
    _, covariance, _ = search(image, known, other, np.array([[48.0, 48.0]]))
    assert covariance[0, 1, 1] > 20 * covariance[0, 0, 0]


@pytest.mark.parametrize("contrast", [1.0, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("brighter", [0.0, 0.3, 0.9])
def test_skin_without_texture_is_like_nothing_else(contrast: float, brighter: float):
    image = 0.5 + contrast * (textured() - 0.5)
    other = (brighter + image).astype(np.float32)
    known = np.ones(image.shape, bool)
    at = np.stack(np.meshgrid(np.arange(20.0, 76, 2), np.arange(20.0, 76, 2)), -1).reshape(-1, 2)
    _, covariance, alike = search(image.astype(np.float32), known, pyramid(other), at)
    assert alike.max() < 1.001 and (contrast < 1 or alike.min() > 0.98)
    told = covariance[np.isfinite(covariance).all((1, 2))]
    assert np.linalg.eigvalsh(told).min() >= 0


@pytest.mark.parametrize("angle", np.linspace(0, np.pi, 7).tolist())
def test_what_a_window_tells_one_way_counts_though_it_tells_nothing_the_other(angle: float):
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-along[1], along[0]])
    for size in (1.0, 1e6, 1e15, 1e22):
        covariance = size * np.outer(along, along) + 0.25 * np.outer(across, across)
        told = inverse_root(covariance[None])[0]
        assert np.linalg.norm(told @ along) < 1.01 * size**-0.5
        if size < 1e7:  # beyond, the numbers of the matrix themselves have lost it
            assert np.linalg.norm(told @ across) == pytest.approx(2, rel=1e-3)
        assert np.isfinite(told).all() and np.linalg.norm(told) < 1e4


def test_what_one_picture_does_not_show_is_not_searched():
    image, known = textured(), np.zeros((96, 96), bool)
    off, _, alike = search(image, known, pyramid(image), np.array([[48.0, 48.0], [1.0, 1.0]]))
    assert (off == 0).all() and (alike == 0).all()


@pytest.fixture(scope="module")
def turned() -> tuple[list[CloseUp], TrackedMesh, list[Camera]]:
    """One person seen from five sides."""
    subject, _ = person(SyntheticConfig(split="test"), 3)
    yaw = torch.tensor([-40.0, -20.0, 0.0, 20.0, 40.0]).deg2rad()
    target = torch.tensor([0.0, 0.0, 0.0]).expand(5, 3)
    E = look_at(torch.stack([yaw.sin(), 0 * yaw, yaw.cos()], 1), target)
    f = SIZE / 0.4
    K = torch.tensor([[f, 0, SIZE / 2], [0, f, SIZE / 2], [0, 0, 1]])
    cameras = [Camera(one, K, SIZE, SIZE) for one in E]
    frames = [subject.render(np.zeros(52), camera) for camera in cameras]
    posed = np.stack([frame.vertices for frame in frames]).astype(np.float32)
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral.astype(np.float32), posed)
    of_network = PointsFinder().vertices
    shown: list[CloseUp] = []
    for frame, camera in zip(frames, cameras, strict=True):
        found = close_up(Image.fromarray(frame.rgb), seen(camera, frame.vertices[of_network]))
        assert found is not None
        shown.append(found)
    return shown, mesh, cameras


def seen(camera: Camera, points: np.ndarray) -> np.ndarray:
    return project(camera, torch.from_numpy(points))[0].double().numpy()


def wrong(cameras: list[Camera], seed: int = 0) -> list[Camera]:
    """Return cameras that are off by two degrees each, and together not."""
    turns = np.random.default_rng(seed).normal(0, np.radians(2), (len(cameras), 3))
    turns -= turns.mean(0)
    out: list[Camera] = []
    for camera, turn in zip(cameras, turns, strict=True):
        E = camera.world_to_camera.double().numpy().copy()
        E[:3, :3] = Rotation.from_rotvec(turn).as_matrix() @ E[:3, :3]
        out.append(Camera(torch.from_numpy(E).float(), camera.K, SIZE, SIZE))
    return out


def between(found: list[Camera], truth: list[Camera]) -> float:
    """Return the median error of turns between pictures, degrees."""
    R, T = (torch.stack([c.world_to_camera[:3, :3].double() for c in x]).numpy()
            for x in (found, truth))  # fmt: skip
    errors = [
        Rotation.from_matrix(R[i].T @ R[j] @ (T[i].T @ T[j]).T).magnitude()
        for i in range(len(R)) for j in range(i)
    ]  # fmt: skip
    return float(np.degrees(np.median(errors)))


def test_cameras_come_to_agree(turned: tuple[list[CloseUp], TrackedMesh, list[Camera]]):
    shown, mesh, truth = turned
    begun = wrong(truth)
    found = align(shown, mesh, begun, told(5), identity_space()[1], FAST)
    assert between(begun, truth) > 2
    assert between(found, truth) < 0.6


def test_a_shape_that_is_wrong_does_not_undo_it(
    turned: tuple[list[CloseUp], TrackedMesh, list[Camera]],
):
    shown, mesh, truth = turned
    other = identity_space()[1][0] * 0.7
    mesh = TrackedMesh(mesh.layout, mesh.neutral + other, mesh.posed + other)
    begun = wrong(truth)
    found = align(shown, mesh, begun, told(5), identity_space()[1], FAST)
    assert between(found, truth) < 0.6 * between(begun, truth)


def test_pictures_beyond_the_key_ones_are_brought_to_them(
    turned: tuple[list[CloseUp], TrackedMesh, list[Camera]],
):
    shown, mesh, truth = turned
    begun = wrong(truth)
    found = align(shown, mesh, begun, told(5), identity_space()[1][:0], few(3))
    assert between(found, truth) < 0.5 * between(begun, truth)


@pytest.mark.parametrize("keys", [8, 3])
def test_who_is_sure_of_a_pose_is_left_there(
    turned: tuple[list[CloseUp], TrackedMesh, list[Camera]], keys: int
):
    shown, mesh, truth = turned
    begun, sure = wrong(truth), told(5)
    begun[0] = truth[0]
    sure[0] *= 1e6
    found = align(shown, mesh, begun, sure, identity_space()[1][:0], few(keys))
    E, before = (torch.stack([c.world_to_camera for c in x]).double() for x in (found, begun))
    turns = (E[:, :3, :3] @ before[:, :3, :3].mT).numpy()
    gone = np.degrees(Rotation.from_matrix(turns).magnitude())
    assert gone[0] < 0.1 < 0.3 < max(gone[1:])


def test_pictures_that_show_nothing_stay_where_they_were(
    turned: tuple[list[CloseUp], TrackedMesh, list[Camera]],
):
    shown, mesh, truth = turned
    grey = [replace(one, grey=np.full_like(one.grey, 128)) for one in shown]
    for keys in (3, 8):
        found = align(grey, mesh, truth, told(5), identity_space()[1][:0], few(keys))
        assert between(found, truth) < 1e-3


def test_a_close_up_has_the_cameras_pixels(
    turned: tuple[list[CloseUp], TrackedMesh, list[Camera]],
):
    shown, mesh, truth = turned
    points = mesh.posed[1][::500]
    left, top, side = shown[1].place
    inside = (seen(truth[1], points) - [left, top]) * len(shown[1].grey) / side
    assert np.abs(seen(shown[1].camera(truth[1]), points) - inside).max() < 1e-3


def test_a_small_head_shows_no_skin():
    rgb = np.zeros((100, 100, 3), np.uint8)
    corners = np.array([[10.0, 10], [80, 80]])
    assert close_up(Image.fromarray(rgb), corners) is None
    assert close_up(Image.fromarray(rgb), 2 * corners) is not None
