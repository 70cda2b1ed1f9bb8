"""How a head turned between pictures, told by what its skin looks like in them.

A network sees where the points of the head are in each picture by itself, and is wrong by a degree
or two, in another way in each. Skin says to a fraction of a pixel where the same place is in
another picture: the mesh brings one picture into the pose of the other, then small windows are
moved until they agree (`pipeline.tracking.windows`). All such matches are solved together for the
poses, and for the shape that a turn makes visible: the person's identity, and how far skin is off
the mesh along its normals.

Letters: n pictures, p places on the skin, k numbers of identity, s side of a close-up, v vertices.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import load_asset
from pipeline.perception.points import CloseUp
from pipeline.render.triangles import Drawn, draw_triangles
from pipeline.tracking.bundle import POSE, spins
from pipeline.tracking.windows import REACH, carried, search

LEAST = 12
"""Fewer matches say nothing about a pose."""
HIDDEN = 0.005
"""Metres behind what a picture shows from which a place is hidden."""
SOME = 16
"""Of so many control vertices one tells how unlike two expressions are."""
TIED = 100.0
"""Weight of the mean of all pictures' poses against that of one."""


@dataclass(frozen=True)
class TextureConfig:
    """What is compared, and what is believed beforehand; widths are standard deviations."""

    spacing: float = 0.012
    """Metres between places on the skin."""
    keys: int = 8
    """So many pictures are compared with each other; each other one with `nearest` of them."""
    nearest: int = 2
    apart: float = 90.0
    """Degrees between two pictures from which they are not compared."""
    rounds: int = 3
    facing: float = 0.2
    """Cosine between skin and ray from which it is compared."""
    alike: float = 0.75
    """Correlation of two windows from which they show the same."""
    farthest: float = 12.0
    """Pixels that a window is moved at most."""
    floor: float = 0.3
    """Pixels that a match is off at least."""
    together: float = 3.0
    """Windows overlap, so their errors go together: so many times its own is each one's width."""
    moved: float = 0.3
    """Share of the mesh's motion between two pictures that it may be off."""
    turn: float = 0.04
    """Of a pose as it was fitted, radians."""
    aside: float = 0.006
    """Of its place, metres."""
    depth: float = 0.04
    """Of the logarithm of its distance."""
    identity: float = 0.5
    """Of the numbers of identity, about those that were fitted."""
    skin: float = 0.0015
    """Of skin off the mesh, metres."""
    cauchy: float = 2.0
    """Matches well beyond so many widths count for little."""


def align(
    pictures: Sequence[CloseUp],
    mesh: TrackedMesh,
    cameras: Sequence[Camera],
    basis: Float32[np.ndarray, "k v 3"],
    config: TextureConfig = TextureConfig(),
) -> list[Camera]:
    """Turn and shift cameras so that skin agrees between pictures.

    Args:
        pictures: Of one head.
        mesh: Of the MakeHuman head, as it was fitted to each of them.
        cameras: Of the pictures, from the head frame, as they were fitted.
        basis: How the control vertices move with the person's identity, metres; none if it is
            known.
        config: See there.

    Returns:
        Cameras of the pictures, from one head frame. Where nothing matches, as they were.
    """
    problem = _Problem(pictures, mesh, cameras, basis, config)
    keys, near = problem.choose()
    problem.solve_keys(keys)
    for i, of in near.items():
        problem.solve_one(i, of)
    return problem.cameras()


@dataclass(frozen=True)
class _Match:
    """Where places that one picture shows are in another."""

    first: int
    second: int
    places: Int64[np.ndarray, "p"]
    off: Float64[np.ndarray, "p 2"]
    """From the mesh's place in the second picture to where the first one's skin is, pixels."""
    carry: Float64[np.ndarray, "p 2 2"]
    """From small ways in the first to those in the second."""
    root: Float64[np.ndarray, "p 2 2"]
    """Root of the inverse covariance."""


