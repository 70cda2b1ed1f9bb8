"""The one fit of a head to its points in pictures: identity, states, poses and lenses together.

Photographs with unknown cameras, a video, a calibrated rig and single pictures with known cameras
differ in what is told and what is shared, not in how they are solved: Gauss-Newton on points with
an uncertainty each. What all pictures share (identity, lenses, the pose of a static head) borders a
matrix of small blocks, one for each moment, that only smoothing ties to their neighbours.

Letters: n pictures, m moments, p points, k numbers of identity, s of state, g shared unknowns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from scipy.linalg import cho_factor, cho_solve
from scipy.ndimage import uniform_filter1d
from scipy.spatial.transform import Rotation

from pipeline.core.errors import CameraError, ShapeError
from pipeline.core.types import Camera
from pipeline.render.cpu.threads import run, thread_count
from pipeline.tracking.surface import EXPRESSION, EYES, JAW, LIDS, STATE, Posed, Surface

MARKS = 68
REGIONS = tuple(
    np.array([i for part in parts for i in range(*part)])
    for parts in (
        ((17, 22), (36, 42)),
        ((22, 27), (42, 48)),
        ((6, 11), (31, 36), (48, 68)),
    )
)
"""Landmarks that tell an expression: eye and brow on each side, and mouth, chin and nostrils. Each
is seen against the middle of its region: to the detector, the whole head is turned another way."""
POSE = 6
"""Unknowns of a pose: a turn, then a shift."""
FIXED = 1e15
"""Weight of what does not move."""
Poses = Literal["each", "static", "loose", "told"]
"""One for each moment; one for all; one for all but for what cameras that were found are off; or
none, where cameras are given in the head frame."""


TRIED = 8
"""So many pictures of a moment say at most where its fit might begin: few of them are wrong."""
SETTLED = 1e-3
"""Share of its cost by which a fit changes no more."""
STEADY = 2
"""Moments before and after one whose pace is its own too."""


@dataclass(frozen=True)
class BundleConfig:
    """What is believed before seeing a picture; widths are standard deviations."""

    alike: float = 3.0
    """Errors of a picture's points go together: so many times its sigma is each one's in the sum,
    against what is believed beforehand."""
    cauchy: float = 2.5
    """Misses well beyond this many sigmas count for little."""
    marks: float = 0.015
    """Sigma of a detector's landmark within its region, in longer sides of the landmarks' box."""
    turned: float = 40.0
    """Degrees from the front beyond which a detector's landmarks do more harm than good."""
    outline: float = 2.2
    """So many times that of one on the outline, which slides over the head."""
    numbers: float = 3.0
    """Times its sigma is what the network says of state and identity."""
    eyes: float = 0.5
    """The same of gaze and lids, which are looked at by themselves."""
    identity: float = 1.0
    expression: float = 1.0
    jaw: tuple[float, float] = (0.15, 0.06)
    """Open and aside, radians."""
    gaze: float = 0.15
    """Radians."""
    vergence: float = 0.03
    """Of the difference between the eyes, radians."""
    lids: float = 0.4
    limit: float = 0.03
    """How far a lid goes beyond shut or a jaw beyond closed."""
    distance: float = 1.0
    """Camera to head, metres, where the focal length is unknown."""
    distance_width: float = 0.25
    """Of its logarithm."""
    focal: float = 1.8
    """In longer sides of the picture: a portrait lens, equivalent to 65 mm."""
    focal_width: float = 0.5
    """Of its logarithm, if the picture does not tell it."""
    told_width: float = 0.05
    """The same, if it does."""
    same_width: float = 0.1
    """Between pictures of one size that do not tell it: probably one camera took them."""
    loose: tuple[float, float] = (0.008, 0.003)
    """How far a moment's pose is from the one of all, radians and metres, if poses are loose."""
    smooth: float = 0.0
    """Weight of the change from moment to moment; 0 if they are not in order."""
    pace: tuple[float, float, float] = (0.3, 0.03, 0.008)
    """What smoothing takes for a usual change: of the state in its widths, radians, metres."""
    iterations: int = 12


@dataclass(frozen=True)
class Sighting:
    """What was seen in one picture."""

    points: Float64[np.ndarray, "p 2"]
    """Pixels; nan where unknown."""
    sigma: Float64[np.ndarray, "p"]
    """Of one coordinate, pixels."""
    size: tuple[int, int]
    """Width and height of the picture."""
    moment: int = 0
    camera: Camera | None = None
    """World to camera; if not given, the picture has a frame of its own."""
    focal: float | None = None
    """Pixels, if the picture tells it."""
    lens: int = 0
    """Pictures of one lens share one focal length; the principal point is in the middle."""
    marks: Float64[np.ndarray, "68 2"] | None = None
    """A detector's landmarks, pixels."""
    numbers: Float64[np.ndarray, "n"] | None = None
    """State and then identity as far as a network tells them."""
    numbers_sigma: Float64[np.ndarray, "n"] | None = None


