"""Where a head ends."""

import torch

from pipeline.core.framing import NECK, above_neck
from pipeline.core.geometry import project
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
