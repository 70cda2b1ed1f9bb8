"""Expression codes of one head model to those of another, by a refit of the face's motion.

Two versions of FLAME have the same vertices: the motion of each is matched. Of different heads, the
68 landmarks of both neutral faces fix a warp, and with it, for points of the one's face, the
nearest ones of the other's: these motions are matched, the landmarks' more than the others'.
What the target cannot do is lost; the rest that is missed is told in millimetres.

Letters: t frames, n points, e numbers of expression.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.core.errors import LayoutError
from pipeline.core.types import ExpressionCode
from pipeline.faces.heads import FLAME_FILES, FlameHead, head_model
from pipeline.faces.layouts import (
    EXPRESSION,
    EYELIDS,
    JAW,
    LAYOUTS,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    matrix_from_rot6d,
)
from pipeline.tracking.align import umeyama
from pipeline.tracking.models import FaceModel, FaceState, FlameFace, MakeHumanFace, pose_flame

RIDGE = 2e-4
"""Metres of a point's motion that count as much as one standard deviation of the expression."""
REACH = 0.03
"""A point of the face is at most so far from a landmark, metres."""
NEAR = 0.006
"""And from its partner on the other face after the warp."""
INNER = 17
"""First landmark that is not of the outline."""
DENSE = 0.3
"""Weight of a point's motion beside that of a landmark."""
WIDTHS = [0.1, 0.1, 0.3, 0.3]
"""How far the jaw's pitch and yaw (radians) and the lids may go from the source's."""
STEPS = 6
BATCH = 64
"""Frames that are solved together."""


@dataclass(frozen=True)
class Refit:
    """Codes in another layout, and what was lost on the way."""

    codes: ExpressionCode
    """[t, 120]"""
    error: float
    """Root mean square of the motion that is missed, over points of the face, millimetres."""
    size: float
    """Root mean square of the motion itself, millimetres."""

    def words(self, source: str) -> str:
        """Return what a user should know about it."""
        share = f"{self.error:.2f} mm of the face's motion of {self.size:.2f} mm rms"
        return f"Expressions converted from {source} to {self.codes.layout}: {share} are lost."


def refit(codes: ExpressionCode, layout: str) -> Refit:
    """Return codes in another layout.

    Gaze is taken over as it is: all layouts have it as rotations of the eyes in head axes.

    Raises:
        LayoutError: If a layout is not known.
        MissingWeightsError: If a FLAME model that is needed is not on this machine.
        InputError: If one was converted without its landmarks, and the other head is not FLAME.
    """
    for name in (codes.layout, layout):
        if name not in LAYOUTS:
            raise LayoutError(
                f"Unknown expression layout {name!r}.", f"Known are {', '.join(LAYOUTS)}."
            )
    if layout == codes.layout:
        return Refit(codes, 0.0, 0.0)
    source, target = _pair(codes.layout, layout)
    states = [state_of(codes[i : i + BATCH], source.numbers) for i in range(0, len(codes), BATCH)]
    if layout == MAKEHUMAN:  # whose jaw does not roll
        roll = torch.tensor([1.0, 1.0, 0.0])
        states = [replace(state, jaw=state.jaw * roll) for state in states]
    parts = [solve(state, source.points(without_gaze(state)), target) for state in states]
    values = torch.cat([part.code(layout).values for part, _, _ in parts])
    values[:, LEFT_EYE.start : RIGHT_EYE.stop] = codes.values[:, LEFT_EYE.start : RIGHT_EYE.stop]
    frames = np.array([len(part.jaw) for part, _, _ in parts], float)
    squares = np.array([[left, size] for _, left, size in parts])
    error, size = (1000 * np.sqrt(frames @ squares / frames.sum())).tolist()
    return Refit(ExpressionCode(values, layout), error, size)


@dataclass(frozen=True)
class Side:
    """One of two heads: points whose motion is compared, under states of its face."""

    points: Callable[[FaceState], Float[Tensor, "t n 3"]]
    """Motion away from the neutral face, in the target's metres and axes."""
    numbers: int
    """Of expression."""
    lids: bool
    """Whether the eyelids have shapes of their own."""
    weights: Float[Tensor, "n"]


def _pair(source: str, target: str) -> tuple[Side, Side]:
    if MAKEHUMAN not in (source, target):
        sides = [_same_vertices(_flame(name)) for name in (source, target)]
        return sides[0], sides[1]
    faces = [_face(name) for name in (source, target)]
    return _warped(faces[0], faces[1])


def _flame(layout: str) -> FlameHead:
    head = head_model(layout)
    assert isinstance(head, FlameHead)
    return head


def _face(layout: str) -> FaceModel:
    return FlameFace(_flame(layout).model) if layout in FLAME_FILES else MakeHumanFace()


def _same_vertices(head: FlameHead) -> Side:
    model = head.model
    numbers, none = model.expressions.shape[-1], torch.zeros(0)
    rest = pose_flame(model, none, FaceState.neutral(numbers))
    skin = model.weights[:, 3:].sum(1) < 0.5  # eyeballs turn as the code says
    return Side(
        lambda state: (pose_flame(model, none, state) - rest)[:, skin],
        numbers, model.eyelids is not None, torch.ones(int(skin.sum())),
    )  # fmt: skip


