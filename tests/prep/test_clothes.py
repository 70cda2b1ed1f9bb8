"""What is worn at a neck goes, hair that hangs as low stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera
from pipeline.faces import makehuman
from pipeline.faces.guide import TrackedMesh, filled_depth
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.prep.clothes import without_clothes
from pipeline.render.triangles import draw_triangles
from pipeline.tracking.tracker import landmarks_of

SIZE = 160
METRE = 600.0
"""Pixels, at the head."""


@pytest.fixture(scope="module")
def mesh() -> TrackedMesh:
    neutral = makehuman.Head(makehuman.Identity()).neutral.astype(np.float32)
    return TrackedMesh(MAKEHUMAN, neutral, neutral[None])


@pytest.fixture(scope="module")
def camera() -> Camera:
    K = torch.tensor([[METRE, 0, SIZE / 2], [0, METRE, SIZE / 2], [0, 0, 1]])
    return Camera(look_at(torch.tensor([0.0, 0, 1.0]), torch.zeros(3)), K, SIZE, SIZE)


@pytest.fixture(scope="module")
def chin(mesh: TrackedMesh) -> float:
    return float(landmarks_of(mesh.neutral)[8, 1])


def box(chin: float, side: tuple[float, float], above_chin: tuple[float, float]) -> torch.Tensor:
    """Return the pixels between distances to the side and above the chin, metres."""
    x = (torch.arange(SIZE) + 0.5 - SIZE / 2) / METRE
    y = (SIZE / 2 - torch.arange(SIZE) - 0.5)[:, None] / METRE - chin
    return (x > side[0]) & (x < side[1]) & (y > above_chin[0]) & (y < above_chin[1])


COLLAR = ((0.055, 0.10), (-0.04, 0.0))
HAIR = ((0.055, 0.12), (-0.04, 0.08))


def kept(mesh: TrackedMesh, camera: Camera, chin: float, *boxes: torch.Tensor) -> torch.Tensor:
    """Return what is kept of a head, which is its model, with something about it."""
    alpha = box(chin, (-0.04, 0.04), (-0.06, 0.2)).float()
    for one in boxes:
        alpha = torch.maximum(alpha, one.float())
    depth = torch.from_numpy(filled_depth(mesh, camera))
    return without_clothes(alpha, depth, mesh, camera, head_model(MAKEHUMAN), chin)


def test_a_collar_beside_the_neck_goes(mesh: TrackedMesh, camera: Camera, chin: float):
    collar = box(chin, *COLLAR)
    share = kept(mesh, camera, chin, collar)
    inner = box(chin, (0.075, 0.095), (-0.035, -0.005))
    assert float(share[inner].max()) < 0.05
    assert float(share[box(chin, (-0.04, 0.04), (-0.06, 0.2))].min()) > 0.5


def test_hair_that_comes_down_beside_the_face_stays(mesh: TrackedMesh, camera: Camera, chin: float):
    share = kept(mesh, camera, chin, box(chin, *HAIR))
    assert torch.equal(share, torch.ones_like(share))


def test_a_collar_on_one_side_goes_where_hair_hangs_on_the_other(
    mesh: TrackedMesh, camera: Camera, chin: float
):
    (low, high), heights = HAIR
    hair = box(chin, (-high, -low), heights)
    share = kept(mesh, camera, chin, hair, box(chin, *COLLAR))
    assert float(share[hair].min()) > 0.99
    assert float(share[box(chin, (0.08, 0.09), (-0.03, -0.01))].max()) < 0.05


def test_a_jaw_or_beard_that_is_a_little_wider_than_the_model_stays(
    mesh: TrackedMesh, camera: Camera, chin: float
):
    head = head_model(MAKEHUMAN)
    surface = head.surface(mesh.neutral, mesh.neutral)
    drawn = draw_triangles(surface, head.faces, camera).triangle >= 0
    wider = torch.from_numpy(np.asarray(distance_transform_edt(~drawn)) < 0.012 * METRE)
    share = kept(mesh, camera, chin, wider & box(chin, (-0.2, 0.2), (0.0, 0.02)))
    assert torch.equal(share, torch.ones_like(share))


def test_what_flies_far_from_the_neck_is_no_collar(mesh: TrackedMesh, camera: Camera, chin: float):
    tip = box(chin, (0.115, 0.125), (-0.01, 0.01))
    share = kept(mesh, camera, chin, tip)
    assert torch.equal(share, torch.ones_like(share))


def test_the_soft_edge_of_clothes_goes_with_them(mesh: TrackedMesh, camera: Camera, chin: float):
    collar = box(chin, *COLLAR).float()
    fringe = box(chin, (0.10, 0.104), COLLAR[1]).float() * 0.2
    share = kept(mesh, camera, chin, collar, fringe)
    assert float(share[(fringe > 0) & box(chin, (0.1, 0.2), (-0.035, -0.005))].max()) < 0.5


def test_hair_that_ends_just_above_a_collar_stays(mesh: TrackedMesh, camera: Camera, chin: float):
    hair = box(chin, (0.055, 0.09), (0.012, 0.08))
    share = kept(mesh, camera, chin, hair, box(chin, (0.055, 0.1), (-0.04, 0.009)))
    assert float(share[hair & box(chin, (0.06, 0.08), (0.012, 0.08))].min()) > 0.7
