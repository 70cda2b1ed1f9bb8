"""Tests of the one fit, on points of drawn people with noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.faces.makehuman import Head, load_asset
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.people import sample_identity
from pipeline.tracking.bundle import Bundle, BundleConfig, Sighting, fit, moved
from pipeline.tracking.models import MakeHumanFace
from pipeline.tracking.surface import EYES, JAW, STATE, Posed, Surface, face_state
from tests.prep.test_synthetic import weights

IDS = np.concatenate(
    [load_asset().landmarks, np.arange(0, 5000, 25), load_asset().left_eye[::9],
     load_asset().right_eye[::9]]
).astype(np.int64)  # fmt: skip
CONFIG = BundleConfig(alike=1.0)


@pytest.fixture(scope="module")
def surface() -> Surface:
    return Surface(IDS)


def degrees(R: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))))


def sighting(points: np.ndarray, camera: Camera, moment: int, seed: int, known: bool) -> Sighting:
    pixels = project(camera, torch.from_numpy(points))[0].double().numpy()
    pixels += np.random.default_rng(seed).normal(0, 0.5, pixels.shape)
    return Sighting(
        pixels, np.full(len(pixels), 0.5), (512, 512), moment, camera if known else None,
        lens=moment,
    )  # fmt: skip


def turned(found: Bundle, truth: list[Camera]) -> list[float]:
    pairs = zip(found.cameras, truth, strict=True)
    return [
        degrees((a.world_to_camera[:3, :3] @ b.world_to_camera[:3, :3].mT).double().numpy())
        for a, b in pairs
    ]


def people(count: int, seed: int) -> tuple[list[np.ndarray], Camera]:
    """Points of one person's expressions, and cameras [count, 4]."""
    rng = np.random.default_rng(seed)
    head = Head(sample_identity(rng))
    faces = [head.vertices(sample_expression(rng))[IDS] for _ in range(count)]
    return faces, sample_cameras(rng, count, 4, 512)


def test_points_are_those_of_the_head_and_their_derivatives_are_true(surface: Surface):
    rng = np.random.default_rng(0)
    who, state = rng.normal(0, 1, surface.identity_size), rng.normal(0, 0.2, STATE)
    posed = surface(who, state)
    whole = MakeHumanFace().vertices(torch.from_numpy(who).float(), face_state(state[None]))
    np.testing.assert_allclose(posed.points, whole[0, IDS].numpy(), atol=1e-6)
    h = 1e-5
    for i in (0, 20, 39, 40, EYES.start, EYES.start + 1, STATE - 1):
        step = h * np.eye(STATE)[i]
        slope = (surface(who, state + step).points - surface(who, state - step).points) / (2 * h)
        np.testing.assert_allclose(posed.by_state[..., i], slope, atol=1e-9)
    step = h * np.eye(surface.identity_size)[3]
    slope = (surface(who + step, state).points - surface(who - step, state).points) / (2 * h)
    np.testing.assert_allclose(posed.by_identity[..., 3], slope, atol=1e-9)


def rig() -> tuple[list[Sighting], Camera]:
    """Two moments as four cameras see them that stand still."""
    faces, cameras = people(2, seed=1)
    seen = [
        sighting(face, cameras[0][v], t, 4 * t + v, known=True)
        for t, face in enumerate(faces)
        for v in range(4)
    ]
    return seen, cameras


def test_a_rig_tells_the_pose_of_every_moment(surface: Surface):
    seen, cameras = rig()
    found = fit(surface, seen, CONFIG)
    assert max(turned(found, [cameras[0][v] for v in range(4)] * 2)) < 0.3
    assert np.abs(found.poses[:, :3, 3]).max() < 0.002


