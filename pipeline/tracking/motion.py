"""How a face moved between moments, told by what its skin looks like at them.

A network sees the expression of each moment by itself, and is wrong by a millimetre, in another way
at each. Matches of skin (`pipeline.tracking.skin`) say how far each place moved from one moment to
another; they are solved together with what the points told of all states and poses.

Letters: m moments, n pictures, p places on the skin, o own numbers of a moment: state, then pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.spatial.transform import Rotation

from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.perception.points import CloseUp
from pipeline.render.cpu.threads import run, thread_count
from pipeline.tracking.bundle import POSE, Bundle, spins
from pipeline.tracking.skin import ROBUST, Match, Rows, Skin, SkinConfig, choose, hung, solve
from pipeline.tracking.surface import STATE

TIED = 100.0
"""Weight of the mean of all moments' numbers against those of one."""
Pose = Callable[[Float64[np.ndarray, "m s"]], Float32[np.ndarray, "m v 3"]]
"""From states of the person's face to its control vertices."""


@dataclass(frozen=True)
class MotionConfig:
    """What is compared, and what is believed beforehand; widths are standard deviations."""

    skin: SkinConfig = field(default_factory=lambda: SkinConfig(keys=6, moved=0.05, together=2.0))
    rounds: int = 2
    views: int = 6
    """Cameras by which two moments are compared at most, the most frontal ones."""
    off: float = 0.006
    """Of skin off the mesh, metres."""


def align_moments(
    pictures: Sequence[CloseUp],
    moments: Sequence[int],
    views: Sequence[int],
    found: Bundle,
    pose: Pose,
    by_state: Float64[np.ndarray, "v 3 s"],
    config: MotionConfig = MotionConfig(),
) -> tuple[Float64[np.ndarray, "m s"], Float64[np.ndarray, "m 4 4"]]:
    """Change states and poses so that skin agrees between moments.

    Args:
        pictures: Of one head.
        moments: Of the pictures.
        views: Which camera of the rig took each. If none took two, all are compared with all.
        found: By their points; the cameras are a rig around the head.
        pose: Of the person's face.
        by_state: How the control vertices move with the numbers of a state, metres.
        config: See there.

    Returns:
        States, and poses from the head to the world. Where nothing matches, as they were.
    """
    problem = _Problem(pictures, moments, views, found, pose, by_state, config)
    for _ in range(config.rounds):
        problem.round()
    return problem.states, problem.poses


@dataclass(frozen=True)
class _Rows:
    """A match of two moments, linear in their numbers and in skin."""

    moments: tuple[int, int]
    slopes: tuple[Float64[np.ndarray, "p 2 o"], Float64[np.ndarray, "p 2 o"]]
    off: Float64[np.ndarray, "p 2"]
    """By skin."""
    miss: Float64[np.ndarray, "p 2"]
    places: Int64[np.ndarray, "p"]


