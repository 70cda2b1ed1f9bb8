"""Where a head ends."""

import torch

from pipeline.core.framing import NECK, above_neck, beside_shoulders
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from tests.conftest import dome

CHIN = -0.09


def test_a_head_is_kept_to_below_its_chin_and_gone_below_its_neck():
    cameras = dome(5, 96, seed=1)
    depth = torch.ones(5, 96, 96)
    for below, expected in ((NECK[0] - 0.005, 1.0), (NECK[1] + 0.005, 0.0)):
        # On the axis, at the throat, at a shoulder: wherever the point is, its height counts.
        for x, z in ((0.0, 0.0), (0.0, 0.08), (0.05, -0.06)):
            point = torch.tensor([[x, CHIN - below, z]])
            for camera, far in zip([cameras[i] for i in range(5)], depth, strict=True):
                pixel, ahead = project(camera, point)
                column, row = (int(v) for v in pixel[0])
                kept = above_neck(camera, far * float(ahead), CHIN)
                assert abs(float(kept[row, column]) - expected) < 0.02


def test_cameras_of_several_pictures_are_those_of_one_each():
    cameras = dome(3, 64, seed=1)
    depth = 1 + 0.1 * torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    kept = above_neck(cameras, depth, CHIN)
    assert kept.shape == (3, 64, 64)
    assert torch.equal(above_neck(cameras[2], depth[2], CHIN), kept[2])


def test_shoulders_are_left_out_and_chin_and_neck_are_not():
    for x in (-0.5, 0.0, 0.5):
        there = torch.tensor([[x, 0.0, 1.0]])
        E = look_at(there, torch.tensor([[0.0, -0.02, 0.0]]))[0]
        K = torch.tensor([[128.0, 0, 32], [0, 128.0, 32], [0, 0, 1]])
        camera = Camera(E, K, 64, 64)
        for side, below, ahead, expected in (
            (0.13, 0.04, -0.09, 0.0), (-0.13, 0.04, -0.09, 0.0), (0.13, -0.05, -0.09, 1.0),
            (0.0, 0.05, -0.09, 1.0), (0.04, 0.04, -0.06, 1.0), (0.0, 0.01, 0.01, 1.0),
        ):  # fmt: skip
            pixel, depth = project(camera, torch.tensor([[side, CHIN - below, ahead]]))
            kept = beside_shoulders(camera, float(depth) * torch.ones(64, 64), CHIN)
            column, row = (int(v) for v in pixel[0])
            assert abs(float(kept[row, column]) - expected) < 0.05, (x, side, below)
