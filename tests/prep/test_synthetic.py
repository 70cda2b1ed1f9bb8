"""Promises of the synthetic captures."""

import numpy as np
import pytest
import torch

from pipeline.avatar.camera_path import orbit
from pipeline.core.errors import ShapeError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.faces.layouts import ARKIT, arkit_to_code
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression, sequence
from pipeline.synthetic.subject import Subject


def frontal(size: int = 128) -> Camera:
    return orbit(1, size)[0]


def weights(**units: float) -> np.ndarray:
    w = np.zeros(52, np.float32)
    for name, value in units.items():
        w[ARKIT[name]] = value
    return w


@pytest.fixture(scope="module")
def subject() -> Subject:
    return Subject.sample(13)


def test_the_same_seed_gives_the_same_picture():
    w = weights(jawOpen=0.5)
    a, b = (Subject.sample(11).render(w, frontal(64)) for _ in range(2))
    assert (a.rgb == b.rgb).all()
    assert (a.depth == b.depth).all()
    assert (a.rgb != Subject.sample(12).render(w, frontal(64)).rgb).any()


def test_landmarks_project_onto_the_head(subject):
    camera = frontal(512)
    frame = subject.render(weights(), camera)
    pixels, depth = project(camera, torch.from_numpy(frame.landmarks))
    x, y = pixels.long().T.numpy()
    # Those of the jaw are on the outline, where pixels are covered in part.
    assert (frame.alpha[y, x] > 30).all()
    # Eyes, nose and mouth are in front, so the drawn surface is where the landmarks are.
    inner = slice(27, 68)
    assert np.abs(frame.depth[y, x][inner] - depth.numpy()[inner]).max() < 0.012


def test_depth_put_back_into_space_lies_on_the_mesh(subject):
    camera = frontal(64)
    frame = subject.render(weights(), camera)
    skin = np.concatenate(
        [layer.vertices for layer in subject.layers(subject.head.vertices(weights()))]
    )
    rows, columns = np.nonzero((frame.alpha == 255) & (frame.depth > 0))
    pick = np.random.default_rng(0).permutation(len(rows))[:200]
    rows, columns = rows[pick], columns[pick]
    z = frame.depth[rows, columns]
    rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))]) * z
    inside = (np.linalg.inv(camera.K.numpy()) @ rays).T
    E = camera.world_to_camera.numpy()
    points = (inside - E[:3, 3]) @ E[:3, :3]
    nearest = np.sqrt(((points[:, None] - skin[None]) ** 2).sum(-1)).min(1)
    assert np.median(nearest) < 0.004
    assert np.quantile(nearest, 0.98) < 0.015


def test_pictures_are_composited_on_white(subject):
    frame = subject.render(weights(), frontal(64), whole=True)
    assert (frame.rgb[frame.alpha == 0] == 255).all()
    assert 0.3 < (frame.alpha > 128).mean() < 0.9
    assert frame.rgb.dtype == frame.alpha.dtype == np.uint8
    assert frame.depth.dtype == np.float32


def test_the_subjects_left_is_at_the_right_of_a_frontal_picture(subject):
    open_, shut = (
        subject.render(weights(eyeBlinkLeft=b), frontal()).rgb.astype(int) for b in (0, 1)
    )
    changed = np.abs(open_ - shut).sum(-1)
    assert changed[:, 64:].sum() > 20 * changed[:, :64].sum()


def test_an_open_mouth_is_seen_below_the_middle_only(subject):
    a, b = (subject.render(weights(jawOpen=o), frontal()).rgb.astype(int) for o in (0, 0.9))
    rows = np.flatnonzero(np.abs(a - b).sum((1, 2)) > 200)
    assert rows.min() > 55


def test_views_drawn_together_are_those_drawn_alone(subject):
    cameras = sample_cameras(np.random.default_rng(0), 1, 3, 48)[0]
    together = subject.render_views(arkit_to_code(weights(jawOpen=0.3)), cameras)
    alone = subject.render(arkit_to_code(weights(jawOpen=0.3)), cameras[2])
    assert (together[2].rgb == alone.rgb).all()
    with pytest.raises(ShapeError):
        subject.render(weights(), cameras)


def test_cameras_surround_the_front_and_move_together():
    cameras = sample_cameras(np.random.default_rng(2), 5, 8, 256)
    assert cameras.K.shape == (5, 8, 3, 3)
    c = cameras.centers
    assert (c[..., 2] > 0.1).all()
    assert ((c.norm(dim=-1) > 0.7) & (c.norm(dim=-1) < 1.4)).all()
    yaw = torch.rad2deg(torch.atan2(c[0, :, 0], c[0, :, 2]))
    assert yaw.abs()[0] < 25
    assert yaw.max() > 30
    assert yaw.min() < -30
    # From one timestep to another all views make the same motion of the head.
    E = cameras.world_to_camera.double()
    motion = torch.linalg.inv(E[0]) @ E[1]
    assert torch.allclose(motion, motion[:1].expand_as(motion), atol=1e-4)
    assert not torch.allclose(motion[0], torch.eye(4).double(), atol=1e-3)


def test_cameras_look_from_all_around_where_asked_to():
    cameras = sample_cameras(np.random.default_rng(2), 1, 8, 256, 180.0)
    c = cameras.centers[0]
    yaw = torch.rad2deg(torch.atan2(c[:, 0], c[:, 2]))
    assert yaw[0].abs() < 25
    assert (yaw.abs() > 110).sum() >= 2
    assert (yaw.abs() < 90).sum() >= 2


def test_the_face_is_inside_every_picture(subject):
    cameras = sample_cameras(np.random.default_rng(3), 20, 8, 256)
    marks = torch.from_numpy(subject.head.landmarks(subject.head.neutral))
    pixels, _ = project(cameras, marks.expand(20, 8, 68, 3))
    assert pixels.min() > 0
    assert pixels.max() < 256


def test_expressions_are_sparse_bounded_and_consistent():
    rng = np.random.default_rng(4)
    w = np.stack([sample_expression(rng) for _ in range(500)])
    assert w.min() >= 0
    assert w.max() <= 1
    assert 4 < (w > 0.02).sum(1).mean() < 18
    assert (w[:, ARKIT["mouthClose"]] <= w[:, ARKIT["jawOpen"]]).all()
    smile = w[:, [ARKIT["mouthSmileLeft"], ARKIT["mouthSmileRight"]]]
    assert np.corrcoef(smile.T)[0, 1] > 0.8
    assert 0.1 < (w[:, ARKIT["eyeBlinkLeft"]] > 0.8).mean() < 0.3


@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_opens_the_mouth_blinks_smiles_and_looks_around(seed):
    w = sequence(np.random.default_rng(seed), 125, 25.0)
    assert w.shape == (125, 52)
    assert w.dtype == np.float32
    assert w[:, ARKIT["jawOpen"]].max() > 0.5
    assert w[:, ARKIT["eyeBlinkLeft"]].max() > 0.8
    assert w[:, ARKIT["mouthSmileLeft"]].max() > 0.4
    looks = w[:, ARKIT["eyeLookOutLeft"]] - w[:, ARKIT["eyeLookInLeft"]]
    assert np.ptp(looks) > 0.5
    assert np.abs(np.diff(w, axis=0)).max() < 0.6
