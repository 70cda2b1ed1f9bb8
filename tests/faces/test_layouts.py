"""Promises of the expression layouts."""

import numpy as np
import pytest
import torch

from pipeline.core.errors import LayoutError, ShapeError
from pipeline.core.types import CODE_SIZE
from pipeline.faces.layouts import (
    ARKIT,
    ARKIT_NAMES,
    EXPRESSION,
    EXPRESSION_UNITS,
    EYELIDS,
    FLAME2020,
    JAW,
    LAYOUTS,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    arkit_to_code,
    code_gain,
    code_to_arkit,
    matrix_from_rot6d,
    neutral_code,
    require_layout,
    rot6d_from_matrix,
)
from pipeline.synthetic.expressions import sample_expression, sequence


def weights(**units: float) -> np.ndarray:
    w = np.zeros(len(ARKIT_NAMES), np.float32)
    for name, value in units.items():
        w[ARKIT[name]] = value
    return w


def test_the_slices_cover_the_120_numbers_once():
    covered = [i for s in (EXPRESSION, JAW, LEFT_EYE, RIGHT_EYE, EYELIDS) for i in range(120)[s]]
    assert covered == list(range(CODE_SIZE))


def test_arkit_has_52_names_of_which_39_are_expression():
    assert len(set(ARKIT_NAMES)) == 52
    assert len(EXPRESSION_UNITS) == 39


def test_sampled_expressions_survive_the_way_through_the_code():
    rng = np.random.default_rng(0)
    w = np.stack([sample_expression(rng) for _ in range(300)])
    back = code_to_arkit(arkit_to_code(w)).numpy()
    assert np.abs(back - w).max() < 1e-4


def test_sequences_survive_the_way_through_the_code():
    w = sequence(np.random.default_rng(1), 100, 25.0)
    assert np.abs(code_to_arkit(arkit_to_code(w)).numpy() - w).max() < 1e-4


def test_every_full_unit_survives_the_way_through_the_code():
    w = np.eye(52, dtype=np.float32)
    assert np.abs(code_to_arkit(arkit_to_code(w)).numpy() - w).max() < 1e-4


def test_no_weights_give_the_neutral_code():
    assert torch.allclose(arkit_to_code(weights()).values, neutral_code(MAKEHUMAN).values)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_neutral_code_turns_nothing(layout):
    code = neutral_code(layout)
    for part in (JAW, LEFT_EYE, RIGHT_EYE):
        assert torch.equal(matrix_from_rot6d(code.values[part]), torch.eye(3))
    assert code.values[EXPRESSION].abs().max() == 0


def test_opening_the_jaw_turns_the_chin_down_and_left_turns_it_to_plus_x():
    forward = torch.tensor([0.0, 0.0, 1.0])
    opened = matrix_from_rot6d(arkit_to_code(weights(jawOpen=1)).values[JAW]) @ forward
    moved = matrix_from_rot6d(arkit_to_code(weights(jawLeft=1)).values[JAW]) @ forward
    assert opened[1] == pytest.approx(-np.sin(np.radians(22.9)), abs=1e-4)
    assert moved[0] == pytest.approx(np.sin(np.radians(10)), abs=1e-4)


def test_looking_left_turns_both_eyes_to_plus_x_and_looking_up_to_plus_y():
    left = arkit_to_code(weights(eyeLookOutLeft=1, eyeLookInRight=1)).values
    up = arkit_to_code(weights(eyeLookUpLeft=1, eyeLookUpRight=1)).values
    for part in (LEFT_EYE, RIGHT_EYE):
        assert (matrix_from_rot6d(left[part]) @ torch.tensor([0.0, 0.0, 1.0]))[0] > 0.2
        assert (matrix_from_rot6d(up[part]) @ torch.tensor([0.0, 0.0, 1.0]))[1] > 0.1


def test_the_six_numbers_are_the_first_two_rows():
    R = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    R = R * torch.linalg.det(R)
    assert torch.equal(rot6d_from_matrix(R), torch.cat([R[0], R[1]]))
    assert torch.allclose(matrix_from_rot6d(rot6d_from_matrix(R)), R, atol=1e-6)


def test_the_gain_follows_how_far_each_number_moves_the_face():
    gain = code_gain(MAKEHUMAN)
    assert gain[0] > gain[1] > gain[7] > gain[20] > gain[38] > 0
    assert gain[:8].mean() == pytest.approx(1.0)
    assert gain[100:118].unique().item() == 6.0 and gain[118:].unique().item() == 3.0
    assert (code_gain(FLAME2020)[:100] == 1).all()
    with pytest.raises(LayoutError, match="Unknown"):
        code_gain("something")


def test_another_layout_is_refused_and_both_are_named():
    with pytest.raises(LayoutError, match="flame2020.*makehuman"):
        require_layout(neutral_code(FLAME2020), MAKEHUMAN)
    with pytest.raises(LayoutError):
        code_to_arkit(neutral_code(FLAME2020))
    with pytest.raises(LayoutError, match="Unknown"):
        neutral_code("nonsense")


def test_weights_of_another_count_are_refused():
    with pytest.raises(ShapeError, match="52"):
        arkit_to_code(np.zeros((4, 51)))