@dataclass(frozen=True)
class Bundle:
    """What was found."""

    identity: Float64[np.ndarray, "k"]
    states: Float64[np.ndarray, "m s"]
    poses: Float64[np.ndarray, "m 4 4"]
    """Head to world; to the camera's own frame where the camera was unknown."""
    cameras: tuple[Camera, ...]
    """Of each picture, from the head frame."""
    errors: Float64[np.ndarray, "n"]
    """Weighted root mean square distance to the points, pixels."""
    misfit: Float64[np.ndarray, "n"]
    """The same in sigmas: about 1 if the head model can be what is seen."""
    information: Float64[np.ndarray, "m o o"]
    """Inverse covariance of each moment's state and pose (turn in the world, then shift; no pose
    where it is not the moment's own), given all else."""

    @property
    def pose_information(self) -> Float64[np.ndarray, "m 6 6"]:
        """The same of poses alone, whatever the states are; where they are the moments' own."""
        state, border = self.information[:, :STATE, :STATE], self.information[:, :STATE, STATE:]
        told = np.linalg.solve(state, border)
        return self.information[:, STATE:, STATE:] - border.swapaxes(1, 2) @ told


def fit(
    surface: Surface,
    seen: Sequence[Sighting],
    config: BundleConfig = BundleConfig(),
    *,
    poses: Poses = "each",
    cuts: Collection[int] = (),
    bias: Float64[np.ndarray, "68 3"] | None = None,
    identity: Float64[np.ndarray, "k"] | None = None,
    states: Float64[np.ndarray, "m s"] | None = None,
    first: Bundle | None = None,
) -> Bundle:
    """Fit one person's head to what is seen in pictures.

    Args:
        surface: The points of the head model.
        seen: Pictures; those of one moment show one state and, with known cameras, one pose.
        config: Priors.
        poses: What moves: the head from moment to moment, nothing in the world of the cameras, or
            the cameras alone, which are then those of the head frame.
        cuts: Moments that do not follow from the one before, where moments are smoothed.
        bias: From the head model's landmarks, the first points of the surface, to where the
            detector of the marks sees them, head frame, metres.
        identity: The person's, if it is known.
        states: Of the moments, if they are known.
        first: Where to begin: with its identity, states and poses.

    Raises:
        ShapeError: If there is no picture, moments are not numbered from 0, or a moment has two
            pictures whose cameras are unknown.
        CameraError: If a moment has no picture with enough points.
    """
    problem = _Problem(surface, seen, config, poses, cuts, bias, identity)
    if states is not None:
        problem.state_mean, problem.state_weight = states, np.full(states.shape, FIXED)
    if first is None:
        problem.start()
        for _ in range(5):
            problem.step(rigid=True)
    else:
        problem.begin(first)
    problem.leave_turned()
    damping, cost = 1e-3, problem.cost()
    for _ in range(config.iterations):
        before = problem.unknowns()
        problem.step(damping=damping)
        now = problem.cost()
        done = abs(cost - now) < SETTLED * max(cost, 1.0)
        if now > cost:
            problem.put(before)
            damping = min(damping * 10, 1e3)
        else:
            damping, cost = max(damping / 5, 1e-6), now
        if done:
            break
    return problem.result()


def moved(
    surface: Surface,
    seen: Sequence[Sighting],
    found: Bundle,
    states: Float64[np.ndarray, "m s"],
    poses: Float64[np.ndarray, "m 4 4"],
    config: BundleConfig = BundleConfig(),
) -> Bundle:
    """Return what was found with other states and poses, and how far these are off the points.

    Args:
        surface: The points of the head model.
        seen: The pictures, all of known cameras.
        found: In them.
        states: To take instead.
        poses: Likewise, head to world.
        config: That it was found with.
    """
    problem = _Problem(surface, seen, config, "each", (), None, found.identity)
    problem.identity, problem.states = found.identity, states
    problem.turns, problem.t = poses[:, :3, :3].copy(), poses[:, :3, 3].copy()
    return replace(problem.result(), information=found.information)


