"""The tracker finds what is known about synthetic heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.bench import track as bench
from pipeline.core.errors import CameraError, LayoutError, ShapeError
from pipeline.faces.flame import Flame, LandmarkEmbedding
from pipeline.faces.layouts import arkit_to_code, code_to_arkit
from pipeline.faces.makehuman import Head
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.people import sample_identity
from pipeline.tracking.fit import Observations, track
from pipeline.tracking.models import FaceState, FlameFace, MakeHumanFace


@pytest.fixture(scope="module")
def makehuman() -> MakeHumanFace:
    return MakeHumanFace()


def test_the_differentiable_head_is_the_head_that_is_drawn(makehuman: MakeHumanFace):
    rng = np.random.default_rng(4)
    head = Head(sample_identity(rng))
    weights = sample_expression(rng)
    code = arkit_to_code(weights)
    jaw = torch.zeros(1, 3)
    arkit = code_to_arkit(code)
    from pipeline.faces.layouts import ARKIT, GAZE_DOWN, GAZE_UP, JAW_OPEN, JAW_SIDE, gaze_angles

    jaw[0, 0] = arkit[ARKIT["jawOpen"]] * JAW_OPEN
    jaw[0, 1] = (arkit[ARKIT["jawLeft"]] - arkit[ARKIT["jawRight"]]) * JAW_SIDE
    eyes = np.stack([gaze_angles(arkit.double().numpy(), side) for side in ("Left", "Right")])
    assert GAZE_UP < GAZE_DOWN
    lids = arkit[[ARKIT["eyeBlinkLeft"], ARKIT["eyeBlinkRight"]]][None]
    turned = torch.deg2rad(torch.from_numpy(eyes).float())[None]
    state = FaceState(
        code.values[None, :39], torch.deg2rad(jaw), turned,
        lids,
    )  # fmt: skip
    np.testing.assert_allclose(
        state.code(code.layout).values[0], code.values, atol=1e-4
    )  # fmt: skip
    zero = torch.zeros(makehuman.identity_size)
    moved = makehuman.vertices(zero, state)[0].numpy()
    rest = FaceState(*(torch.zeros_like(x) for x in (state.expression, jaw, state.eyes, lids)))
    still = makehuman.vertices(zero, rest)[0].numpy()
    from pipeline.faces.makehuman import load_asset

    asset = load_asset()
    skin = np.ones(len(still), bool)
    skin[asset.left_eye] = skin[asset.right_eye] = False
    want = head.vertices(code) - head.neutral
    np.testing.assert_allclose((moved - still)[skin], want[skin], atol=2e-5)


def test_faces_are_found_within_millimetres_and_degrees():
    calibrated, single = bench.bench(people=1, frames=4, noise=0.5)
    assert calibrated["reprojection_px"] < 1.6
    assert calibrated["camera_degrees"] < 1
    assert calibrated["vertex_mm"] < 4
    assert single["reprojection_px"] < 1.6
    assert single["camera_degrees"] < 5
    for row in (calibrated, single):
        assert row["expression_mm"] < 0.75 * row["expression_size_mm"]


def flame_like(version: str = "2020") -> FlameFace:
    """A few points of a head with FLAME's joints and random shapes."""
    from tests.faces.flames import JOINTS
    from tests.faces.heads import HEAD

    rng = np.random.default_rng(1)
    template = torch.from_numpy(np.concatenate([HEAD, JOINTS])).float()
    n = len(template)
    regressor = torch.zeros(5, n)
    regressor[:, 68:] = torch.eye(5)
    weights = torch.zeros(n, 5)
    weights[:, 1] = 1
    weights[[*range(5, 12), *range(55, 60), 65, 66, 67]] = torch.tensor([0, 0, 1.0, 0, 0])
    smooth = torch.from_numpy(rng.normal(0, 1, (n, 3, 30))).float() * 0.0015
    flame = Flame(
        version, template, torch.zeros(1, 3, dtype=torch.int64), smooth[..., :20],  # pyright: ignore
        smooth[..., 20:], torch.zeros(n, 3, 36), regressor, weights, None,
        LandmarkEmbedding(torch.arange(68)[:, None].expand(68, 3), torch.full((68, 3), 1 / 3)),
    )  # fmt: skip
    return FlameFace(flame, identity_size=20)


def test_what_cannot_be_tracked_says_why(makehuman: MakeHumanFace):
    with pytest.raises(ShapeError, match="68"):
        track(makehuman, Observations(np.zeros((1, 1, 5, 2))))
    with pytest.raises(CameraError, match="Frame 0"):
        track(makehuman, Observations(np.full((1, 1, 68, 2), np.nan), None, ((64, 64),)))


def test_eyelids_without_shapes_are_refused_where_they_would_be_lost():
    few = flame_like().model
    with pytest.raises(LayoutError, match="eyelids"):
        few.vertices(
            torch.zeros(20), torch.zeros(10), torch.eye(3).expand(5, 3, 3), torch.ones(2)
        )  # fmt: skip
