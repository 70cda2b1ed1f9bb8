"""Skin tells how a face moved between moments: on a drawn person, whose expressions are known."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.faces import makehuman
from pipeline.faces.layouts import ARKIT, JAW_OPEN, MAKEHUMAN, arkit_to_code
from pipeline.perception.points import CloseUp, PointsFinder, close_up
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.tracking import motion
from pipeline.tracking.bundle import POSE, Bundle
from pipeline.tracking.motion import MotionConfig, align_moments
from pipeline.tracking.skin import SkinConfig, choose
from pipeline.tracking.surface import EXPRESSION, JAW, LIDS, STATE, Surface, face_state
from tests.prep.test_synthetic import weights

SIZE = 256
FAST = MotionConfig(SkinConfig(spacing=0.016, keys=6, moved=0.1, floor=0.5, together=5.0))
ACTS = (
    weights(),
    weights(jawOpen=0.5),
    weights(mouthSmileLeft=0.8, mouthSmileRight=0.8, cheekSquintLeft=0.5),
    weights(browInnerUp=0.9, mouthPucker=0.7),
)


@dataclass(frozen=True)
class Rig:
    shown: list[CloseUp]
    cameras: list[Camera]
    """Of each picture: two for each moment."""
    states: np.ndarray
    neutral: np.ndarray

    moments = [0, 0, 1, 1, 2, 2, 3, 3]
    views = [0, 1] * 4

    def pose(self, states: np.ndarray) -> np.ndarray:
        codes = face_state(states).code(MAKEHUMAN)
        return np.stack([makehuman.pose(self.neutral, code) for code in map(codes.__getitem__,
                         range(len(states)))])  # fmt: skip

    def found(self, states: np.ndarray, *, static: bool = False) -> Bundle:
        """Return a fit that has these states, and is as unsure of them as it should be."""
        width = np.r_[np.full(STATE, 0.8), np.full(3, 0.01), np.full(3, 0.003)]
        told = np.diag(width[: STATE if static else STATE + POSE] ** -2.0)
        nothing = np.zeros(len(self.shown))
        return Bundle(
            np.zeros(3), states, np.tile(np.eye(4), (4, 1, 1)), tuple(self.cameras), nothing,
            nothing, np.tile(told, (4, 1, 1)),
        )  # fmt: skip

    def off(self, states: np.ndarray) -> float:
        """Return how far the face moves wrongly between moments, mm."""
        front = self.neutral[:, 2] > 0.02
        error = (self.pose(states) - self.pose(self.states))[:, front]
        return 1000 * float(np.linalg.norm(error - error.mean(0), axis=-1).mean())


@pytest.fixture(scope="module")
def rig() -> Rig:
    subject, _ = person(SyntheticConfig(split="test"), 3)
    yaw = torch.tensor([-20.0, 20.0]).deg2rad()
    E = look_at(torch.stack([yaw.sin(), 0 * yaw, yaw.cos()], 1), torch.zeros(2, 3))
    f = SIZE / 0.4
    K = torch.tensor([[f, 0, SIZE / 2], [0, f, SIZE / 2], [0, 0, 1]])
    cameras = [Camera(one, K, SIZE, SIZE) for one in E] * 4
    of_network = PointsFinder().vertices
    shown: list[CloseUp] = []
    for act, both in zip(ACTS, zip(cameras[::2], cameras[1::2], strict=True), strict=True):
        for camera in both:
            frame = subject.render(act, camera)
            points = project(camera, torch.from_numpy(frame.vertices[of_network]))[0]
            found = close_up(Image.fromarray(frame.rgb), points.double().numpy())
            assert found is not None
            shown.append(found)
    states = np.zeros((4, STATE))
    for t, act in enumerate(ACTS):
        code = arkit_to_code(act[None]).values[0].double().numpy()
        states[t, EXPRESSION], states[t, LIDS] = code[EXPRESSION], code[-2:]
        states[t, JAW.start] = np.radians(JAW_OPEN) * act[ARKIT["jawOpen"]]
    return Rig(shown, cameras, states, subject.head.neutral.astype(np.float32))


def wrong(states: np.ndarray) -> np.ndarray:
    """Return states that are off, each in another way, and together not."""
    off = np.random.default_rng(0).normal(0, 0.7, states.shape)
    off[:, EXPRESSION.stop :] *= 0.1
    return states + off - off.mean(0)


def aligned(rig: Rig, found: Bundle, config: MotionConfig = FAST) -> np.ndarray:
    by_state = Surface(np.arange(len(rig.neutral))).by_state
    return align_moments(
        rig.shown, rig.moments, rig.views, found, rig.pose, by_state, config
    )[0]  # fmt: skip


def test_states_come_to_agree_with_what_skin_shows(rig: Rig):
    begun = wrong(rig.states)
    assert rig.off(begun) > 1
    for static in (False, True):
        found = aligned(rig, rig.found(begun, static=static))
        assert rig.off(found) < 0.4 * rig.off(begun)


def test_moments_beyond_the_key_ones_are_brought_to_them(rig: Rig):
    begun = wrong(rig.states)
    found = aligned(rig, rig.found(begun), replace(FAST, skin=replace(FAST.skin, keys=2)))
    assert rig.off(found) < 0.4 * rig.off(begun)


def test_what_is_right_stays(rig: Rig):
    assert rig.off(aligned(rig, rig.found(rig.states))) < 0.2


@pytest.mark.parametrize("static", [False, True])
def test_a_head_that_turns_before_still_cameras_turns_also_where_the_cameras_are_told_to(
    rig: Rig, static: bool, monkeypatch: pytest.MonkeyPatch
):
    """Which moments are alike is told by how the pictures see the head."""
    yaw = Rotation.from_euler("y", [[0], [10], [20], [30]], degrees=True).as_matrix()
    found = rig.found(rig.states, static=static)
    moved = np.tile(np.eye(4), (4, 1, 1))
    moved[:, :3, :3] = yaw
    cameras = tuple(
        replace(c, world_to_camera=c.world_to_camera @ torch.from_numpy(moved[t]).float())
        for c, t in zip(rig.cameras, rig.moments, strict=True)
    )
    found = replace(found, cameras=cameras, poses=found.poses if static else moved)
    given: list[np.ndarray] = []

    def note(turns: np.ndarray, posed: np.ndarray, config: SkinConfig):
        given.append(turns.copy())
        return choose(turns, posed, config)

    monkeypatch.setattr(motion, "choose", note)
    aligned(rig, found)
    away = [Rotation.from_matrix(given[0][0].T @ turn).magnitude() for turn in given[0]]
    np.testing.assert_allclose(np.degrees(away), [0, 10, 20, 30], atol=1e-3)


def test_what_all_moments_have_in_common_is_the_points_to_tell(rig: Rig):
    shifted = rig.states.copy()
    shifted[:, :8] += 0.4
    found = aligned(rig, rig.found(shifted))
    assert np.abs((found - shifted).mean(0)).max() < 0.1


def test_pictures_that_show_nothing_leave_all_as_it_was(rig: Rig):
    grey = [replace(one, grey=np.full_like(one.grey, 128)) for one in rig.shown]
    begun = wrong(rig.states)
    found = rig.found(begun)
    by_state = Surface(np.arange(len(rig.neutral))).by_state
    states, poses = align_moments(grey, rig.moments, rig.views, found, rig.pose, by_state, FAST)
    np.testing.assert_allclose(states, begun)
    np.testing.assert_allclose(poses, found.poses)


def test_slopes_by_state_are_those_of_the_face():
    ids = np.arange(0, 6_000, 50)
    surface, who = Surface(ids), np.zeros(Surface(ids).identity_size)
    rest = surface(who, np.zeros(STATE)).points
    for j in (0, 7, JAW.start, JAW.start + 1, LIDS.start):
        step = np.eye(STATE)[j] * 1e-3
        there = (surface(who, step).points - rest) / 1e-3
        np.testing.assert_allclose(surface.by_state[..., j], there, atol=1e-6)
