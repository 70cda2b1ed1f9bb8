"""What a tracked mesh says about pixels, and how Gaussians hang on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import LayoutError, MissingWeightsError, ShapeError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.faces.flame import Flame
from pipeline.faces.guide import FADE, Rig, TrackedMesh, draw_guide
from pipeline.faces.heads import FlameHead, head_model
from pipeline.faces.layouts import FLAME2020, JAW, MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.faces.makehuman import Head
from pipeline.render.triangles import draw_triangles
from pipeline.synthetic.people import sample_identity
from pipeline.synthetic.subject import Subject
from tests.conftest import dome
from tests.faces.flames import numbers
from tests.prep.test_synthetic import weights

SPEAKING = weights(jawOpen=0.8, eyeBlinkLeft=1.0, mouthSmileRight=0.6, eyeLookOutLeft=0.5)


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(sample_identity(np.random.default_rng(3)))


@pytest.fixture(scope="module")
def mesh(head: Head) -> TrackedMesh:
    posed = np.stack([head.vertices(SPEAKING), head.vertices(weights(browInnerUp=1.0))])
    return TrackedMesh(MAKEHUMAN, head.neutral, posed)


def test_the_surface_is_what_the_studio_draws(head: Head):
    vertices = head.vertices(SPEAKING)
    parts = {part.name: part.vertices for part in head.parts(vertices)}
    wanted = np.concatenate([parts[name] for name in ("skin", "eyes", "teeth", "tongue")])
    got = head_model(MAKEHUMAN).surface(vertices, head.neutral)
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_a_neutral_mesh_and_a_code_are_enough_to_pose(head: Head):
    got = head_model(MAKEHUMAN).posed(head.neutral, arkit_to_code(SPEAKING))
    np.testing.assert_allclose(got, head.vertices(SPEAKING), atol=1e-5)


def test_triangle_and_shares_give_the_point_that_depth_says():
    subject = Subject.sample(1)
    model, camera = head_model(MAKEHUMAN), dome(1, 64)[0]
    surface = model.surface(subject.head.neutral, subject.head.neutral)
    drawn = draw_triangles(surface, model.faces, camera)
    hit = drawn.triangle >= 0
    assert (hit == (drawn.depth > 0)).all() and 0.2 < hit.mean() < 0.9
    np.testing.assert_allclose(drawn.shares[hit].sum(-1), 1, atol=1e-5)
    corners = surface[model.faces[drawn.triangle[hit]]]
    points = torch.from_numpy((drawn.shares[hit][..., None] * corners).sum(1))
    pixels, depth = project(camera, points)
    np.testing.assert_allclose(depth.numpy(), drawn.depth[hit], atol=1e-5)
    np.testing.assert_allclose(pixels.numpy(), np.argwhere(hit)[:, ::-1] + 0.5, atol=0.01)


def test_a_pixel_that_sees_the_mesh_gets_that_point_of_the_neutral_one(mesh: TrackedMesh):
    """Where the neutral mesh itself is drawn, the point is that of its depth."""
    still = replace(mesh, posed=mesh.neutral[None])
    camera = dome(1, 64)
    guide = draw_guide(still, camera)
    pixels, _ = project(camera, guide.canonical.flatten(2).mT)
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    centers = torch.stack([x, y], -1).reshape(1, -1, 2)
    # at rest nothing is un-posed, so that all points are on their pixel's ray
    torch.testing.assert_close(pixels, centers, atol=0.01, rtol=0)
    model = head_model(MAKEHUMAN)
    rest = torch.from_numpy(model.surface(mesh.neutral, mesh.neutral))
    seen = guide.coverage[0, 0] > 0
    near = (rest[guide.vertex[0][seen]] - guide.canonical[0][:, seen].T).norm(dim=1)
    assert near.median() < 0.003

    # another expression: the same vertices are seen at other pixels, at the same neutral places
    posed = draw_guide(mesh, dome(2, 64))
    seen = posed.coverage[0, 0] > 0
    near = (rest[posed.vertex[0][seen]] - posed.canonical[0][:, seen].T).norm(dim=1)
    assert near.median() < 0.003


def test_the_chin_of_an_open_mouth_is_where_the_shut_one_is(head: Head, mesh: TrackedMesh):
    guide = draw_guide(mesh, dome(2, 256))
    chin = head.landmarks(mesh.posed[0])[8]
    pixel = project(dome(2, 256)[0], torch.from_numpy(chin[None]))[0][0].long()
    found = guide.canonical[0, :, pixel[1], pixel[0]].numpy()
    assert np.linalg.norm(chin - head.landmarks(head.neutral)[8]) > 0.02
    assert np.linalg.norm(found - head.landmarks(head.neutral)[8]) < 0.006


def test_beyond_the_mesh_depth_and_motion_are_of_the_nearest_pixel(mesh: TrackedMesh):
    camera = dome(2, 48)
    guide = draw_guide(mesh, camera)
    model = head_model(MAKEHUMAN)
    surface = model.surface(mesh.posed[0], mesh.neutral)
    rest = model.surface(mesh.neutral, mesh.neutral)
    drawn = draw_triangles(surface, model.faces, camera[0])
    covered = np.argwhere(drawn.triangle >= 0)
    assert guide.coverage[0, 0].sum() == len(covered)
    gaps = np.argwhere(drawn.triangle < 0)
    rng = np.random.default_rng(0)
    for row, column in rng.permutation(gaps)[:40]:
        distance = ((covered - [row, column]) ** 2).sum(1)
        K = camera.K[0].numpy().astype(float)
        ray = np.linalg.inv(K) @ [column + 0.5, row + 0.5, 1]
        E = camera.world_to_camera[0].numpy().astype(float)
        wanted = []
        for r, c in covered[distance == distance.min()]:  # any of equally near ones may be taken
            corners, shares = model.faces[drawn.triangle[r, c]], drawn.shares[r, c][:, None]
            back = (shares * (rest[corners] - surface[corners])).sum(0)
            wanted.append((drawn.depth[r, c] * ray - E[:3, 3]) @ E[:3, :3] + back)
        found = guide.canonical[0, :, row, column].numpy()
        assert np.abs(np.array(wanted) - found).max(1).min() < 1e-4


def test_an_error_that_camera_and_mesh_share_changes_nothing(mesh: TrackedMesh):
    camera = dome(2, 64)
    before = draw_guide(mesh, camera)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_rotvec([0.02, -0.03, 0.01]).as_matrix()
    turn[:3, 3] = 0.01, -0.005, 0.02
    moved = (mesh.posed @ turn[:3, :3].T + turn[:3, 3]).astype(np.float32)
    E = camera.world_to_camera.double() @ torch.linalg.inv(torch.from_numpy(turn))
    after = draw_guide(
        replace(mesh, posed=moved), Camera(E.float(), camera.K, camera.width, camera.height)
    )
    same = (before.coverage > 0) & (after.coverage > 0)
    assert same.sum() > 0.99 * (before.coverage > 0).sum()
    gap = (before.canonical - after.canonical).norm(dim=1, keepdim=True)
    assert gap[same].quantile(0.99) < 1e-4


def test_without_any_mesh_in_the_picture_points_are_about_the_head(mesh: TrackedMesh):
    away = replace(mesh, posed=mesh.posed + np.float32(5.0))
    guide = draw_guide(away, dome(2, 32))
    assert not guide.coverage.any() and torch.isfinite(guide.canonical).all()
    assert guide.canonical.norm(dim=1).max() < 0.4


def test_a_gaussian_on_the_mesh_goes_with_it_and_one_far_away_stays(mesh: TrackedMesh, head: Head):
    guide = draw_guide(mesh, dome(2, 64))
    model, code = head_model(MAKEHUMAN), arkit_to_code(SPEAKING)
    rest = model.surface(mesh.neutral, mesh.neutral)
    moved = model.surface(head.vertices(SPEAKING), mesh.neutral) - rest
    vertex = torch.from_numpy(np.random.default_rng(0).choice(len(rest), 500))
    places = torch.from_numpy(rest)[vertex]
    on = Rig.attach(guide, places, vertex)
    torch.testing.assert_close(
        on.displacement(code.values), torch.from_numpy(moved)[vertex], atol=1e-5, rtol=0
    )
    off = Rig.attach(guide, places + torch.tensor([FADE, 0.0, 0.0]), vertex)
    torch.testing.assert_close(off.weight, torch.full((500,), float(np.exp(-1))))
    far = Rig.attach(guide, places + 1.0, vertex)
    assert far.displacement(code.values).abs().max() < 1e-6
    assert not on.displacement(neutral_code(MAKEHUMAN).values).abs().max() > 1e-6


def test_what_does_not_fit_is_refused(mesh: TrackedMesh, tmp_path, monkeypatch):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    head_model.cache_clear()
    with pytest.raises(ShapeError, match="same vertices"):
        replace(mesh, posed=mesh.posed[:, :5])
    with pytest.raises(ShapeError, match="2 posed meshes, 3 cameras"):
        draw_guide(mesh, dome(3, 32))
    with pytest.raises(LayoutError, match="No head model"):
        head_model("fastgha120/nobody")
    with pytest.raises(MissingWeightsError, match=r"flame convert FILE -o .*flame2020.npz"):
        head_model(FLAME2020)


def test_flame_is_posed_from_a_persons_neutral_mesh():
    raw = {key: torch.from_numpy(value.astype(np.float32)) for key, value in numbers().items()}
    shapes = raw["shapedirs"]
    model = Flame(
        "2020", raw["v_template"], raw["f"].long(), shapes[..., :300], shapes[..., 300:],
        raw["posedirs"], raw["J_regressor"], raw["weights"],
    )  # fmt: skip
    head = FlameHead(model, FLAME2020)
    shape = 0.5 * torch.randn(10, generator=torch.Generator().manual_seed(0))
    still = torch.eye(3).repeat(5, 1, 1)
    neutral = model.vertices(shape, torch.zeros(0), still).numpy()
    code = neutral_code(FLAME2020)
    code.values[:4] = torch.tensor([0.5, -0.3, 0.2, 0.1])
    turn = torch.from_numpy(Rotation.from_rotvec([0.3, 0.05, 0]).as_matrix()).float()
    code.values[JAW] = turn[:2].flatten()
    turns = still.clone()
    turns[2] = turn
    wanted = model.vertices(shape, code.values[:100], turns).numpy()
    np.testing.assert_allclose(head.posed(neutral, code), wanted, atol=1e-5)
    at_rest = head.posed(neutral, neutral_code(FLAME2020))
    np.testing.assert_allclose(at_rest, neutral, atol=1e-6)