class _Problem:
    """Unknowns, residuals and the bordered normal equations."""

    def __init__(
        self,
        surface: Surface,
        seen: Sequence[Sighting],
        config: BundleConfig,
        poses: Poses,
        cuts: Collection[int],
        bias: Float64[np.ndarray, "68 3"] | None,
        identity: Float64[np.ndarray, "k"] | None,
    ) -> None:
        moments = sorted({s.moment for s in seen})
        if not seen or moments != list(range(len(moments))):
            raise ShapeError("Moments are not numbered from 0.", "Give at least one picture each.")
        self.free = seen[0].camera is None
        if any((s.camera is None) != self.free for s in seen) or (
            self.free and len(moments) != len(seen)
        ):
            raise ShapeError(
                "Pictures with unknown cameras are moments of their own.",
                "Give all cameras, or none and a moment for each picture.",
            )
        static = poses in ("static", "told")
        if static and self.free:
            raise ShapeError("A static head needs known cameras.", "Give them, or leave it free.")
        self.loose = poses == "loose"
        self.surface, self.config, self.static = surface, config, static
        self.plain = len(seen[0].points)
        self.bias = np.zeros((MARKS, 3)) if bias is None else bias
        self.seen = [_with_marks(s, config) for s in seen]
        self.usual_turn, self.usual_t = np.eye(3), np.zeros(3)
        self.told_pose, self.cuts = poses == "told", cuts
        self.of = [[s for s in self.seen if s.moment == i] for i in moments]
        self.m, self.k = len(moments), 0 if identity is not None else surface.identity_size
        """A known identity is no unknown."""
        self.identity = np.zeros(surface.identity_size)
        self.states = np.zeros((self.m, STATE))
        own = STATE + (0 if static else POSE)
        self.information = np.zeros((self.m, own, own))
        self.turns = np.tile(np.eye(3), (1 if static else self.m, 1, 1))
        self.t = np.zeros((len(self.turns), 3))
        self.lenses = sorted({s.lens for s in seen}) if self.free else []
        self._last: dict[int, tuple[np.ndarray, Posed]] = {}
        """Points of each moment as they were posed last, with the numbers that posed them."""
        self._beliefs()
        if identity is not None:
            self.identity_mean = identity

    def _beliefs(self) -> None:
        """Gather priors: a mean and an inverse variance for every number, and of lenses."""
        config = self.config
        width = np.zeros(STATE)
        width[EXPRESSION], width[JAW] = config.expression, config.jaw
        width[EYES], width[LIDS] = config.gaze, config.lids
        self.width = width
        self.state_weight = np.tile(width**-2.0, (self.m, 1))
        self.state_mean = np.zeros((self.m, STATE))
        self.identity_weight = np.full(len(self.identity), config.identity**-2.0)
        self.identity_mean = np.zeros(len(self.identity))
        total = {i: sum(s.moment == i for s in self.seen) for i in range(self.m)}
        for s in self.seen:
            if s.numbers is None or s.numbers_sigma is None:
                continue
            # Views of one moment, and pictures of one person, err together: they share one say.
            times = np.full(len(s.numbers_sigma), config.numbers)
            times[EYES], times[LIDS] = config.eyes, config.eyes
            w = (times * s.numbers_sigma) ** -2.0
            own = w[:STATE] / total[s.moment]
            self.state_mean[s.moment] += own * s.numbers[:STATE]
            self.state_weight[s.moment] += own
            who = w[STATE:] / len(self.seen)
            count = len(who)
            self.identity_mean[:count] += who * s.numbers[STATE:]
            self.identity_weight[:count] += who
        self.state_mean /= self.state_weight
        self.identity_mean /= self.identity_weight
        first = [next(s for s in self.seen if s.lens == lens) for lens in self.lenses]
        guess = [s.focal or config.focal * max(s.size) for s in first]
        self.log_guess = np.log(np.array(guess, float))
        self.log_focal = self.log_guess.copy()
        told = np.array([s.focal is not None for s in first], bool)
        n = len(first)
        self.lens_weight = np.diag(np.where(told, config.told_width, config.focal_width) ** -2.0)
        self.told = told
        for i in range(n):
            same = [j for j in range(n) if first[j].size == first[i].size]
            same = [j for j in same if not (told[i] or told[j])]
            if len(same) > 1 and same[0] == i:
                centred = np.eye(len(same)) - 1 / len(same)
                self.lens_weight[np.ix_(same, same)] += centred * config.same_width**-2.0

    def start(self) -> None:
        """Place the mean head by weak perspective, where most pictures of a moment see it.

        Raises:
            CameraError: If a moment has no picture with enough points.
        """
        mean = self.surface(self.identity, np.zeros(STATE)).points
        mean = np.concatenate([mean, mean[:MARKS]])
        of: list[list[Sighting]] = [[] for _ in self.turns]
        places: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in self.turns]
        for s in self.seen:
            known = np.isfinite(s.points).all(1) & (s.sigma > 0)
            known[self.plain :] = False
            if known.sum() < 12:
                continue
            K = self._K(s)
            turn, scale, shift = _weak_perspective(s.points[known], mean[known], 1 / s.sigma[known])
            z = K[0, 0] / scale
            if self.free and not self.told[self.lenses.index(s.lens)]:
                z = self.config.distance
                self.log_focal[self.lenses.index(s.lens)] = np.log(scale * z)
            t = np.append((shift - K[:2, 2]) / scale, z)
            if s.camera is not None:
                E = s.camera.world_to_camera.double().numpy()
                turn, t = E[:3, :3].T @ turn, E[:3, :3].T @ (t - E[:3, 3])
            i = 0 if self.static else s.moment
            of[i].append(s)
            places[i].append((turn, t))
        empty = [not some for some in of]
        if any(empty):
            raise CameraError(
                f"Nothing is seen of moment {empty.index(True)}.", "Leave its pictures out."
            )
        for i in range(0 if self.told_pose else len(of)):
            best = np.inf
            for turn, t in places[i][:: -(-len(places[i]) // TRIED)]:
                before = self.turns[i].copy(), self.t[i].copy()
                self.turns[i], self.t[i] = turn, t
                off = sum(np.log1p(self._off(s, mean)) for s in of[i]) if len(of[i]) > 1 else 0.0
                if off < best:
                    best = off
                else:
                    self.turns[i], self.t[i] = before
        if self.loose:
            self.usual_turn = Rotation.from_matrix(self.turns).mean().as_matrix()
            self.usual_t = self.t.mean(0)
        self.states = self.state_mean.copy()
        self.identity = self.identity_mean.copy()

    def _off(self, s: Sighting, points: Float64[np.ndarray, "q 3"]) -> float:
        """Return how far the middle one of a picture's points is off, sigmas."""
        miss, _, _, known = self._misses(s, points)
        known[self.plain :] = False
        far = np.linalg.norm(miss[known], axis=1) / s.sigma[known]
        return float(np.median(far))

    def begin(self, first: Bundle) -> None:
        """Take identity, states and poses that were found before."""
        self.states = first.states.copy()
        self.identity = first.identity.copy() if self.k else self.identity_mean
        poses = first.poses[: len(self.turns)]
        self.turns, self.t = poses[:, :3, :3].copy(), poses[:, :3, 3].copy()

    def leave_turned(self) -> None:
        """Leave the detector's landmarks out where the head does not look towards the camera."""
        least = np.cos(np.radians(self.config.turned))
        for s in self.seen:
            R, _, _ = self._view(s)
            if -R[2, 2] < least:
                s.sigma[self.plain :] = 0

    def _K(self, s: Sighting) -> Float64[np.ndarray, "3 3"]:
        if s.camera is not None:
            return s.camera.K.double().numpy()
        f = float(np.exp(self.log_focal[self.lenses.index(s.lens)]))
        return np.array([[f, 0, s.size[0] / 2], [0, f, s.size[1] / 2], [0, 0, 1]])

    def _view(self, s: Sighting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rotation and shift from the head to a camera, and from the world to it."""
        i = 0 if self.static else s.moment
        R, t = self.turns[i], self.t[i]
        if s.camera is None:
            return R, t, np.eye(3)
        E = s.camera.world_to_camera.double().numpy()
        return E[:3, :3] @ R, E[:3, :3] @ t + E[:3, 3], E[:3, :3]

    def _posed(self, s: Sighting) -> Posed:
        """Return the points, and once more the landmarks where the detector sees them."""
        numbers = np.concatenate([self.identity, self.states[s.moment]])
        known = self._last.get(s.moment)
        if known is None or not np.array_equal(known[0], numbers):
            posed = self.surface(self.identity, self.states[s.moment])
            both = Posed(
                np.concatenate([posed.points, posed.points[:MARKS] + self.bias]),
                np.concatenate([posed.by_identity, posed.by_identity[:MARKS]]),
                np.concatenate([posed.by_state, posed.by_state[:MARKS]]),
            )
            known = self._last[s.moment] = numbers, both
        return known[1]

    def _misses(
        self, s: Sighting, points: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return misses [p, 2], points turned to the camera, their places, and known ones."""
        R, t, _ = self._view(s)
        turned = points @ R.T
        inside = turned + t
        depth = np.maximum(inside[:, 2:], 0.02)  # a wild step may go behind the camera
        K = self._K(s)
        miss = inside[:, :2] / depth * K[[0, 1], [0, 1]] + K[:2, 2] - s.points
        known = np.isfinite(miss).all(1) & (s.sigma > 0)
        miss = np.where(known[:, None], miss, 0.0)
        if known[self.plain :].any():
            miss[self.plain :] = _centred(miss[self.plain :])
        return miss, turned, inside, known

    def _alike(self) -> Float64[np.ndarray, "p"]:
        """Return how many times its sigma is a point's in the sum."""
        return np.repeat([self.config.alike, 1.0], [self.plain, MARKS])

    def cost(self) -> float:
        """Return half the robust sum of squares."""
        config, total = self.config, 0.0
        for s in self.seen:
            posed = self._posed(s)
            miss, _, _, known = self._misses(s, posed.points)
            far = (miss**2).sum(1) / np.where(known, s.sigma, 1) ** 2
            c = config.cauchy**2
            rho = 0.5 * c * np.log1p(far / c) / self._alike() ** 2
            total += float(rho[known].sum())
        off = self.identity - self.identity_mean
        total += 0.5 * float((self.identity_weight * off**2).sum())
        total += 0.5 * float((self.state_weight * (self.states - self.state_mean) ** 2).sum())
        for x in self.states:
            total += 0.5 * sum(w * r**2 for _, r, w in self._limits(x))
        total += 0.5 * float(sum((a @ x) ** 2 for x in self.states for a in self._vergence()))
        if self.free:
            d = self.log_focal - self.log_guess
            total += 0.5 * float(d @ self.lens_weight @ d)
            z = (np.log(self.t[:, 2].clip(0.02)) - np.log(config.distance)) / config.distance_width
            total += 0.5 * float((self._unsure() * z**2).sum())
        for _, r, w in self._changes():
            total += 0.5 * float((w * r**2).sum())
        if self.loose:
            total += 0.5 * float((self._loose_weight() * self._unlike() ** 2).sum())
        return total

    def _unlike(self) -> Float64[np.ndarray, "m 6"]:
        """Return how far poses are from the usual one, radians and metres."""
        turns = Rotation.from_matrix(self.turns @ self.usual_turn.T).as_rotvec()
        return np.concatenate([turns, self.t - self.usual_t], 1)

    def _loose_weight(self) -> Float64[np.ndarray, "6"]:
        return np.repeat(self.config.loose, 3) ** -2.0

    def _unsure(self) -> np.ndarray:
        """Return 1 for each moment whose focal length is not told, else 0."""
        out = np.zeros(self.m)
        for s in self.seen:
            out[s.moment] = not self.told[self.lenses.index(s.lens)]
        return out

    def _limits(self, x: np.ndarray) -> list[tuple[int, float, float]]:
        """Return (number, excess, weight) of lids beyond open or shut and jaws beyond closed."""
        w = self.config.limit**-2.0
        found = [(JAW.start, min(x[JAW.start], 0.0), w)]
        for i in range(LIDS.start, LIDS.stop):
            found += [(i, min(x[i] + 0.1, 0.0), w), (i, max(x[i] - 1.05, 0.0), w)]
        return [f for f in found if f[1] != 0]

    def _vergence(self) -> list[np.ndarray]:
        """Return rows that weigh the difference of the eyes' pitch and yaw."""
        rows: list[np.ndarray] = []
        for j in range(2):
            row = np.zeros(STATE)
            row[EYES.start + j], row[EYES.start + 2 + j] = 1, -1
            rows.append(row / self.config.vergence)
        return rows

    def _changes(self) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """Return (moment, change from the one before, weights) in the order of the block."""
        config = self.config
        if not config.smooth or self.m < 2:
            return []
        pace = np.concatenate([config.pace[0] * self.width, np.full(3, config.pace[1]),
                               np.full(3, config.pace[2])])  # fmt: skip
        weights = config.smooth * pace**-2.0
        if self.static:
            weights[STATE:] = 0
        changes = np.zeros((self.m, STATE + POSE))
        changes[1:, :STATE] = np.diff(self.states, axis=0)
        if not self.static:
            turns = Rotation.from_matrix(self.turns[1:] @ self.turns[:-1].swapaxes(1, 2))
            changes[1:, STATE:] = np.concatenate([turns.as_rotvec(), np.diff(self.t, axis=0)], 1)
        ends = sorted({0, self.m, *(cut for cut in self.cuts if 0 < cut < self.m)})
        out: list[tuple[int, np.ndarray, np.ndarray]] = []
        for first, end in pairwise(ends):
            # A head that turns goes on turning: only what its pace differs by around is a change.
            paces = changes[first + 1 : end, STATE:]
            if len(paces):
                paces -= uniform_filter1d(paces, 2 * STEADY + 1, axis=0, mode="nearest")
            out += [(i, changes[i], weights) for i in range(first + 1, end)]
        return out

    def step(self, *, rigid: bool = False, damping: float = 1e-6) -> None:
        """Take one Gauss-Newton step; of poses and lenses alone if `rigid`."""
        config, k, g = self.config, self.k, self.k + len(self.lenses)
        shared = g + (POSE if self.static or self.loose else 0)
        own = STATE + (0 if self.static else POSE)
        blocks, rights = np.zeros((self.m, own, own)), np.zeros((self.m, own))
        border = np.zeros((self.m, own, shared))
        normals, sides = np.zeros((self.m, shared, shared)), np.zeros((self.m, shared))

        def add(i: int) -> None:
            whole, right = self._told(i, shared, own, g)
            normals[i], sides[i] = whole[:shared, :shared], right[:shared]
            blocks[i], rights[i] = whole[shared:, shared:], right[shared:]
            border[i] = whole[shared:, :shared]

        run(add, self.m, thread_count())
        normal, b = normals.sum(0), sides.sum(0)
        at = np.arange(k)
        normal[at, at] += self.identity_weight[:k]
        b[:k] += (self.identity_weight * (self.identity - self.identity_mean))[:k]
        if self.told_pose:
            normal[np.arange(g, shared), np.arange(g, shared)] += FIXED
        if self.free:
            d = self.log_focal - self.log_guess
            normal[k:g, k:g] += self.lens_weight
            b[k:g] += self.lens_weight @ d
            z = self.t[:, 2].clip(0.02)
            w = self._unsure() * config.distance_width**-2.0
            blocks[:, own - 1, own - 1] += w
            rights[:, own - 1] += w * (np.log(z) - np.log(config.distance))
        if self.loose:
            weight, unlike = self._loose_weight(), self._unlike()
            at, pose = np.arange(g, shared), np.arange(STATE, own)
            normal[at, at] += self.m * weight
            blocks[:, pose, pose] += weight
            border[:, pose, at] -= weight
            b[at] -= weight * unlike.sum(0)
            rights[:, pose] += weight * unlike
        at = np.arange(STATE)
        blocks[:, at, at] += self.state_weight
        rights[:, :STATE] += self.state_weight * (self.states - self.state_mean)
        for i, x in enumerate(self.states):
            for j, r, w in self._limits(x):
                blocks[i, j, j] += w
                rights[i, j] += w * r
            for row in self._vergence():
                blocks[i, :STATE, :STATE] += np.outer(row, row)
                rights[i, :STATE] += row * (row @ x)
        ties = np.zeros((self.m, own, own))
        """Of each moment with the one before."""
        for i, change, w in self._changes():
            # A change of free poses counts in their own units: along the ray, by the depth.
            now, before = self._units(i, own), self._units(i - 1, own)
            w, change = w[:own], change[:own]
            blocks[i] += now.T @ (w[:, None] * now)
            blocks[i - 1] += before.T @ (w[:, None] * before)
            ties[i] -= now.T @ (w[:, None] * before)
            rights[i] += now.T @ (w * change)
            rights[i - 1] -= before.T @ (w * change)
        self.information = blocks.copy()
        if rigid:
            keep = np.arange(k, shared)
            self_keep = np.arange(STATE, own)
            normal, b = normal[np.ix_(keep, keep)], b[keep]
            blocks = blocks[:, STATE:, STATE:]
            ties, rights = ties[:, STATE:, STATE:], rights[:, STATE:]
            border = border[:, STATE:][:, :, keep]
        else:
            keep, self_keep = np.arange(shared), np.arange(own)
        scale = 1 + damping
        i = np.arange(len(normal))
        normal[i, i] *= scale
        i = np.arange(blocks.shape[1])
        blocks[:, i, i] *= scale
        x, y = _solve_bordered(normal, b, blocks, ties, rights, border)
        whole_x, whole_y = np.zeros(shared), np.zeros((self.m, own))
        whole_x[keep] = -x
        if len(self_keep):
            whole_y[:, self_keep] = -y
        self._move(whole_x, whole_y, g)

    def _units(self, moment: int, own: int) -> Float64[np.ndarray, "o o"]:
        """Return how a block's unknowns change state, turn and metres of shift."""
        unit = np.eye(own)
        if self.free:
            unit[STATE + 3 :, STATE + 3 :] = self._shift_unit(moment)
        return unit

    def _shift_unit(self, moment: int) -> Float64[np.ndarray, "3 3"]:
        """Return the columns of a free shift: aside in metres, and a factor along the ray."""
        unit = np.eye(3)
        unit[:, 2] = self.t[moment]
        return unit

    def _told(
        self, i: int, shared: int, own: int, g: int
    ) -> tuple[Float64[np.ndarray, "u u"], Float64[np.ndarray, "u"]]:
        """Return the normal equations of what a moment's pictures show.

        All of them see the same way of a point in the world: what each tells of that is summed
        before it is told of the unknowns, whose number is what costs, and not that of cameras.
        """
        plain, pictures = self.plain, self.of[i]
        ways = self._ways(pictures[0], shared, own, g)
        told, pull = np.zeros((plain, 3, 3)), np.zeros((plain, 3))
        roots: list[np.ndarray] = []
        rows: list[np.ndarray] = []
        off: list[np.ndarray] = []
        for s in pictures:
            slope, miss, weight = self._slopes(s)
            roots.append(slope[:plain] * weight[:plain, None, None])
            turned = roots[-1].swapaxes(1, 2)
            told += turned @ roots[-1]
            pull += (turned @ (miss[:plain] * weight[:plain, None])[..., None])[..., 0]
            shown = weight[plain:, None]
            if shown.any():
                # Landmarks are seen against their regions, in each picture by itself.
                marks = _centred(np.where(shown[..., None] > 0, slope[plain:] @ ways[plain:], 0.0))
                rows.append(marks * shown[..., None])
                off.append(miss[plain:] * shown)
        root = roots[0]
        if len(pictures) > 1:
            least = 1e-9 * np.trace(told, axis1=1, axis2=2) + 1e-12
            root = np.linalg.cholesky(told + least[:, None, None] * np.eye(3)).swapaxes(1, 2)
        J = np.concatenate([x.reshape(-1, shared + own) for x in (root @ ways[:plain], *rows)])
        right = np.tensordot(pull, ways[:plain], 2)
        for marks, miss in zip(rows, off, strict=True):
            right += np.tensordot(miss, marks, 2)
        return J.T @ J, right

    def _ways(self, s: Sighting, shared: int, own: int, g: int) -> Float64[np.ndarray, "q 3 u"]:
        """Return how points move in the world with all unknowns, at the moment of a picture."""
        k, i = self.k, 0 if self.static else s.moment
        posed, R = self._posed(s), self.turns[i]
        arm = posed.points @ R.T
        ways = np.zeros((len(arm), 3, shared + own))
        ways[..., :k] = R @ posed.by_identity[..., :k]
        ways[..., shared : shared + STATE] = R @ posed.by_state
        # A turn comes after the pose, in the world: w x (R X) there, before the camera turns it.
        at = g if self.static else shared + STATE
        ways[..., at : at + 3] = spins(arm)
        ways[..., at + 3 : at + 6] = self._shift_unit(s.moment) if self.free else np.eye(3)
        if self.free:
            # Longer focal lengths move points as if they went away from the axis.
            inside = arm + self.t[i]
            ways[..., k + self.lenses.index(s.lens)] = inside * [1, 1, 0]
        return ways

    def _slopes(
        self, s: Sighting
    ) -> tuple[Float64[np.ndarray, "q 2 3"], Float64[np.ndarray, "q 2"], Float64[np.ndarray, "q"]]:
        """Return how a picture's pixels move with points in the world, misses, and weights."""
        miss, _, inside, known = self._misses(s, self._posed(s).points)
        _, _, world = self._view(s)
        K, z = self._K(s), np.maximum(inside[:, 2], 0.02)
        P = np.zeros((len(z), 2, 3))
        P[:, 0, 0], P[:, 1, 1] = K[0, 0] / z, K[1, 1] / z
        P[:, 0, 2], P[:, 1, 2] = -P[:, 0, 0] * inside[:, 0] / z, -P[:, 1, 1] * inside[:, 1] / z
        sigma = np.where(known, s.sigma, 1) * self._alike()
        far = (miss**2).sum(1) / np.where(known, s.sigma, 1) ** 2
        weight = known / np.sqrt(1 + far / self.config.cauchy**2) / sigma
        return P @ world, miss, weight

    def _move(self, x: np.ndarray, y: np.ndarray, g: int) -> None:
        self.identity = self.identity + (x[: self.k] if self.k else 0.0)
        self.log_focal = self.log_focal + x[self.k : g].clip(-0.5, 0.5)
        self.states = self.states + y[:, :STATE]
        poses = x[None, g:] if self.static else y[:, STATE:]
        turn = poses[:, :3]
        size = np.linalg.norm(turn, axis=1, keepdims=True)
        turn = turn * np.minimum(1, 0.6 / np.maximum(size, 1e-9))
        self.turns = Rotation.from_rotvec(turn).as_matrix() @ self.turns
        shift = poses[:, 3:].clip(-0.5, 0.5)
        if self.free:
            self.t = self.t * np.exp(shift[:, 2:]) + shift * [1, 1, 0]
        else:
            self.t = self.t + shift
        if self.loose:
            self.usual_turn = Rotation.from_rotvec(x[g : g + 3]).as_matrix() @ self.usual_turn
            self.usual_t = self.usual_t + x[g + 3 :]

    def unknowns(self) -> tuple[np.ndarray, ...]:
        usual = self.usual_turn, self.usual_t
        return self.identity, self.log_focal, self.states, self.turns, self.t, *usual

    def put(self, kept: tuple[np.ndarray, ...]) -> None:
        self.identity, self.log_focal, self.states, self.turns, self.t = kept[:5]
        self.usual_turn, self.usual_t = kept[5:]

    def result(self) -> Bundle:
        cameras: list[Camera] = []
        errors, misfit = np.zeros(len(self.seen)), np.zeros(len(self.seen))
        for i, s in enumerate(self.seen):
            R, t, _ = self._view(s)
            E = np.eye(4)
            E[:3, :3], E[:3, 3] = R, t
            K = torch.from_numpy(self._K(s)).float()
            cameras.append(Camera(torch.from_numpy(E).float(), K, *s.size))
            posed = self._posed(s)
            miss, _, _, known = self._misses(s, posed.points)
            known[self.plain :] = False
            square = (miss**2).sum(1)[known] / 2
            weight = s.sigma[known] ** -2.0
            errors[i] = np.sqrt(2 * (square * weight).sum() / weight.sum())
            misfit[i] = np.sqrt((square * weight).mean())
        poses = np.tile(np.eye(4), (self.m, 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = self.turns, self.t
        return Bundle(
            self.identity, self.states, poses, tuple(cameras), errors, misfit, self.information
        )


def spins(arms: Float64[np.ndarray, "p 3"]) -> Float64[np.ndarray, "p 3 3"]:
    """Return how points at the ends of arms move with a small rotation vector."""
    spin = np.zeros((len(arms), 3, 3))
    spin[:, 0, 1], spin[:, 0, 2] = arms[:, 2], -arms[:, 1]
    spin[:, 1, 0], spin[:, 1, 2] = -arms[:, 2], arms[:, 0]
    spin[:, 2, 0], spin[:, 2, 1] = arms[:, 1], -arms[:, 0]
    return spin


def _centred(values: Float64[np.ndarray, "68 ..."]) -> Float64[np.ndarray, "68 ..."]:
    """Return values of landmarks against the means of their regions."""
    values = values.copy()
    for region in REGIONS:
        values[region] -= values[region].mean(0)
    return values


def _with_marks(s: Sighting, config: BundleConfig) -> Sighting:
    """Return what was seen with the landmarks after the points; unknown ones without a sigma."""
    marks, sigma = np.full((MARKS, 2), np.nan), np.zeros(MARKS)
    if s.marks is not None and np.isfinite(s.marks).all():
        marks = s.marks
        sigma[np.concatenate(REGIONS)] = config.marks * float(np.ptp(marks, axis=0).max())
        sigma[:17] *= config.outline
    return replace(
        s, points=np.concatenate([s.points, marks]), sigma=np.concatenate([s.sigma, sigma])
    )


def _solve_bordered(
    H: np.ndarray,
    b: np.ndarray,
    blocks: np.ndarray,
    ties: np.ndarray,
    rights: np.ndarray,
    border: np.ndarray,
) -> tuple[Float64[np.ndarray, "g"], Float64[np.ndarray, "m o"]]:
    """Solve [H B'; B T] [x; y] = [b; r] where T is block tridiagonal, by elimination of y.

    Args:
        H: Of the shared unknowns [g, g].
        b: Their right side.
        blocks: The diagonal of T [m, o, o].
        ties: Its blocks left of the diagonal; the first is not used.
        rights: Right sides [m, o].
        border: B [m, o, g].
    """
    m, o, g = border.shape
    if not o:
        return np.linalg.solve(H, b) if g else b, rights
    wide = np.concatenate([border, rights[..., None]], -1)
    factors: list[tuple[np.ndarray, bool]] = []
    for i in range(m):
        block = blocks[i]
        if i and ties[i].any():
            carried = cho_solve(factors[-1], np.concatenate([ties[i].T, wide[i - 1]], 1))
            block = block - ties[i] @ carried[:, :o]
            wide[i] -= ties[i] @ carried[:, o:]
        factors.append(cho_factor(block, lower=True))
    solved = np.zeros_like(wide)
    for i in reversed(range(m)):
        right = wide[i]
        if i + 1 < m and ties[i + 1].any():
            right = right - ties[i + 1].T @ solved[i + 1]
        solved[i] = cho_solve(factors[i], right)
    if not g:
        return b, solved[..., -1]
    inner = np.einsum("mog,moh->gh", border, solved)
    x = np.linalg.solve(H - inner[:, :g], b - inner[:, g])
    return x, solved[..., g] - solved[..., :g] @ x


def _weak_perspective(
    pixels: Float64[np.ndarray, "p 2"],
    model: Float64[np.ndarray, "p 3"],
    weight: Float64[np.ndarray, "p"],
) -> tuple[Float64[np.ndarray, "3 3"], float, Float64[np.ndarray, "2"]]:
    """Return R, s, c such that pixels are nearly s R[:2] X + c.

    Source: DeMenthon and Davis, Model-Based Object Pose in 25 Lines of Code, IJCV 1995; the
    nearest rotation by singular values instead of their normalised rows.
    """
    w = weight[:, None]
    system = np.concatenate([model, np.ones((len(model), 1))], axis=1)
    solution = np.linalg.lstsq(system * w, pixels * w, rcond=None)[0]
    U, S, Vt = np.linalg.svd(solution[:3].T, full_matrices=False)
    if not S[1] > 1e-3 * S[0]:
        raise CameraError("The points of a picture fall on one line.", "Leave this picture out.")
    rows = U @ Vt
    return np.stack([rows[0], rows[1], np.cross(rows[0], rows[1])]), float(S.mean()), solution[3]
