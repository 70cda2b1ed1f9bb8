"""Errors that are put on the inputs of training, as trackers and cameras make them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.core.geometry import project
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code
from pipeline.faces.makehuman import Head, Identity, pose
from pipeline.shards.disturb import FACE, Damage, Tracking, damage, misshape, mistrack
from tests.conftest import blob_views, dome

EXACT = Tracking(1.0, (0.0, 0.0, 0.0), 0.0, 0.0, 0.0, 0.0, 0.0)


@pytest.fixture(scope="module")
def tracked() -> tuple[TrackedMesh, Camera, ExpressionCode]:
    neutral = Head(Identity()).neutral
    weights = np.zeros((3, 52), np.float32)
    weights[1, 17], weights[2, 23] = 0.8, 0.7
    codes = arkit_to_code(weights)
    return (
        TrackedMesh(MAKEHUMAN, neutral, np.stack([pose(neutral, w) for w in weights])),
        dome(3, 128, seed=4),
        codes,
    )


def test_a_tracker_without_errors_finds_the_truth(tracked):
    mesh, camera, codes = tracked
    found, where = mistrack(mesh, camera, codes, EXACT, np.random.default_rng(0))
    np.testing.assert_allclose(found.posed, mesh.posed, atol=1e-5)
    torch.testing.assert_close(where.world_to_camera, camera.world_to_camera)


def test_a_wrong_pose_keeps_the_face_where_it_is_in_the_picture(tracked):
    mesh, camera, codes = tracked
    turned = replace(EXACT, degrees=(5.0, 5.0, 5.0))
    found, where = mistrack(mesh, camera, codes, turned, np.random.default_rng(1))
    face = torch.from_numpy(FACE[None]).float()
    before, after = (project(c, face)[0] for c in (camera, where))
    torch.testing.assert_close(before, after, atol=0.05, rtol=0)
    away = (camera.centers - where.centers).norm(dim=-1)
    assert away[0] == pytest.approx(0, abs=1e-5)  # one picture keeps its pose
    assert (away[1:] > 0.02).all()
    np.testing.assert_allclose(found.neutral, mesh.neutral, atol=1e-6)


def test_shape_errors_are_smooth_and_largest_behind_the_ears():
    neutral = Head(Identity()).neutral
    found = [misshape(neutral, Tracking(), np.random.default_rng(i)) for i in range(12)]
    errors = np.mean([np.linalg.norm(mesh - neutral, axis=1) for mesh in found], axis=0)
    face, skull = neutral[:, 2] > 0.06, (neutral[:, 2] < -0.06) & (neutral[:, 1] > 0)
    assert 0.001 < errors[face].mean() < 0.006
    assert 2 * errors[face].mean() < errors[skull].mean() < 0.03


def test_the_expression_that_was_read_is_that_of_the_mesh(tracked):
    mesh, camera, codes = tracked
    wrong = replace(EXACT, units=0.1)
    found, _ = mistrack(mesh, camera, codes, wrong, np.random.default_rng(2))
    gap = np.abs(found.posed - mesh.posed).max(axis=(1, 2))
    assert (gap > 1e-3).all() and (gap < 0.03).all()


def test_damage_stays_a_picture_and_is_put_on_as_many_as_asked_for():
    view = blob_views(24, 48)
    none = damage(view, Damage(share=0.0), np.random.default_rng(0))
    assert torch.equal(none.image, view.image) and torch.equal(none.alpha, view.alpha)
    how = Damage(share=0.5, matte=0.08)
    some = damage(view, how, np.random.default_rng(0))
    assert isinstance(some, View)
    changed = (some.image - view.image).abs().amax((1, 2, 3)) > 1e-3
    assert 6 <= int(changed.sum()) <= 18
    for planes in (some.image, some.alpha):
        assert 0 <= float(planes.min()) and float(planes.max()) <= 1
    area = some.alpha.mean((1, 2, 3)) / view.alpha.mean((1, 2, 3))
    assert float(area.min()) < 0.95 and float(area.max()) > 1.05


def test_exposure_changes_the_head_and_leaves_the_white_behind_it():
    view = blob_views(12, 48)
    exact = Damage(share=1.0, blur=1.0, noise=0.0, jpeg=95, matte=0.0)
    same = damage(view, replace(exact, exposure=0.0, balance=0.0), np.random.default_rng(0))
    other = damage(view, replace(exact, exposure=0.5, balance=0.0), np.random.default_rng(0))
    behind = view.alpha.expand_as(view.image) < 1e-3
    torch.testing.assert_close(other.image[behind], same.image[behind], atol=0.08, rtol=0)
    head = (view.alpha > 0.9).expand_as(view.image)
    gains = [
        float(other.image[i][head[i]].mean() / same.image[i][head[i]].mean()) for i in range(12)
    ]
    assert min(gains) < 0.9 and max(gains) > 1.05