def test_a_view_whose_face_is_none_is_outvoted(surface: Surface):
    seen, cameras = rig()
    # A detector's face on a shoulder; as it looks like the mean head, nothing fits better.
    mean = surface(np.zeros(surface.identity_size), np.zeros(STATE)).points
    away = torch.eye(4, dtype=torch.float64)
    away[:3, :3] = torch.from_numpy(Rotation.from_rotvec([0, 1.2, 0.5]).as_matrix())
    away[:3, 3] = torch.tensor([0.12, -0.1, 2.0])
    pixels = project(
        Camera(away.float(), seen[7].camera.K, 512, 512), torch.from_numpy(mean).float()
    )[0]
    seen[7] = replace(seen[7], points=pixels.double().numpy())
    found = fit(surface, seen, CONFIG)
    assert max(turned(found, [cameras[0][v] for v in range(4)] * 2)) < 0.5
    assert found.misfit[7] > 10 > 3 > np.delete(found.misfit, 7).max()


def test_photographs_without_cameras_are_found_to_a_fraction_of_a_degree(surface: Surface):
    faces, cameras = people(4, seed=2)
    truth = [cameras[t][t] for t in range(4)]
    seen = [sighting(face, truth[t], t, t, known=False) for t, face in enumerate(faces)]
    found = fit(surface, seen, CONFIG)
    assert np.median(turned(found, truth)) < 0.4
    assert found.misfit.max() < 3


