"""Skin as pictures show it: where the same places of a head are in several of them.

The mesh brings one picture into the pose of another, then small windows are moved until they agree
(`pipeline.tracking.windows`): that says to a fraction of a pixel where skin is that both show.

Letters: n pictures, p places on the skin, s side of a close-up, v control vertices.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from scipy.linalg import cho_factor, cho_solve
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import load_asset
from pipeline.perception.points import CloseUp
from pipeline.render.cpu.threads import run, thread_count
from pipeline.render.triangles import Drawn, draw_triangles
from pipeline.tracking.windows import REACH, carried, pyramid, search

LEAST = 12
"""Fewer matches say nothing."""
HIDDEN = 0.005
"""Metres behind what a picture shows from which a place is hidden."""
SOME = 16
"""Of so many control vertices one tells how unlike two expressions are."""
ROBUST = 3
"""Times that a linear system of matches is solved, each with the weights of the one before."""


@dataclass(frozen=True)
class SkinConfig:
    """What is compared, and how far it is believed; widths are standard deviations."""

    spacing: float = 0.012
    """Metres between places on the skin."""
    keys: int = 8
    """So many pictures are compared with each other; each other one with `nearest` of them."""
    nearest: int = 2
    apart: float = 90.0
    """Degrees between two pictures from which they are not compared."""
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
    cauchy: float = 2.0
    """Matches well beyond so many widths count for little."""

    def weight(self, miss: Float64[np.ndarray, "p 2"]) -> Float64[np.ndarray, "p 1"]:
        """Return what matches count that are off by so many widths."""
        far = (miss**2).sum(-1, keepdims=True)
        return 1 / np.sqrt(1 + far / self.cauchy**2)


@dataclass(frozen=True)
class Match:
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

    @property
    def miss(self) -> Float64[np.ndarray, "p 2"]:
        """How far the mesh is off, in widths."""
        return -np.einsum("pij,pj->pi", self.root, self.off)

    def first_slope(self, slope: Float64[np.ndarray, "p 2 k"]) -> Float64[np.ndarray, "p 2 k"]:
        """Return how the miss changes with what moves the pixels of the first picture."""
        return -(self.root @ (self.carry @ slope))

    def second_slope(self, slope: Float64[np.ndarray, "p 2 k"]) -> Float64[np.ndarray, "p 2 k"]:
        """Return how the miss changes with what moves the pixels of the second picture."""
        return self.root @ slope


@dataclass(frozen=True)
class Projection:
    """Places as a picture sees them."""

    pixels: Float64[np.ndarray, "p 2"]
    inside: Float64[np.ndarray, "p 3"]
    """In the camera, metres."""
    slope: Float64[np.ndarray, "p 2 3"]
    """Of the pixels, by metres in the camera."""
    points: Float64[np.ndarray, "p 3"]
    """On the head, metres."""
    normals: Float64[np.ndarray, "p 3"]


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


@dataclass(frozen=True)
class Rows:
    """A match, in widths: linear in some unknowns, and in how far skin is off the mesh."""

    columns: Int64[np.ndarray, "c"]
    """Which unknowns."""
    slope: Float64[np.ndarray, "p 2 c"]
    off: Float64[np.ndarray, "p 2"]
    """Slope by skin."""
    miss: Float64[np.ndarray, "p 2"]
    places: Int64[np.ndarray, "p"]


def solve(
    rows: Sequence[Rows],
    prior: Float64[np.ndarray, "u u"],
    right: Float64[np.ndarray, "u"],
    off: Float64[np.ndarray, "p"],
    config: SkinConfig,
) -> tuple[Float64[np.ndarray, "u"], Float64[np.ndarray, "p"]]:
    """Solve matches for their unknowns and for skin, which is eliminated.

    Args:
        rows: Of the matches.
        prior: Normal equations of what else is known of the unknowns.
        right: Their right side.
        off: Standard deviations of how far skin is off the mesh, metres.
        config: Says what matches count that are far off.

    Returns:
        The unknowns, and how far skin is off at each place, metres.
    """
    x, skin = np.zeros(len(right)), np.zeros(len(off))
    for _ in range(ROBUST):
        normal, b = prior.copy(), right.copy()
        by_skin, c, h = np.zeros((len(off), len(b))), np.zeros(len(off)), off**-2.0
        for one in rows:
            miss = one.miss + one.slope @ x[one.columns] + one.off * skin[one.places, None]
            weight = config.weight(miss)
            flat, g, r = one.slope * weight[..., None], one.off * weight, one.miss * weight
            tall = flat.reshape(-1, len(one.columns))
            normal[np.ix_(one.columns, one.columns)] += tall.T @ tall
            b[one.columns] += tall.T @ r.ravel()
            h[one.places] += (g * g).sum(1)
            c[one.places] += (g * r).sum(1)
            by_skin[one.places[:, None], one.columns] += np.einsum("pr,pri->pi", g, flat)
        normal -= by_skin.T @ (by_skin / h[:, None])
        x = -cho_solve(cho_factor(normal), b - by_skin.T @ (c / h))
        skin = -(c + by_skin @ x) / h
    return x, skin


class Skin:
    """The skin of one head in pictures of it.

    Args:
        pictures: Of the head.
        mesh: Of the MakeHuman head, as it was fitted to each of them.
        cameras: Of the pictures, from the head frame, as they were fitted.
        config: See there.
    """

    def __init__(
        self,
        pictures: Sequence[CloseUp],
        mesh: TrackedMesh,
        cameras: Sequence[Camera],
        config: SkinConfig,
    ) -> None:
        self.config, self.mesh, self._head = config, mesh, head_model(mesh.layout)
        self._grey = [pyramid(one.grey.astype(np.float32) / 255) for one in pictures]
        self.K = [
            one.camera(c).K.double().numpy() for one, c in zip(pictures, cameras, strict=True)
        ]
        E = np.stack([c.world_to_camera.double().numpy() for c in cameras])
        self.R, self.t = E[:, :3, :3].copy(), E[:, :3, 3].copy()
        self.corners = _places(config.spacing)
        self._rest = self._surface(mesh.neutral)
        self._shapes: dict[int, _Shape] = {}
        self._looks: dict[int, tuple[Drawn, Int64[np.ndarray, "p"]]] = {}

    def move(self, i: int, R: Float64[np.ndarray, "3 3"], t: Float64[np.ndarray, "3"]) -> None:
        """Put the camera of a picture elsewhere."""
        self.R[i], self.t[i] = R, t
        self._looks.pop(i, None)

    def forget(self, i: int) -> None:
        """Drop what is kept of a picture: a long video has many."""
        self._shapes.pop(i, None)
        self._looks.pop(i, None)

    def apart(self, k: int, i: int) -> bool:
        """Say whether two pictures look from too far apart to be compared."""
        turn = Rotation.from_matrix(self.R[k] @ self.R[i].T).magnitude()
        return bool(np.degrees(turn) >= self.config.apart)

    def project(self, i: int, places: Int64[np.ndarray, "p"]) -> Projection:
        """Return places as a picture sees them."""
        shape = self._shape(i)
        inside = shape.points[places] @ self.R[i].T + self.t[i]
        z, f, middle = inside[:, 2:], self.K[i][[0, 1], [0, 1]], self.K[i][:2, 2]
        P = np.zeros((len(z), 2, 3))
        P[:, [0, 1], [0, 1]] = f / z
        P[:, :, 2] = -inside[:, :2] / z**2 * f
        pixels = inside[:, :2] / z * f + middle
        return Projection(pixels, inside, P, shape.points[places], shape.normals[places])

    def draw(self, pictures: Iterable[int]) -> None:
        """Draw the mesh in some pictures, on all cores, for the matches to come."""
        shown = sorted(set(pictures))
        run(lambda n: self._look(shown[n]), len(shown), thread_count())

    def matches(self, pairs: Sequence[tuple[int, int]], threads: int | None = None) -> list[Match]:
        """Find what the first picture of each pair shows in the second.

        Pairs of which too little is seen in both are left out.

        Args:
            pairs: Of pictures.
            threads: All if not given; one where others look at other pictures meanwhile.
        """
        threads = threads or thread_count()
        if threads > 1:
            self.draw(i for pair in pairs for i in pair)
        found: list[Match | None] = [None] * len(pairs)

        def find(n: int) -> None:
            found[n] = self.match(*pairs[n])

        run(find, len(pairs), threads)
        return [one for one in found if one is not None]

    def match(self, k: int, i: int) -> Match | None:
        """Find what picture k shows in picture i; none if too little is seen in both."""
        config = self.config
        both = np.intersect1d(self._look(k)[1], self._look(i)[1], assume_unique=True)
        if len(both) < LEAST:
            return None
        seen = self.project(i, both)
        off, covariance, alike = search(*self._warped(k, i), self._grey[i], seen.pixels)
        good = (alike > config.alike) & (np.linalg.norm(off, axis=1) < config.farthest)
        good &= np.isfinite(covariance).all((1, 2))
        if good.sum() < LEAST:
            return None
        both, off, covariance = both[good], off[good], covariance[good]
        there = seen.slope[good] @ (self.R[i] @ self._shape(i).tangents[both].swapaxes(1, 2))
        here = self.project(k, both).slope @ (
            self.R[k] @ self._shape(k).tangents[both].swapaxes(1, 2)
        )
        change = np.linalg.norm(self._shape(k).motion[both] - self._shape(i).motion[both], axis=1)
        unsure = config.moved * change * self.K[i][0, 0] / seen.inside[good, 2]
        wide = (unsure**2 + config.floor**2)[:, None, None] * np.eye(2)
        root = inverse_root(config.together**2 * covariance + wide)
        return Match(k, i, both, off, there @ np.linalg.inv(here), root)

    def _look(self, i: int) -> tuple[Drawn, Int64[np.ndarray, "p"]]:
        """Return the mesh as a picture sees it, and the places that it shows."""
        if i not in self._looks:
            E, side = np.eye(4), len(self._grey[i][0])
            E[:3, :3], E[:3, 3] = self.R[i], self.t[i]
            camera = Camera(torch.from_numpy(E), torch.from_numpy(self.K[i]), side, side)
            drawn = draw_triangles(self._shape(i).surface, self._head.faces, camera)
            self._looks[i] = drawn, self._shown(i, drawn.depth)
        return self._looks[i]

    def _shown(self, i: int, depth: Float32[np.ndarray, "s s"]) -> Int64[np.ndarray, "p"]:
        seen = self.project(i, np.arange(len(self.corners)))
        pixels, inside = seen.pixels, seen.inside
        side = len(depth)
        column, row = np.floor(pixels).astype(int).T
        within = (np.minimum(column, row) >= REACH) & (np.maximum(column, row) < side - REACH)
        before = depth[row.clip(0, side - 1), column.clip(0, side - 1)]
        ray = -inside / np.linalg.norm(inside, axis=1, keepdims=True)
        facing = np.einsum("pc,pc->p", seen.normals @ self.R[i].T, ray)
        near = np.abs(before - inside[:, 2]) < HIDDEN
        return np.flatnonzero(within & near & (facing > self.config.facing))

    def _warped(self, k: int, i: int) -> tuple[Float32[np.ndarray, "s s"], Bool[np.ndarray, "s s"]]:
        """Return picture k as it looks in the pose of i, and where it is known."""
        drawn, depth = self._look(i)[0], self._look(k)[0].depth
        inside = self._shape(k).surface @ self.R[k].T + self.t[k]
        return carried(
            drawn.triangle, drawn.shares, self._head.faces, inside, self.K[k], self._grey[k][0],
            depth, HIDDEN,
        )  # fmt: skip

    def _surface(self, vertices: Float[np.ndarray, "v 3"]) -> Float32[np.ndarray, "s 3"]:
        return self._head.surface(vertices.astype(np.float32), self.mesh.neutral)

    def _shape(self, i: int) -> _Shape:
        if i not in self._shapes:
            surface = self._surface(self.mesh.posed[i])
            at = surface[self.corners].astype(float)
            tangents = at[:, 1:] - at[:, :1]
            normals = np.cross(tangents[:, 0], tangents[:, 1])
            normals /= np.linalg.norm(normals, axis=-1, keepdims=True).clip(1e-12)
            motion = at[:, 0] - self._rest[self.corners[:, 0]]
            self._shapes[i] = _Shape(surface, at[:, 0], tangents, normals, motion)
        return self._shapes[i]


def choose(
    turns: Float64[np.ndarray, "n 3 3"],
    posed: Float32[np.ndarray, "n v 3"],
    config: SkinConfig,
) -> tuple[list[int], dict[int, list[int]]]:
    """Return poses of a head that are unlike each other, and for all others the nearest of them.

    Args:
        turns: Of the head.
        posed: Its mesh.
        config: How many.
    """
    turned, n = Rotation.from_matrix(turns), len(turns)
    apart = np.degrees([(turned * one.inv()).magnitude() for one in turned])
    # An expression makes pictures unlike each other too: a centimetre counts as ten degrees.
    some = posed[:, ::SOME].reshape(n, -1)
    unlike = apart + 1000 * cdist(some, some) / np.sqrt(some.shape[1] / 3)
    keys = [int(unlike.sum(1).argmin())]
    while len(keys) < min(config.keys, n):
        keys.append(int(unlike[:, keys].min(1).argmax()))
    near: dict[int, list[int]] = {}
    for i in sorted(set(range(n)) - set(keys)):
        close = [k for k in keys if apart[i, k] < config.apart]
        near[i] = sorted(close, key=lambda k: unlike[i, k])[: config.nearest]
    return keys, near


def inverse_root(covariance: Float64[np.ndarray, "p 2 2"]) -> Float64[np.ndarray, "p 2 2"]:
    """Return roots of the inverses, of covariances too that are all but infinite one way."""
    size, axes = np.linalg.eigh(covariance)
    # What is lost beside a size of 1e16 may be negative.
    return axes.swapaxes(1, 2) / np.sqrt(size.clip(1e-16 * size[:, 1:]))[..., None]


def hung(
    mesh: TrackedMesh, ways: Float[np.ndarray, "k v 3"], config: SkinConfig
) -> Float64[np.ndarray, "p 3 k"]:
    """Return how the places on the skin move with control vertices, metres."""
    head, first = head_model(mesh.layout), _places(config.spacing)[:, 0]
    rest = head.surface(mesh.neutral, mesh.neutral)[first]
    moved = [
        head.surface((mesh.neutral + way).astype(np.float32), mesh.neutral)[first] - rest
        for way in ways
    ]
    none = np.zeros((len(first), 3))  # of no way at all, too
    return np.stack([*moved, none], -1)[..., : len(ways)].astype(float)


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