def _warped(source: FaceModel, target: FaceModel) -> tuple[Side, Side]:
    """Return two different heads with as many points each, by the warp between their landmarks."""
    ours, theirs = _neutral(source), _neutral(target)
    fitted = umeyama(ours[1][INNER:], theirs[1][INNER:])
    assert fitted is not None  # the landmarks of a face lie on no line
    warp = RBFInterpolator(ours[1], theirs[1], kernel="thin_plate_spline", smoothing=1e-8)
    near = np.flatnonzero(KDTree(ours[1]).query(ours[0])[0] < REACH)
    distance, partner = KDTree(theirs[0]).query(warp(ours[0][near]))
    close = np.asarray(distance) < NEAR
    mine, other = near[close], np.asarray(partner)[close]
    weights = torch.ones(68 + len(mine))
    weights[68:] = DENSE * np.sqrt(68 / max(len(mine), 1))
    turn = torch.from_numpy(fitted.scale * fitted.R.T).float()
    return (
        Side(lambda s: _motion(source, mine, s) @ turn, source.expression_size,
              source.has_eyelids, weights),
        Side(lambda s: _motion(target, other, s), target.expression_size, target.has_eyelids,
              weights),
    )  # fmt: skip


def _neutral(model: FaceModel) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and landmarks of the average neutral face."""
    person, rest = torch.zeros(model.identity_size), FaceState.neutral(model.expression_size)
    parts = (model.vertices(person, rest), model.landmarks(person, rest))
    return parts[0][0].double().numpy(), parts[1][0].double().numpy()


def _motion(
    model: FaceModel, ids: Int64[np.ndarray, "n"], state: FaceState
) -> Float[Tensor, "t m 3"]:
    person, rest = torch.zeros(model.identity_size), FaceState.neutral(model.expression_size)

    def points(state: FaceState) -> Tensor:
        whole = model.vertices(person, state)[:, torch.from_numpy(ids)]
        return torch.cat([model.landmarks(person, state), whole], 1)

    return points(state) - points(rest)


def without_gaze(state: FaceState) -> FaceState:
    """Return states with eyes at rest: they turn alike in all layouts, and nothing is matched."""
    return replace(state, eyes=torch.zeros_like(state.eyes))


def solve(
    state: FaceState, wanted: Float[Tensor, "t n 3"], target: Side
) -> tuple[FaceState, float, float]:
    """Return states of the target, and mean squares of what is missed and of the motion.

    Ridge least squares about the neutral face, repeated on what a step leaves: faces are nearly
    linear in their numbers. Jaw and lids stay near the source's, if the face says nothing else.

    Args:
        state: Of the source; its gaze is taken over.
        wanted: Motion of the points away from the neutral face, but for eyeballs.
        target: Whose states are looked for.
    """
    eyes, still = state.eyes, torch.zeros_like(state.eyes)
    t, wide = len(state.jaw), torch.tensor([1.0] * target.numbers + WIDTHS)
    with torch.no_grad():
        lids = state.eyelids * (1.0 if target.lids else 0.0)
        start = torch.cat([torch.zeros(t, target.numbers), state.jaw[:, :2], lids], 1)
        weights = (target.weights[:, None] / RIDGE).expand(-1, 3).flatten()

        def posed(x: Tensor) -> FaceState:
            e = target.numbers
            jaw = torch.cat([x[:, e : e + 2], state.jaw[:, 2:]], 1)
            return FaceState(x[:, :e], jaw, still, x[:, e + 2 :])

        steps = FaceState(
            torch.diag(wide)[:, : target.numbers],
            torch.nn.functional.pad(torch.diag(wide)[:, -4:-2], (0, 1)),
            torch.zeros(len(wide), 2, 3),
            torch.diag(wide)[:, -2:] * (1.0 if target.lids else 0.0),
        )
        J = (target.points(steps).flatten(1) * weights).double()  # in units of the widths
        normal = torch.linalg.inv(J @ J.T + torch.eye(len(J)))
        x = start.clone()
        for _ in range(STEPS):
            miss = ((wanted - target.points(posed(x))).flatten(1) * weights).double()
            pull = ((start - x) / wide).double()
            x = x + ((miss @ J.T + pull) @ normal).float() * wide
        found = posed(x)
        left = ((target.points(found) - wanted) ** 2).sum(-1)
        size = (wanted**2).sum(-1)
    return replace(found, eyes=eyes), float(left.mean()), float(size.mean())


def state_of(codes: ExpressionCode, numbers: int) -> FaceState:
    """Return the states of a face that codes [t, 120] tell: the inverse of `FaceState.code`."""
    values = codes.values.detach().cpu().double()

    def turn(part: slice) -> Tensor:
        R = matrix_from_rot6d(values[:, part]).numpy()
        return torch.from_numpy(Rotation.from_matrix(R).as_rotvec()).float()

    return FaceState(
        values[:, EXPRESSION][:, :numbers].float(),
        turn(JAW),
        torch.stack([turn(LEFT_EYE), turn(RIGHT_EYE)], 1),
        values[:, EYELIDS].float(),
    )