def test_a_static_head_has_one_pose_and_a_told_one_none(surface: Surface):
    faces, cameras = people(3, seed=3)
    world = torch.eye(4)
    world[:3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    world[:3, 3] = torch.tensor([0.4, -0.2, 3.0])
    rig = replace(cameras[0], world_to_camera=cameras[0].world_to_camera @ torch.inverse(world))
    seen = [
        replace(sighting(face, cameras[0][t], t, t, known=True), camera=rig[t])
        for t, face in enumerate(faces)
    ]
    static = fit(surface, seen, CONFIG, poses="static")
    np.testing.assert_allclose(static.poses, world.expand(3, 4, 4).numpy(), atol=0.01)
    np.testing.assert_array_equal(static.poses[0], static.poses[2])
    seen = [replace(s, camera=cameras[0][t]) for t, s in enumerate(seen)]
    told = fit(surface, seen, CONFIG, poses="told")
    np.testing.assert_allclose(told.poses, np.tile(np.eye(4), (3, 1, 1)), atol=1e-6)


def test_a_loose_pose_takes_up_what_cameras_are_off(surface: Surface):
    faces, cameras = people(4, 7)
    truth = [cameras[0][i] for i in range(4)]
    seen = [sighting(faces[i], truth[i], i, i, True) for i in range(4)]
    # The third camera is not where it is said to be, by three degrees.
    E = truth[2].world_to_camera.double().numpy().copy()
    E[:3, :3] = E[:3, :3] @ Rotation.from_rotvec([0, np.radians(3), 0]).as_matrix()
    off = Camera(torch.from_numpy(E).float(), truth[2].K, 512, 512)
    seen[2] = replace(seen[2], camera=off)
    static, each = fit(surface, seen, CONFIG, poses="static"), fit(surface, seen, CONFIG)
    loose = fit(surface, seen, replace(CONFIG, loose=(0.05, 0.01)), poses="loose")
    stiff = fit(surface, seen, replace(CONFIG, loose=(1e-5, 1e-5)), poses="loose")
    assert max(turned(loose, truth)) < 1 < max(turned(static, truth))
    assert np.allclose(turned(stiff, truth), turned(static, truth), atol=0.05)
    assert np.ptp(stiff.poses, axis=0).max() < 1e-3 < np.ptp(each.poses, axis=0).max()


class Counted:
    """A surface that counts how often it is posed."""

    def __init__(self, surface: Surface) -> None:
        self.surface, self.identity_size, self.posed = surface, surface.identity_size, 0

    def __call__(self, identity: np.ndarray, state: np.ndarray) -> Posed:
        self.posed += 1
        return self.surface(identity, state)


def test_a_fit_that_begins_at_another_ends_where_it_would_from_the_start(surface: Surface):
    faces, cameras = people(3, 2)
    seen = [sighting(p, cameras[t][0], t, t, True) for t, p in enumerate(faces)]
    whole = fit(surface, seen, CONFIG, poses="loose")
    told = [replace(s, camera=c) for s, c in zip(seen, whole.cameras, strict=True)]
    begin = replace(whole, poses=np.tile(np.eye(4), (3, 1, 1)))
    counted = Counted(surface), Counted(surface)
    alone, begun = (
        fit(one, told, CONFIG, poses="loose", first=first)  # pyright: ignore[reportArgumentType]
        for one, first in zip(counted, (None, begin), strict=True)
    )
    assert counted[1].posed < counted[0].posed / 2
    assert max(turned(begun, list(alone.cameras))) < 0.05
    assert np.abs(begun.states - alone.states).max() < 0.05


def test_cameras_that_contradict_the_pictures_leave_a_misfit(surface: Surface):
    faces, cameras = people(3, seed=4)
    seen = [sighting(face, cameras[0][t], t, t, known=True) for t, face in enumerate(faces)]
    good = fit(surface, seen, CONFIG, poses="static")
    swapped = [replace(s, camera=cameras[0][(t + 1) % 3]) for t, s in enumerate(seen)]
    bad = fit(surface, swapped, CONFIG, poses="static")
    assert good.misfit.max() < 3 < 10 < bad.misfit.max()


def test_smoothing_ties_moments_but_not_across_a_cut(surface: Surface):
    faces, cameras = people(1, seed=5)
    rng = np.random.default_rng(0)
    seen = []
    for t in range(8):
        camera = cameras[0][0 if t < 4 else 1]
        one = sighting(faces[0], camera, t, t, known=False)
        points = one.points + rng.normal(0, 6, one.points.shape)
        seen.append(replace(one, points=points, sigma=np.full(len(points), 6.0), lens=0))
    loose = fit(surface, seen, CONFIG)
    tied = fit(surface, seen, replace(CONFIG, smooth=30.0), cuts=[4])

    def steps(found: Bundle) -> np.ndarray:
        R = found.poses[:, :3, :3]
        return np.array([degrees(a @ b.T) for a, b in zip(R, R[1:])])

    assert steps(tied)[[0, 1, 2, 4, 5, 6]].mean() < 0.6 * steps(loose)[[0, 1, 2, 4, 5, 6]].mean()
    assert abs(steps(tied)[3] - steps(loose)[3]) < 1.0


def test_smoothing_does_not_hold_back_a_head_that_turns_steadily(surface: Surface):
    faces, _ = people(1, seed=5)
    yaw = torch.linspace(-0.3, 0.3, 12)
    centers = torch.stack([yaw.sin(), torch.zeros(12), yaw.cos()], -1)
    K = torch.tensor([[1200.0, 0, 256], [0, 1200, 256], [0, 0, 1]])
    camera = Camera(look_at(centers, torch.zeros(12, 3)), K.expand(12, 3, 3), 512, 512)
    seen = [
        replace(
            sighting(faces[0], camera[t], t, t, known=False), sigma=np.full(len(IDS), 6.0), lens=0
        )
        for t in range(12)
    ]
    found = fit(surface, seen, replace(CONFIG, smooth=30.0))
    R = found.poses[:, :3, :3]
    assert degrees(R[0] @ R[-1].T) > 0.9 * np.degrees(0.6)


def test_wild_points_turn_the_head_little(surface: Surface):
    faces, cameras = people(1, seed=6)
    one = sighting(faces[0], cameras[0][0], 0, 0, known=True)
    points = one.points.copy()
    points[::10] += 80
    found = fit(surface, [replace(one, points=points)], CONFIG)
    assert turned(found, [cameras[0][0]])[0] < 0.6


def test_what_cannot_be_fitted_says_why(surface: Surface):
    faces, cameras = people(1, seed=7)
    one = sighting(faces[0], cameras[0][0], 0, 0, known=False)
    with pytest.raises(ShapeError, match="numbered"):
        fit(surface, [], CONFIG)
    with pytest.raises(ShapeError, match="moments of their own"):
        fit(surface, [one, one], CONFIG)
    with pytest.raises(ShapeError, match="known cameras"):
        fit(surface, [one], CONFIG, poses="static")
    with pytest.raises(CameraError, match="Nothing is seen of moment 0"):
        fit(surface, [replace(one, points=np.full_like(one.points, np.nan))], CONFIG)


def test_landmarks_tell_the_expression_but_do_not_turn_the_head(surface: Surface):
    rng = np.random.default_rng(8)
    head = Head(sample_identity(rng))
    face = head.vertices(weights(jawOpen=0.8))[IDS]
    camera = sample_cameras(rng, 1, 4, 512)[0][0]
    one = sighting(face, camera, 0, 8, known=True)
    # The points are told so badly that they say where the head is, but not what it does.
    blurred = replace(one, sigma=np.full(len(IDS), 12.0))
    without = fit(surface, [blurred])
    bias = np.full((68, 3), 0.004)
    marks = project(camera, torch.from_numpy(face[:68] + bias).float())[0].double().numpy()
    shifted = marks + [25.0, -10.0]
    seen = fit(surface, [replace(blurred, marks=shifted)], bias=bias)
    jaw = np.radians(22.9) * 0.8
    assert abs(seen.states[0, JAW.start] - jaw) < 0.5 * abs(without.states[0, JAW.start] - jaw)
    assert turned(seen, [camera])[0] < turned(without, [camera])[0] + 1.0


@pytest.mark.parametrize(("view", "counts"), [(0, True), (1, False)])
def test_landmarks_of_a_face_that_is_turned_far_do_not_count(
    surface: Surface, view: int, counts: bool
):
    rng = np.random.default_rng(8)
    face = Head(sample_identity(rng)).vertices(weights(jawOpen=0.8))[IDS]
    yaw = np.radians([8.0, 55.0])[view]
    eye = torch.tensor([np.sin(yaw), 0.0, np.cos(yaw)]).float()
    K = torch.tensor([[1200.0, 0, 256], [0, 1200, 256], [0, 0, 1]])
    camera = Camera(look_at(eye, torch.zeros(3)), K, 512, 512)
    blurred = replace(sighting(face, camera, 0, 8, known=True), sigma=np.full(len(IDS), 12.0))
    marks = project(camera, torch.from_numpy(face[:68]).float())[0].double().numpy()
    jaws = [
        fit(surface, [replace(blurred, marks=given)]).states[0, JAW.start]
        for given in (None, marks)
    ]
    assert (abs(jaws[1] - jaws[0]) > 0.02) == counts
    assert counts or abs(jaws[1] - jaws[0]) < 1e-3


def test_a_known_persons_identity_is_kept_and_helps(surface: Surface):
    """One frontal picture cannot tell a long face from a lowered one; who it is, tells."""
    faces, cameras = people(6, seed=5)
    seen = [
        sighting(face, cameras[t][v], t, 4 * t + v, known=True)
        for t, face in enumerate(faces)
        for v in range(4)
    ]
    who = fit(surface, seen, CONFIG).identity
    one = [replace(sighting(faces[0], cameras[0][0], 0, 77, known=False), camera=None)]
    told, free = fit(surface, one, CONFIG, identity=who), fit(surface, one, CONFIG)
    np.testing.assert_allclose(told.identity, who, atol=1e-3)
    assert np.abs(free.identity - who).max() > 0.1
    truth = [cameras[0][0]]
    assert turned(told, truth)[0] < turned(free, truth)[0] + 0.05
    assert told.misfit.max() < 3


def test_states_that_are_taken_instead_are_judged_by_the_same_points(surface: Surface):
    faces, cameras = people(3, 2)
    seen = [sighting(face, cameras[0][t], t, t, known=True) for t, face in enumerate(faces)]
    found = fit(surface, seen)
    assert found.information.shape == (3, STATE + 6, STATE + 6)
    assert (np.linalg.eigvalsh(found.information) > 0).all()
    same = moved(surface, seen, found, found.states, found.poses)
    np.testing.assert_allclose(same.errors, found.errors, rtol=1e-6)
    for one, other in zip(same.cameras, found.cameras, strict=True):
        torch.testing.assert_close(one.world_to_camera, other.world_to_camera)
    shifted = found.poses.copy()
    shifted[1, 0, 3] += 0.01
    off = moved(surface, seen, found, found.states, shifted)
    assert off.errors[1] > 3 * found.errors[1] and off.misfit[1] > found.misfit[1]
    np.testing.assert_allclose(off.errors[[0, 2]], found.errors[[0, 2]])
