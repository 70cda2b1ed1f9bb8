"""What of a face is its rest, and what moves: few units of an expression do at a time.

Pictures tell well how a face moved between them, and badly what it looks like at rest: a network
takes a wide mouth for half a smile in all of them. But units of an expression pull one way only,
and most of them rest at most moments. So what all moments have in common is moved to where the
most units are at rest.

Source: units within bounds, and few of them: Bouaziz et al., Online Modeling for Realtime Facial
Animation, SIGGRAPH 2013; the logarithm in place of the sum: Candes et al., Enhancing Sparsity by
Reweighted l1 Minimization, 2008.

Letters: m moments, o own numbers of a moment, s numbers of its state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from pipeline.faces.layouts import JAW_OPEN, JAW_SIDE, expression_basis
from pipeline.tracking.surface import EXPRESSION, JAW, STATE

ROUNDS = 25


@dataclass(frozen=True)
class RestConfig:
    """What is believed of units; weights of 1 move as far as a unit does."""

    sparse: float = 0.15
    """Weight of the logarithm that draws units to rest, against what pictures tell."""
    small: float = 0.015
    """Weights below count as rest."""
    backwards: float = 0.015
    """How far a unit goes the other way: a standard deviation."""
    common: float = 0.1
    """Share of what pictures tell of one moment that they tell of what all have in common."""


def settle(
    states: Float64[np.ndarray, "m s"],
    information: Float64[np.ndarray, "m o o"],
    config: RestConfig = RestConfig(),
    *,
    known: bool = False,
) -> Float64[np.ndarray, "m s"]:
    """Return states of which more units are at rest.

    Args:
        states: As they were found.
        information: Inverse covariance of each moment's state, and of whatever follows it.
        config: What is believed.
        known: Whether the face at rest is known: nothing that all moments have in common is moved.
    """
    units, one_way = _units()
    told = information[:, :STATE, :STATE]
    together = config.common * told.mean(0)
    found, common = states, np.zeros(STATE)
    for _ in range(ROUNDS):
        w = found @ units.T
        pull = np.where(
            one_way & (w < 0),
            config.backwards**-2.0,
            config.sparse / (w**2 + config.small**2),
        )
        pulled = np.einsum("ui,mu,uj->mij", units, pull, units)
        # Each moment given what is common, and that with each moment eliminated.
        share = np.linalg.solve(told + pulled, told)
        left = told - told @ share
        right = np.einsum("mij,mj->i", left, states)
        if not known:
            common = np.linalg.solve(together + left.sum(0), right)
        found = np.einsum("mij,mj->mi", share, states - common)
    return found


def _units() -> tuple[Float64[np.ndarray, "u s"], Bool[np.ndarray, "u"]]:
    """Return the weights of units as rows of a state, and which of them pull one way only.

    Gaze and lids, which are looked at by themselves, are not among them.
    """
    many = EXPRESSION.stop
    rows = np.zeros((many + 2, STATE))
    rows[:many, EXPRESSION] = np.linalg.inv(expression_basis())
    rows[many, JAW.start] = 1 / np.radians(JAW_OPEN)
    rows[many + 1, JAW.start + 1] = 1 / np.radians(JAW_SIDE)
    return rows, np.arange(len(rows)) <= many
