import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.tracking import cameras
from tests.faces.heads import HEAD

SIZE = (600, 800)


def camera(seed: int, focal: float | None = None) -> Camera:
    rng = np.random.default_rng(seed)
    yaw, pitch, roll = np.radians(rng.uniform([-50, -20, -15], [50, 20, 15]))
    distance = rng.uniform(0.8, 1.3)
    center = distance * np.array(
        [np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)]
    )
    target = torch.tensor(rng.uniform(-0.04, 0.04, 3)).float()
    E = look_at(torch.tensor(center).float(), target, float(roll))
    f = focal or rng.uniform(1.2, 2.4) * max(SIZE)
    K = torch.tensor([[f, 0, SIZE[0] / 2], [0, f, SIZE[1] / 2], [0, 0, 1]]).float()
    return Camera(E, K, *SIZE)


def scaled(*factors: float) -> np.ndarray:
    """A head of other proportions; the head frame hangs on the eyes."""
    eyes = HEAD[36:48].mean(0)
    return eyes + (HEAD - eyes) * factors


def pixels(camera: Camera, head: np.ndarray) -> np.ndarray:
    return project(camera, torch.tensor(head).float())[0].double().numpy()


def turned(a: Camera, b: Camera) -> float:
    """Degrees between two cameras' orientations."""
    R = (a.world_to_camera[:3, :3] @ b.world_to_camera[:3, :3].T).double().numpy()
    return float(np.degrees(Rotation.from_matrix(R).magnitude()))


@pytest.mark.parametrize("seed", range(6))
def test_the_camera_of_a_perfect_photograph_is_found(seed: int):
    person = scaled(1.05, 0.97, 1.03)
    truth = camera(seed)
    fit = cameras.estimate([pixels(truth, person)], [SIZE], HEAD)
    assert turned(fit.cameras[0], truth) < 2
    misses = pixels(fit.cameras[0], fit.head) - pixels(truth, person)
    assert np.sqrt((misses**2).sum(-1).mean()) < 1
    assert fit.errors[0] < 1


def test_photographs_of_one_person_share_one_head():
    person = scaled(0.96, 1.02, 1.05)
    truths = [camera(seed) for seed in range(4)]
    fit = cameras.estimate([pixels(c, person) for c in truths], [SIZE] * 4, HEAD)
    assert all(turned(a, b) < 2 for a, b in zip(fit.cameras, truths))
    # The overall size is not in the pictures; the proportions are.
    found, real = (np.ptp(head, axis=0) / np.ptp(head[:, 1]) for head in (fit.head, person))
    np.testing.assert_allclose(found, real, rtol=0.025)


@pytest.mark.parametrize("seed", range(4))
def test_noise_and_a_few_wild_landmarks_turn_the_head_little(seed: int):
    rng = np.random.default_rng(seed)
    truth = camera(seed)
    seen = pixels(truth, HEAD)
    seen += rng.normal(0, 0.01 * np.ptp(seen), seen.shape)
    seen[rng.choice(68, 4)] += 0.2 * np.ptp(seen)
    assert turned(cameras.estimate([seen], [SIZE], HEAD).cameras[0], truth) < 4


def test_an_open_mouth_does_not_nod_the_head():
    truth = camera(1)
    speaking = HEAD.copy()
    speaking[[*range(5, 12), *range(55, 60), 65, 66, 67], 1] -= 0.015
    assert turned(cameras.estimate([pixels(truth, speaking)], [SIZE], HEAD).cameras[0], truth) < 3


def test_a_known_focal_length_tells_the_distance():
    truth = camera(3, focal=1000.0)
    E = truth.world_to_camera.clone()
    E[:3, 3] *= 0.45 / truth.centers.norm()  # as a phone at arm's length
    near = Camera(E, truth.K, *SIZE)
    fit = cameras.estimate([pixels(near, HEAD)], [SIZE], HEAD, [1000.0])
    assert float(fit.cameras[0].centers.norm()) == pytest.approx(0.45, rel=0.02)
    assert float(fit.cameras[0].K[0, 0]) == pytest.approx(1000, rel=0.05)


def test_an_unknown_focal_length_leaves_the_head_about_a_metre_away():
    fit = cameras.estimate([pixels(camera(2), HEAD)], [SIZE], HEAD)
    assert 0.7 < float(fit.cameras[0].centers.norm()) < 1.4


@pytest.mark.parametrize("bad", [np.full((68, 2), 5.0), np.full((68, 2), np.nan)])
def test_landmarks_that_are_no_face_are_refused(bad: np.ndarray):
    with pytest.raises(CameraError, match="Leave this photograph out"):
        cameras.estimate([bad], [SIZE], HEAD)


def test_every_photograph_needs_its_size():
    with pytest.raises(ShapeError, match="1 sets of landmarks, 2 picture sizes"):
        cameras.estimate([pixels(camera(0), HEAD)], [SIZE] * 2, HEAD)
