"""How a head turned between pictures, told by what its skin looks like in them.

A network sees where the points of the head are in each picture by itself, and is wrong by a degree
or two, in another way in each. All matches of skin (`pipeline.tracking.skin`) are solved together
for the poses, and for the shape that a turn makes visible: the person's identity, and how far skin
is off the mesh along its normals.

Letters: n pictures, p places on the skin, k numbers of identity, v vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float32, Float64
from scipy.spatial.transform import Rotation

from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.perception.points import CloseUp
from pipeline.render.cpu.threads import run, thread_count
from pipeline.tracking.bundle import POSE, spins
from pipeline.tracking.skin import ROBUST, Match, Rows, Skin, SkinConfig, choose, hung, solve

TIED = 100.0
"""Weight of the mean of all pictures' poses against that of one."""


@dataclass(frozen=True)
class TextureConfig:
    """What is believed beforehand; widths are standard deviations."""

    skin: SkinConfig = field(default_factory=SkinConfig)
    rounds: int = 3
    identity: float = 0.5
    """Of the numbers of identity, about those that were fitted."""
    off: float = 0.003
    """Of skin off the mesh, metres."""


def align(
    pictures: Sequence[CloseUp],
    mesh: TrackedMesh,
    cameras: Sequence[Camera],
    told: Float64[np.ndarray, "n 6 6"],
    basis: Float32[np.ndarray, "k v 3"],
    config: TextureConfig = TextureConfig(),
) -> list[Camera]:
    """Turn and shift cameras so that skin agrees between pictures.

    Args:
        pictures: Of one head.
        mesh: Of the MakeHuman head, as it was fitted to each of them.
        cameras: Of the pictures, from the head frame, as they were fitted.
        told: Inverse covariance of each one's pose: a turn in the camera's axes, metres aside, and
            the logarithm of the distance.
        basis: How the control vertices move with the person's identity, metres; none if it is
            known.
        config: See there.

    Returns:
        Cameras of the pictures, from one head frame. Where nothing matches, as they were.
    """
    problem = _Problem(pictures, mesh, cameras, told, basis, config)
    keys, near = choose(problem.skin.R, mesh.posed, config.skin)
    problem.solve_keys(keys)
    problem.skin.draw(keys)
    rest = list(near.items())
    run(lambda n: problem.solve_one(*rest[n]), len(rest), thread_count())
    return problem.cameras()


