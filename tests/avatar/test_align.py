"""Cameras of pictures, corrected by what the other pictures say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.avatar.align import FACE, AlignConfig, align
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code
from pipeline.model.fastgha import FastGHA
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.subject import Subject
from pipeline.train.presets import tiny
from tests.prep.test_synthetic import weights

SIZE = 96
CONFIG = AlignConfig(rounds=1, steps=30, size=96)
Taken = tuple[View, TrackedMesh, ExpressionCode]


@pytest.fixture(scope="module")
def taken() -> Taken:
    subject = Subject.sample(5)
    acts = np.stack([weights(), weights(jawOpen=0.3), weights(mouthSmileLeft=0.5)])
    camera = sample_cameras(np.random.default_rng(3), 1, 3, SIZE)[0]
    frames = [subject.render(w, camera[i]) for i, w in enumerate(acts)]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, np.stack([f.vertices for f in frames]))
    return View(image, alpha, camera), mesh, arkit_to_code(acts)


@pytest.fixture(scope="module")
def model() -> FastGHA:
    """A model that has learnt nothing: the mesh with the pictures' colours."""
    torch.manual_seed(0)
    net = FastGHA(replace(tiny(), interior=True), "float32").eval().requires_grad_(False)
    torch.nn.init.zeros_(net.decoder.conv_out.weight)
    net.deformation.set_layout(MAKEHUMAN)
    return net


def turned(camera: Camera, which: int, degrees: float, shift_mm: float) -> Camera:
    """One camera with an error about the middle of the face."""
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", [degrees, -degrees, 0], degrees=True).as_matrix()
    move[:3, 3] = np.array(FACE) - move[:3, :3] @ FACE + [shift_mm / 1e3, 0, 0]
    E = camera.world_to_camera.clone()
    E[which] = E[which] @ torch.from_numpy(move).float()
    return replace(camera, world_to_camera=E)


def distance(a: Camera, b: Camera, which: int) -> float:
    """Degrees between two cameras' directions."""
    R = a.world_to_camera[which, :3, :3] @ b.world_to_camera[which, :3, :3].T
    return float(torch.rad2deg(torch.acos(((R.trace() - 1) / 2).clamp(-1, 1))))


def test_a_camera_that_errs_is_brought_back(model: FastGHA, taken: Taken):
    views, mesh, codes = taken
    wrong = replace(views, camera=turned(views.camera, 1, 3.0, 4.0))
    better, report = align(model, wrong, codes, mesh, CONFIG)
    assert report.after < report.before
    off = distance(wrong.camera, views.camera, 1)
    assert distance(better.camera, views.camera, 1) < 0.6 * off
    assert report.degrees[1] > 1.0


def test_the_pictures_stay_and_a_single_one_has_nothing_to_agree_with(model: FastGHA, taken: Taken):
    views, mesh, codes = taken
    better, _ = align(model, views, codes, mesh, CONFIG)
    assert better.image is views.image and better.alpha is views.alpha
    one, report = align(model, views[:1], codes[:1], mesh[:1], CONFIG)
    assert torch.equal(one.camera.world_to_camera, views.camera.world_to_camera[:1])
    assert report.degrees == (0.0,)


def test_cameras_are_kept_where_no_other_explains_the_pictures_better(model: FastGHA, taken: Taken):
    views, mesh, codes = taken
    config = replace(CONFIG, gain=0.9)  # nothing improves so much
    kept, report = align(model, views, codes, mesh, config)
    assert torch.equal(kept.camera.world_to_camera, views.camera.world_to_camera)
    assert report.after == report.before and max(report.shift_mm) == 0.0
