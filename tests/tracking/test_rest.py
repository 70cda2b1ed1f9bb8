"""What of a face is its rest, and what moves."""

import numpy as np
import pytest

from pipeline.faces.layouts import EXPRESSION_UNITS, expression_basis
from pipeline.tracking.rest import RestConfig, settle
from pipeline.tracking.surface import EXPRESSION, EYES, JAW, LIDS, STATE

SMILE = [EXPRESSION_UNITS.index(f"mouthSmile{side}") for side in ("Left", "Right")]
MOMENTS = 8


def told(weight: float = 20.0**2) -> np.ndarray:
    """As if each unit's weight were seen to a twentieth."""
    units = np.linalg.inv(expression_basis())
    out = np.eye(STATE)
    out[EXPRESSION, EXPRESSION] = units.T @ units
    return np.tile(weight * out, (MOMENTS, 1, 1))


def states(weights: np.ndarray) -> np.ndarray:
    out = np.zeros((len(weights), STATE))
    out[:, EXPRESSION] = weights @ expression_basis().T
    return out


def weights(found: np.ndarray) -> np.ndarray:
    return found[:, EXPRESSION] @ np.linalg.inv(expression_basis()).T


@pytest.fixture
def few() -> np.ndarray:
    """Few units at a time."""
    rng = np.random.default_rng(0)
    shape = MOMENTS, len(EXPRESSION_UNITS)
    return rng.uniform(0.3, 0.9, shape) * (rng.random(shape) < 0.15)


def test_what_all_moments_have_in_common_is_taken_for_the_face_at_rest(few: np.ndarray) -> None:
    off = np.zeros(few.shape[1])
    off[SMILE] = 0.2
    found = weights(settle(states(few + off), told()))
    assert np.abs(found - few).max() < 0.05
    # A smile at most moments is one, if others have none.
    few[:, SMILE], few[:3, SMILE] = 0.6, 0.0
    found = weights(settle(states(few + off), told()))
    assert np.abs(found - few)[:, SMILE].max() < 0.05


def test_a_known_face_at_rest_is_left(few: np.ndarray) -> None:
    off = np.zeros(few.shape[1])
    off[SMILE] = 0.2
    seen = states(few + off)
    assert weights(settle(seen, told(), known=True))[:, SMILE] == pytest.approx(
        (few + off)[:, SMILE], abs=0.03
    )


def test_units_pull_one_way() -> None:
    backwards = np.zeros((MOMENTS, len(EXPRESSION_UNITS)))
    backwards[:, SMILE] = -0.3
    unsure = told(1 / 0.1**2)
    found = weights(settle(states(backwards), unsure, known=True))
    assert (np.abs(found[:, SMILE]) < 0.02).all()
    forwards = weights(settle(states(-backwards), unsure, known=True))
    assert (forwards[:, SMILE] > 0.25).all()


def test_a_jaw_goes_both_ways_and_gaze_and_lids_stay() -> None:
    rng = np.random.default_rng(0)
    seen = np.zeros((MOMENTS, STATE))
    seen[0, JAW.start + 1], seen[1, JAW.start + 1] = 0.1, -0.1
    seen[:, EYES] = rng.normal(0, 0.1, (MOMENTS, 4))
    seen[:, LIDS] = rng.uniform(0, 1, (MOMENTS, 2))
    found = settle(seen, told())
    assert found == pytest.approx(seen, abs=0.005)


def test_what_is_well_seen_stays(few: np.ndarray) -> None:
    none = settle(states(few), told(), RestConfig(sparse=0.0, backwards=1e3))
    assert none == pytest.approx(states(few), abs=1e-6)
    assert weights(settle(states(few), told(1e8))) == pytest.approx(few, abs=0.01)