class _Problem:
    def __init__(
        self,
        pictures: Sequence[CloseUp],
        mesh: TrackedMesh,
        cameras: Sequence[Camera],
        told: Float64[np.ndarray, "n 6 6"],
        basis: Float32[np.ndarray, "k v 3"],
        config: TextureConfig,
    ) -> None:
        self.config, self.whole, self.told = config, list(cameras), told
        self.skin = Skin(pictures, mesh, cameras, config.skin)
        self.before = self.skin.R.copy(), self.skin.t.copy()
        self.basis = hung(mesh, basis, config.skin)
        self.identity, self.off = np.zeros(len(basis)), np.zeros(len(self.skin.corners))

    def cameras(self) -> list[Camera]:
        """Return the cameras of the whole pictures."""
        out: list[Camera] = []
        for R, t, camera in zip(self.skin.R, self.skin.t, self.whole, strict=True):
            E = np.eye(4)
            E[:3, :3], E[:3, 3] = R, t
            out.append(Camera(torch.from_numpy(E).float(), camera.K, camera.width, camera.height))
        return out

    def solve_keys(self, keys: Sequence[int]) -> None:
        """Solve for the poses of some pictures, and for the shape."""
        row = {key: slice(POSE * n, POSE * n + POSE) for n, key in enumerate(keys)}
        for _ in range(self.config.rounds):
            near = [(k, i) for k in keys for i in keys if k != i and not self.skin.apart(k, i)]
            matches = self.skin.matches(near)
            if not matches:
                return
            self._solve_round(matches, row)

    def solve_one(self, i: int, keys: Sequence[int]) -> None:
        """Solve for the pose of one picture; those of some others, and the shape, are known."""
        config = self.config
        for _ in range(config.rounds - 1):
            matches = self.skin.matches([(k, i) for k in keys], threads=1)
            if not matches:
                break
            x = np.zeros(POSE)
            rows = [self._rows(one) for one in matches]
            slope = np.concatenate([pose[..., POSE:] for pose, _, _, _ in rows])
            r = np.concatenate(
                [miss + who @ self.identity + skin * self.off[one.places, None]
                 for one, (_, who, skin, miss) in zip(matches, rows, strict=True)]
            )  # fmt: skip
            for _ in range(ROBUST):
                weight = config.skin.weight(r + slope @ x)
                flat, right = (slope * weight[..., None]).reshape(-1, POSE), (r * weight).ravel()
                own = self.told[i]
                b = flat.T @ right + own @ self._gone(i)
                x = -np.linalg.solve(flat.T @ flat + own, b)
            self._move(i, x)
        self.skin.forget(i)

    def _solve_round(self, matches: Sequence[Match], row: dict[int, slice]) -> None:
        """Solve all matches, which are linear about the poses of now; skin is eliminated."""
        config, k = self.config, len(self.identity)
        size = POSE * len(row) + k
        who = np.arange(size - k, size)
        rows: list[Rows] = []
        for one in matches:
            pose, identity, off, miss = self._rows(one)
            columns = np.concatenate([np.r_[row[one.first], row[one.second]], who])
            slope = np.concatenate([pose, identity], -1)
            rows.append(Rows(columns, slope, off, miss, one.places))
        prior, right = np.zeros((size, size)), np.zeros(size)
        gone = np.array([self._gone(i) for i in row])
        for n, (i, columns) in enumerate(row.items()):
            prior[columns, columns] += self.told[i]
            right[columns] += self.told[i] @ gone[n]
        # Skin says how pictures differ, the points where the head is in all of them.
        tied = TIED * self.told[list(row)].mean(0)
        prior[: size - k, : size - k] += np.kron(np.ones((len(row), len(row))), tied)
        right[: size - k] += np.tile(tied @ gone.sum(0), len(row))
        prior[who, who] += config.identity**-2.0
        x, self.off = solve(rows, prior, right, np.full(len(self.off), config.off), config.skin)
        self.identity = x[size - k :]
        for i, columns in row.items():
            self._move(i, x[columns])

    def _gone(self, i: int) -> Float64[np.ndarray, "6"]:
        """Return how far a pose is from the one that was fitted."""
        R, t = (x[i] for x in self.before)
        turn = Rotation.from_matrix(self.skin.R[i] @ R.T).as_rotvec()
        shift = (self.skin.t[i] - t)[:2]
        return np.concatenate([turn, shift, [np.log(self.skin.t[i, 2] / t[2])]])

    def _move(self, i: int, x: Float64[np.ndarray, "6"]) -> None:
        R, t = self.skin.R[i], self.skin.t[i]
        turn = Rotation.from_rotvec(x[:3]).as_matrix()
        self.skin.move(i, turn @ R, t * np.exp(x[5]) + [x[3], x[4], 0])

    def _rows(self, one: Match) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of a match, in widths: the mesh moves in both pictures, skin agrees.

        Returns:
            Slopes by both poses [p, 2, 12], by identity [p, 2, k], by skin [p, 2]; misses [p, 2].
        """
        pose, identity, off = (
            (one.first_slope(a), one.second_slope(b))
            for a, b in zip(self._slopes(one, one.first), self._slopes(one, one.second))
        )
        return (
            np.concatenate(pose, -1),
            identity[0] + identity[1],
            (off[0] + off[1])[..., 0],
            one.miss,
        )

    def _slopes(self, one: Match, i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how pixels move with the pose, identity and skin in one of its pictures.

        A pose is a turn in the camera's axes, metres aside, and a factor of the distance.
        """
        seen = self.skin.project(i, one.places)
        arm = seen.points @ self.skin.R[i].T
        unit = np.eye(3)
        unit[:, 2] = self.skin.t[i]
        by_head = seen.slope @ self.skin.R[i]
        return (
            np.concatenate([seen.slope @ spins(arm), seen.slope @ unit], -1),
            by_head @ self.basis[one.places],
            by_head @ seen.normals[..., None],
        )