@dataclass(frozen=True)
class _Slopes:
    """How the pixels of places move in one picture."""

    pose: Float64[np.ndarray, "p 2 6"]
    """By a turn in the camera's axes, metres aside, and a factor of the distance."""
    identity: Float64[np.ndarray, "p 2 k"]
    skin: Float64[np.ndarray, "p 2"]


@dataclass(frozen=True)
class _Shape:
    """The head as it is posed in one picture, metres, head frame."""

    surface: Float32[np.ndarray, "s 3"]
    points: Float64[np.ndarray, "p 3"]
    """The places."""
    tangents: Float64[np.ndarray, "p 2 3"]
    normals: Float64[np.ndarray, "p 3"]
    motion: Float64[np.ndarray, "p 3"]
    """From the neutral face."""


class _Problem:
    def __init__(
        self,
        pictures: Sequence[CloseUp],
        mesh: TrackedMesh,
        cameras: Sequence[Camera],
        basis: Float32[np.ndarray, "k v 3"],
        config: TextureConfig,
    ) -> None:
        self.config, self.mesh, self.head = config, mesh, head_model(mesh.layout)
        self.grey = [one.grey.astype(np.float32) / 255 for one in pictures]
        self.whole = list(cameras)
        self.K = [
            one.camera(c).K.double().numpy() for one, c in zip(pictures, cameras, strict=True)
        ]
        E = np.stack([c.world_to_camera.double().numpy() for c in cameras])
        self.R, self.t = E[:, :3, :3].copy(), E[:, :3, 3].copy()
        self.before = self.R.copy(), self.t.copy()
        self.corners = _places(config.spacing)
        self.rest = self._surface(mesh.neutral)
        hung = [(self._surface(mesh.neutral + b) - self.rest)[self.corners[:, 0]] for b in basis]
        none = np.zeros((len(self.corners), 3))
        self.basis = np.stack([*hung, none], -1)[..., : len(basis)]
        self.identity, self.skin = np.zeros(len(basis)), np.zeros(len(self.corners))
        self._shapes: dict[int, _Shape] = {}
        self._looks: dict[int, tuple[Drawn, Int64[np.ndarray, "p"]]] = {}

    def _surface(self, vertices: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "s 3"]:
        return self.head.surface(vertices, self.mesh.neutral)

    def _shape(self, i: int) -> _Shape:
        if i not in self._shapes:
            surface = self._surface(self.mesh.posed[i])
            at = surface[self.corners].astype(float)
            tangents = at[:, 1:] - at[:, :1]
            normals = np.cross(tangents[:, 0], tangents[:, 1])
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-12)
            motion = at[:, 0] - self.rest[self.corners[:, 0]]
            self._shapes[i] = _Shape(surface, at[:, 0], tangents, normals, motion)
        return self._shapes[i]

    def choose(self) -> tuple[list[int], dict[int, list[int]]]:
        """Return pictures that are unlike each other, and for all others the nearest of them."""
        turns, n = Rotation.from_matrix(self.R), len(self.R)
        apart = np.degrees([(turns * one.inv()).magnitude() for one in turns])
        # An expression makes pictures unlike each other too: a centimetre counts as ten degrees.
        some = (self.mesh.posed - self.mesh.neutral)[:, ::SOME].reshape(n, -1)
        unlike = apart + 1000 * cdist(some, some) / np.sqrt(some.shape[1] / 3)
        keys = [int(unlike.sum(1).argmin())]
        while len(keys) < min(self.config.keys, n):
            keys.append(int(unlike[:, keys].min(1).argmax()))
        near: dict[int, list[int]] = {}
        for i in sorted(set(range(n)) - set(keys)):
            close = [k for k in keys if apart[i, k] < self.config.apart]
            near[i] = sorted(close, key=lambda k: unlike[i, k])[: self.config.nearest]
        return keys, near

    def cameras(self) -> list[Camera]:
        """Return the cameras of the whole pictures."""
        out: list[Camera] = []
        for R, t, camera in zip(self.R, self.t, self.whole, strict=True):
            E = np.eye(4)
            E[:3, :3], E[:3, 3] = R, t
            out.append(Camera(torch.from_numpy(E).float(), camera.K, camera.width, camera.height))
        return out

    def solve_keys(self, keys: Sequence[int]) -> None:
        """Solve for the poses of some pictures, and for the shape."""
        row = {key: slice(POSE * n, POSE * n + POSE) for n, key in enumerate(keys)}
        for _ in range(self.config.rounds):
            near = [(k, i) for k in keys for i in keys if k != i and self._apart(k, i)]
            matches = [one for k, i in near if (one := self._match(k, i)) is not None]
            if not matches:
                return
            self._solve_round(matches, row)

    def solve_one(self, i: int, keys: Sequence[int]) -> None:
        """Solve for the pose of one picture; those of some others, and the shape, are known."""
        config = self.config
        for _ in range(config.rounds - 1):
            matches = [one for k in keys if (one := self._match(k, i)) is not None]
            if not matches:
                break
            x = np.zeros(POSE)
            rows = [self._rows(one) for one in matches]
            slope = np.concatenate([pose[..., POSE:] for pose, _, _, _ in rows])
            r = np.concatenate(
                [miss + who @ self.identity + skin * self.skin[one.places, None]
                 for one, (_, who, skin, miss) in zip(matches, rows, strict=True)]
            )  # fmt: skip
            for _ in range(4):
                weight = self._weight(r + slope @ x)
                flat, right = (slope * weight[..., None]).reshape(-1, POSE), (r * weight).ravel()
                own, off = self._believed(i)
                x = -np.linalg.solve(flat.T @ flat + np.diag(own), flat.T @ right + own * off)
            self._move(i, x)
        # A long video has many.
        self._shapes.pop(i, None)
        self._looks.pop(i, None)

    def _solve_round(self, matches: Sequence[_Match], row: dict[int, slice]) -> None:
        """Solve all matches, which are linear about the poses of now; skin is eliminated."""
        config, p, k = self.config, len(self.corners), len(self.identity)
        size = POSE * len(row) + k
        who = np.arange(size - k, size)
        rows = [self._rows(one) for one in matches]
        at = [np.concatenate([np.r_[row[one.first], row[one.second]], who]) for one in matches]
        x, skin = np.zeros(size), np.zeros(p)
        for _ in range(4):
            normal, b = np.zeros((size, size)), np.zeros(size)
            by_skin, c, h = np.zeros((p, size)), np.zeros(p), np.full(p, config.skin**-2.0)
            for one, (pose, identity, out, miss), columns in zip(matches, rows, at, strict=True):
                slope = np.concatenate([pose, identity], -1)
                weight = self._weight(miss + slope @ x[columns] + out * skin[one.places, None])
                flat, g, r = slope * weight[..., None], out * weight, miss * weight
                tall = flat.reshape(-1, len(columns))
                normal[np.ix_(columns, columns)] += tall.T @ tall
                b[columns] += tall.T @ r.ravel()
                h[one.places] += (g * g).sum(1)
                c[one.places] += (g * r).sum(1)
                by_skin[one.places[:, None], columns] += np.einsum("pr,pri->pi", g, flat)
            for i, columns in row.items():
                own, off = self._believed(i)
                normal[columns, columns] += np.diag(own)
                b[columns] += own * off
            # Skin says how pictures differ, the landmarks where the head is in all of them.
            own, off = (np.array(x) for x in zip(*[self._believed(i) for i in row], strict=True))
            tied = np.kron(np.ones((len(row), len(row))), np.diag(TIED * own[0]))
            normal[: POSE * len(row), : POSE * len(row)] += tied
            b[: POSE * len(row)] += np.tile(TIED * own[0] * off.sum(0), len(row))
            normal[who, who] += config.identity**-2.0
            normal -= by_skin.T @ (by_skin / h[:, None])
            b -= by_skin.T @ (c / h)
            x = -cho_solve(cho_factor(normal), b)
            skin = -(c + by_skin @ x) / h
        self.identity, self.skin = x[size - k :], skin
        for i, columns in row.items():
            self._move(i, x[columns])

    def _weight(self, miss: Float64[np.ndarray, "p 2"]) -> Float64[np.ndarray, "p 1"]:
        far = (miss**2).sum(-1, keepdims=True)
        return 1 / np.sqrt(1 + far / self.config.cauchy**2)

    def _believed(self, i: int) -> tuple[Float64[np.ndarray, "6"], Float64[np.ndarray, "6"]]:
        """Return inverse variances of a pose, and how far it is from the one that was fitted."""
        config = self.config
        width = np.array([*[config.turn] * 3, *[config.aside] * 2, config.depth])
        R, t = (x[i] for x in self.before)
        turn = Rotation.from_matrix(self.R[i] @ R.T).as_rotvec()
        shift = np.append((self.t[i] - t)[:2], np.log(self.t[i, 2] / t[2]))
        return width**-2.0, np.concatenate([turn, shift])

    def _move(self, i: int, x: Float64[np.ndarray, "6"]) -> None:
        self.R[i] = Rotation.from_rotvec(x[:3]).as_matrix() @ self.R[i]
        self.t[i] = self.t[i] * np.exp(x[5]) + [x[3], x[4], 0]
        self._looks.pop(i, None)

    def _apart(self, k: int, i: int) -> bool:
        turn = Rotation.from_matrix(self.R[k] @ self.R[i].T).magnitude()
        return bool(np.degrees(turn) < self.config.apart)

    def _rows(self, one: _Match) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows of a match, in widths: the mesh moves in both pictures, skin agrees.

        Returns:
            Slopes by both poses [p, 2, 12], by identity [p, 2, k], by skin [p, 2]; misses [p, 2].
        """
        first, second = self._slopes(one.first, one.places), self._slopes(one.second, one.places)
        root, carry = one.root, one.carry
        pose = np.concatenate([-carry @ first.pose, second.pose], -1)
        skin = second.skin - np.einsum("pij,pj->pi", carry, first.skin)
        return (
            root @ pose,
            root @ (second.identity - carry @ first.identity),
            np.einsum("pij,pj->pi", root, skin),
            -np.einsum("pij,pj->pi", root, one.off),
        )

    def _slopes(self, i: int, places: Int64[np.ndarray, "p"]) -> _Slopes:
        _, _, P = self._seen(i, places)
        arm = self._shape(i).points[places] @ self.R[i].T
        unit = np.eye(3)
        unit[:, 2] = self.t[i]
        by_head = P @ self.R[i]
        return _Slopes(
            np.concatenate([P @ spins(arm), P @ unit], -1),
            by_head @ self.basis[places],
            np.einsum("pij,pj->pi", by_head, self._shape(i).normals[places]),
        )

    def _seen(
        self, i: int, places: Int64[np.ndarray, "p"]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return places as pixels [p, 2], in the camera [p, 3], and slopes of pixels [p, 2, 3]."""
        inside = self._shape(i).points[places] @ self.R[i].T + self.t[i]
        z, f, middle = inside[:, 2:], self.K[i][[0, 1], [0, 1]], self.K[i][:2, 2]
        P = np.zeros((len(z), 2, 3))
        P[:, [0, 1], [0, 1]] = f / z
        P[:, :, 2] = -inside[:, :2] / z**2 * f
        return inside[:, :2] / z * f + middle, inside, P

    def _match(self, k: int, i: int) -> _Match | None:
        """Find what picture k shows in picture i; none if too little is seen in both."""
        config = self.config
        both = np.intersect1d(self._look(k)[1], self._look(i)[1], assume_unique=True)
        if len(both) < LEAST:
            return None
        pixels, inside, P = self._seen(i, both)
        off, covariance, alike = search(*self._warped(k, i), self.grey[i], pixels)
        good = (alike > config.alike) & (np.linalg.norm(off, axis=1) < config.farthest)
        good &= np.isfinite(covariance).all((1, 2))
        if good.sum() < LEAST:
            return None
        both, off, covariance = both[good], off[good], covariance[good]
        there = P[good] @ (self.R[i] @ self._shape(i).tangents[both].swapaxes(1, 2))
        here = self._seen(k, both)[2] @ (self.R[k] @ self._shape(k).tangents[both].swapaxes(1, 2))
        change = np.linalg.norm(self._shape(k).motion[both] - self._shape(i).motion[both], axis=1)
        unsure = config.moved * change * self.K[i][0, 0] / inside[good, 2]
        wide = (unsure**2 + config.floor**2)[:, None, None] * np.eye(2)
        root = np.linalg.cholesky(np.linalg.inv(config.together**2 * covariance + wide))
        return _Match(k, i, both, off, there @ np.linalg.inv(here), root.swapaxes(1, 2))

    def _look(self, i: int) -> tuple[Drawn, Int64[np.ndarray, "p"]]:
        """Return the mesh as a picture sees it, and the places that it shows."""
        if i not in self._looks:
            E, side = np.eye(4), len(self.grey[i])
            E[:3, :3], E[:3, 3] = self.R[i], self.t[i]
            camera = Camera(torch.from_numpy(E), torch.from_numpy(self.K[i]), side, side)
            drawn = draw_triangles(self._shape(i).surface, self.head.faces, camera)
            self._looks[i] = drawn, self._shown(i, drawn.depth)
        return self._looks[i]

    def _shown(self, i: int, depth: Float32[np.ndarray, "s s"]) -> Int64[np.ndarray, "p"]:
        pixels, inside, _ = self._seen(i, np.arange(len(self.corners)))
        side = len(depth)
        column, row = np.floor(pixels).astype(int).T
        within = (np.minimum(column, row) >= REACH) & (np.maximum(column, row) < side - REACH)
        before = depth[row.clip(0, side - 1), column.clip(0, side - 1)]
        ray = -inside / np.linalg.norm(inside, axis=1, keepdims=True)
        facing = np.einsum("pc,pc->p", self._shape(i).normals @ self.R[i].T, ray)
        near = np.abs(before - inside[:, 2]) < HIDDEN
        return np.flatnonzero(within & near & (facing > self.config.facing))

    def _warped(self, k: int, i: int) -> tuple[Float32[np.ndarray, "s s"], Bool[np.ndarray, "s s"]]:
        """Return picture k as it looks in the pose of i, and where it is known."""
        drawn, depth = self._look(i)[0], self._look(k)[0].depth
        inside = self._shape(k).surface @ self.R[k].T + self.t[k]
        return carried(
            drawn.triangle, drawn.shares, self.head.faces, inside, self.K[k], self.grey[k], depth,
            HIDDEN,
        )  # fmt: skip


@functools.cache
def _places(spacing: float) -> Int64[np.ndarray, "p 3"]:
    """Return triangles of the MakeHuman head's skin; their first corners are about so far apart."""
    asset = load_asset()
    head = head_model(MAKEHUMAN)
    skin = head.surface(asset.mean, asset.mean)[: len(asset.skin.occlusion)]
    corners = asset.skin.faces
    first = skin[corners[:, 0]]
    cells = np.floor(first / spacing).astype(int)
    nearest = np.argsort(np.linalg.norm(first - (cells + 0.5) * spacing, axis=1))
    _, chosen = np.unique(cells[nearest], axis=0, return_index=True)
    return corners[np.sort(nearest[chosen])].astype(np.int64)
