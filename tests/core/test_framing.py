"""Where a head ends."""

import torch

from pipeline.core.framing import NECK, above_neck
from pipeline.core.geometry import project
from tests.conftest import dome

CHIN = -0.09


def test_a_head_is_kept_to_below_its_chin_and_gone_below_its_neck():
    cameras = dome(5, 96, seed=1)
    kept = above_neck(cameras, CHIN)
    assert kept.shape == (5, 96, 96)
    for camera, share in zip([cameras[i] for i in range(5)], kept, strict=True):
        for below, expected in ((NECK[0] - 0.005, 1.0), (NECK[1] + 0.005, 0.0)):
            axis = torch.tensor([[0.0, CHIN - below, 0.0]])
            x, y = (int(v) for v in project(camera, axis)[0][0])
            assert abs(float(share[y, x]) - expected) < 0.02
    assert torch.equal(above_neck(cameras[2], CHIN), kept[2])
