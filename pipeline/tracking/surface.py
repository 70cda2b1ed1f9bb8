"""Points of the MakeHuman head and their derivatives, for Gauss-Newton.

A state is [expression 39 | jaw: open, to the left | eyes: left pitch, yaw, right pitch, yaw |
lids: left, right], angles in radians. Positions are those of `pipeline.faces.makehuman.pose`.

Letters: p points, k numbers of identity, s numbers of state.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from scipy.spatial.transform import Rotation

from pipeline.faces import makehuman
from pipeline.faces.layouts import (
    ARKIT,
    BASIS_FILE,
    EXPRESSION_UNITS,
    GAZE_DOWN,
    GAZE_SIDE,
    GAZE_UP,
    JAW_OPEN,
    JAW_SIDE,
)
from pipeline.tracking.models import FaceState, identity_space

EXPRESSION = slice(0, len(EXPRESSION_UNITS))
JAW = slice(EXPRESSION.stop, EXPRESSION.stop + 2)
EYES = slice(JAW.stop, JAW.stop + 4)
LIDS = slice(EYES.stop, EYES.stop + 2)
STATE = LIDS.stop


@dataclass(frozen=True)
class Posed:
    """Points of one face and how they move with its numbers, metres, head frame."""

    points: Float64[np.ndarray, "p 3"]
    by_identity: Float64[np.ndarray, "p 3 k"]
    by_state: Float64[np.ndarray, "p 3 s"]


class Surface:
    """Some control vertices of the head model, as functions of identity and state.

    Args:
        vertices: Numbers of the control vertices.
    """

    def __init__(self, vertices: Int64[np.ndarray, "p"]) -> None:
        asset = makehuman.load_asset()
        mean, basis = identity_space()
        self.identity_size = len(basis)
        self._mean = mean[vertices].astype(float)
        self._basis = basis[:, vertices].astype(float).transpose(1, 2, 0)
        units = asset.units[:, vertices].astype(float).transpose(1, 2, 0)
        with np.load(BASIS_FILE) as file:
            backward = file["backward"].astype(float)
        self._units = units
        fixed = np.zeros((*self._mean.shape, STATE))
        slots = [ARKIT[name] for name in EXPRESSION_UNITS]
        fixed[..., EXPRESSION] = units[..., slots] @ backward
        fixed[..., JAW.start] = units[..., ARKIT["jawOpen"]] / np.radians(JAW_OPEN)
        for i, side in enumerate(("Left", "Right")):
            fixed[..., LIDS.start + i] = units[..., ARKIT[f"eyeBlink{side}"]]
        self._fixed = fixed
        self._eyes: list[tuple[Bool[np.ndarray, "p"], np.ndarray, np.ndarray]] = []
        for ids in (asset.left_eye, asset.right_eye):
            centre = mean[ids].mean(0).astype(float), basis[:, ids].mean(1).astype(float).T
            self._eyes.append((np.isin(vertices, ids), *centre))

    @property
    def by_state(self) -> Float64[np.ndarray, "p 3 s"]:
        """How the points move with a state's numbers, but for eyeballs.

        A jaw goes to the right about as it goes to the left.
        """
        out = self._fixed.copy()
        side = self._units[..., ARKIT["jawLeft"]] / np.radians(JAW_SIDE)
        out[..., JAW.start + 1] = side
        return out

    def __call__(
        self, identity: Float64[np.ndarray, "k"], state: Float64[np.ndarray, "s"]
    ) -> Posed:
        """Return the points and their derivatives."""
        neutral = self._mean + self._basis @ identity
        by_state = self._fixed.copy()
        for at, positive, negative, reach_up, reach_down in self._pairs():
            name, sign, reach = (
                (positive, 1, reach_up) if state[at] >= 0 else (negative, -1, reach_down)
            )
            by_state[..., at] = sign * self._units[..., ARKIT[name]] / np.radians(reach)
        # All of it is linear but the turn of the eyeballs.
        points = neutral + by_state @ state
        by_identity = self._basis
        for i, (own, centre, centre_basis) in enumerate(self._eyes):
            if not own.any():
                continue
            if by_identity is self._basis:
                by_identity = self._basis.copy()
            at = EYES.start + 2 * i
            middle = centre + centre_basis @ identity
            angles = np.array([state[at], state[at + 1], 0.0])
            R = Rotation.from_rotvec(angles).as_matrix()
            arm = neutral[own] - middle
            points[own] = arm @ R.T + middle
            by_identity[own] = R @ (self._basis[own] - centre_basis) + centre_basis
            by_state[own] = 0
            for j in range(2):
                step = np.eye(3)[j] * 1e-5
                turn = Rotation.from_rotvec(np.stack([angles + step, angles - step])).as_matrix()
                by_state[own, :, at + j] = arm @ (turn[0] - turn[1]).T / 2e-5
        return Posed(points, by_identity, by_state)

    @staticmethod
    def _pairs() -> list[tuple[int, str, str, float, float]]:
        """Return state numbers that two opposite units share: number, units, degrees of each."""
        pairs = [(JAW.start + 1, "jawLeft", "jawRight", JAW_SIDE, JAW_SIDE)]
        for i, side in enumerate(("Left", "Right")):
            out, inward = ("Out", "In") if side == "Left" else ("In", "Out")
            pitch = EYES.start + 2 * i
            pairs += [
                (pitch, f"eyeLookDown{side}", f"eyeLookUp{side}", GAZE_DOWN, GAZE_UP),
                (pitch + 1, f"eyeLook{out}{side}", f"eyeLook{inward}{side}", GAZE_SIDE, GAZE_SIDE),
            ]
        return pairs


def face_state(states: Float64[np.ndarray, "t s"]) -> FaceState:
    """Return states as the head models take them."""
    x = torch.from_numpy(np.asarray(states, np.float64)).float()
    zero = torch.zeros(len(x), 1)
    eyes = torch.cat([x[:, EYES].reshape(-1, 2, 2), torch.zeros(len(x), 2, 1)], -1)
    return FaceState(x[:, EXPRESSION], torch.cat([x[:, JAW], zero], 1), eyes, x[:, LIDS])