class _Problem:
    def __init__(
        self,
        pictures: Sequence[CloseUp],
        moments: Sequence[int],
        views: Sequence[int],
        found: Bundle,
        pose: Pose,
        by_state: Float64[np.ndarray, "v 3 s"],
        config: MotionConfig,
    ) -> None:
        self.config, self.pictures, self.pose = config, pictures, pose
        self.moments = np.asarray(moments)
        self.states, self.poses = found.states.copy(), found.poses.copy()
        self.told, self.cameras = found.information, found.cameras
        self.m, self.own = self.told.shape[:2]
        self.change = np.zeros((self.m, self.own))
        """From what the points told."""
        self.step = np.zeros((self.m, self.own))
        """Of this round's solution."""
        self.off = np.zeros(0)
        """Of skin off the mesh at each place, metres."""
        self.rig = np.stack(
            [c.world_to_camera.double().numpy() @ np.linalg.inv(self.poses[i])
             for c, i in zip(self.cameras, moments, strict=True)]
        )  # fmt: skip
        self.neutral = pose(np.zeros((1, STATE)))[0]
        rest = TrackedMesh(MAKEHUMAN, self.neutral, self.neutral[None])
        self.moving = hung(rest, np.moveaxis(by_state, -1, 0), config.skin)
        self.views, self.fixed = np.asarray(views), len(set(views)) < len(views)

    def round(self) -> None:
        """Match with the faces of now, and solve: key moments together, each other one alone."""
        posed = self.pose(self.states)
        cameras: list[Camera] = []
        for i, camera in enumerate(self.cameras):
            E = torch.from_numpy(self.rig[i] @ self.poses[self.moments[i]]).float()
            cameras.append(Camera(E, camera.K, camera.width, camera.height))
        mesh = TrackedMesh(MAKEHUMAN, self.neutral, posed[self.moments])
        skin = Skin(self.pictures, mesh, cameras, self.config.skin)
        first = [int(np.argmax(self.moments == t)) for t in range(self.m)]
        # Where the cameras are given in the head frame, they turn and the head does not.
        turning = self.fixed and self.own > STATE
        turns = self.poses[:, :3, :3] if turning else skin.R[first]
        keys, near = choose(turns, posed, self.config.skin)
        both = [(a, b) for a in keys for b in keys if a < b]
        self.step[:], self.off = 0, np.zeros(len(self.moving))
        self._solve_keys(keys, self._rows(skin, both))
        skin.draw(np.flatnonzero(np.isin(self.moments, keys)).tolist())
        rest = list(near.items())

        def solve_one(n: int) -> None:
            t, of = rest[n]
            self._solve_one(t, self._rows(skin, [(a, t) for a in of], threads=1))
            for i in np.flatnonzero(self.moments == t):
                skin.forget(int(i))

        run(solve_one, len(rest), thread_count())

    def _rows(
        self,
        skin: Skin,
        both: Sequence[tuple[int, int]],
        threads: int | None = None,
    ) -> list[_Rows]:
        """Match the pictures of pairs of moments; threads as of `Skin.matches`."""
        pairs: list[tuple[int, int]] = []
        for a, b in both:
            of = [
                (k, i)
                for k in np.flatnonzero(self.moments == a).tolist()
                for i in np.flatnonzero(self.moments == b).tolist()
                if not (self.fixed and self.views[k] != self.views[i]) and not skin.apart(k, i)
            ]
            pairs += sorted(of, key=lambda pair: skin.R[pair[1]][2, 2])[: self.config.views]
        rows: list[_Rows] = []
        for match in skin.matches(pairs, threads):
            k, i = match.first, match.second
            (one, off), (other, more) = (self._slopes(skin, match, x) for x in (k, i))
            slopes = match.first_slope(one), match.second_slope(other)
            skins = match.first_slope(off) + match.second_slope(more)
            moments = int(self.moments[k]), int(self.moments[i])
            rows.append(_Rows(moments, slopes, skins[..., 0], match.miss, match.places))
        return rows

    def _slopes(
        self, skin: Skin, match: Match, i: int
    ) -> tuple[Float64[np.ndarray, "p 2 o"], Float64[np.ndarray, "p 2 1"]]:
        """Return how pixels move with a moment's numbers, and with skin, in a picture."""
        seen = skin.project(i, match.places)
        by_head, by_world = seen.slope @ skin.R[i], seen.slope @ self.rig[i, :3, :3]
        arm = seen.points @ self.poses[self.moments[i], :3, :3].T
        parts = [by_head @ self.moving[match.places], by_world @ spins(arm), by_world]
        return np.concatenate(parts, -1)[..., : self.own], by_head @ seen.normals[..., None]

    def _solve_keys(self, keys: Sequence[int], rows: Sequence[_Rows]) -> None:
        """Solve key moments, and skin, together."""
        if not rows:
            return
        own = self.own
        at = {key: np.arange(own) + own * n for n, key in enumerate(keys)}
        told, before = self.told[keys], self.change[keys]
        # Skin says how moments differ, the points what they have in common.
        tied = TIED * told.mean(0)
        prior = np.kron(np.ones((len(keys), len(keys))), tied)
        right = np.tile(tied @ before.sum(0), len(keys))
        for n, key in enumerate(keys):
            prior[np.ix_(at[key], at[key])] += told[n]
            right[at[key]] += told[n] @ before[n]
        both = [
            Rows(np.concatenate([at[t] for t in one.moments]), np.concatenate(one.slopes, -1),
                 one.off, one.miss, one.places)
            for one in rows
        ]  # fmt: skip
        width = np.full(len(self.off), self.config.off)
        x, self.off = solve(both, prior, right, width, self.config.skin)
        for key in keys:
            self._move(key, x[at[key]])

    def _solve_one(self, t: int, rows: Sequence[_Rows]) -> None:
        """Solve one moment; those that it is compared with, and skin, are known."""
        if not rows:
            return
        slope = np.concatenate([one.slopes[1] for one in rows])
        known = [
            one.slopes[0] @ self.step[one.moments[0]] + one.off * self.off[one.places, None]
            for one in rows
        ]
        miss = np.concatenate([one.miss + x for one, x in zip(rows, known, strict=True)])
        x = np.zeros(self.own)
        for _ in range(ROBUST):
            weight = self.config.skin.weight(miss + slope @ x)
            flat, right = (slope * weight[..., None]).reshape(-1, self.own), (miss * weight).ravel()
            b = flat.T @ right + self.told[t] @ self.change[t]
            x = -np.linalg.solve(flat.T @ flat + self.told[t], b)
        self._move(t, x)

    def _move(self, t: int, x: Float64[np.ndarray, "o"]) -> None:
        self.step[t] = x
        self.change[t] += x
        self.states[t] += x[:STATE]
        if self.own == STATE + POSE:
            turn = Rotation.from_rotvec(x[STATE : STATE + 3]).as_matrix()
            self.poses[t, :3, :3] = turn @ self.poses[t, :3, :3]
            self.poses[t, :3, 3] += x[STATE + 3 :]
