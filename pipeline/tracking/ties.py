"""Where FLAME's surface has the points of the MakeHuman head: a table, made once for a file.

The MakeHuman head's mean face is laid over FLAME's: a similarity by the landmarks, then in rounds
its identity and a smooth warp, by the landmarks and by places of the surfaces that face each other.
Each point of the skin is tied to the place of FLAME's that it then lies on.

Letters: n control vertices of the MakeHuman head, p points, t triangles, k numbers of identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from scipy.interpolate import RBFInterpolator
from scipy.spatial import KDTree

from pipeline.core.errors import InputError
from pipeline.core.geometry import farthest_points
from pipeline.faces.flame import Flame, SurfaceTies
from pipeline.faces.heads import AROUND, head_model, visible
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import load_asset
from pipeline.tracking.align import Similarity, umeyama
from pipeline.tracking.models import identity_space

INNER = 17
"""First landmark that is not of the outline."""
ROUNDS = 8
FAR = (0.02, 0.006)
"""Metres that a place and its partner are apart at most, in the first round and in the last."""
FACING = 0.5
"""Cosine between their normals, at least."""
LANDMARK, OUTLINE, PLACE = 0.002, 0.006, 0.003
"""How far a landmark, one of the outline, and a place of the surface may be off, metres."""
KNOTS = 300
"""Places that bend the warp, beside the landmarks."""
STIFF = 2e-3
"""How far the warp may miss them: smoothing of the interpolation, metres."""
FLOOR = 0.001
"""No tie is surer than that, metres."""
SLIDE = 0.1
"""So many metres more a tie is unsure along the surface for each metre from a landmark: there shape
alone tells what belongs together."""
NEAREST = 24
"""Triangles by their middles, among which the nearest place is looked for."""
UNLIKE = 0.01
"""Landmarks that are so far off the mean face's, metres, are no face's."""
LEAST = 300
"""Fewer ties are no face's."""


def tie_surface(model: Flame) -> SurfaceTies:
    """Return where FLAME's surface has the skin of the MakeHuman head, both at rest.

    Args:
        model: Converted with its landmarks.

    Raises:
        InputError: If it has no landmarks, or these and the surface are not a face's.
    """
    remedy = "Give the owner's model, and landmark_embedding.npy of the same FLAME."
    if model.embedding is None:
        raise InputError("This FLAME has no landmarks, by which it is tied to another.", remedy)
    skin = _Skin()
    marks = model.embedding.on(model.template).double().numpy()
    ours = skin.marks(skin.mean)
    moved = umeyama(marks[INNER:], ours[INNER:])
    if moved is None:
        raise InputError("The landmarks of this FLAME lie on a line.", remedy)
    off = float(np.sqrt(((moved(marks) - ours)[INNER:] ** 2).sum(1).mean()))
    if off > UNLIKE:
        raise InputError(
            f"The landmarks of this FLAME are {1000 * off:.0f} mm off those of a face.", remedy
        )
    laid = _laid(skin, _Places(model, moved), moved(marks))
    found, good = laid.found, laid.good
    if good.sum() < LEAST:
        raise InputError(
            f"Only {int(good.sum())} places of this FLAME's surface are where a head's are.", remedy
        )
    ties = SurfaceTies(
        head_model(MAKEHUMAN).topology,
        torch.zeros(len(skin.mean), 3, dtype=torch.int64),
        torch.zeros(len(skin.mean), 3),
        torch.full((len(skin.mean),), torch.inf),
    )
    ids = skin.ids[good]
    ties.corners[ids] = torch.from_numpy(found.corners[good])
    ties.shares[ids] = torch.from_numpy(found.shares[good]).float()
    beyond, _ = KDTree(skin.marks(skin.mean)).query(skin.mean[ids])
    sigma = np.linalg.norm([np.full(len(ids), FLOOR), laid.apart[good], SLIDE * beyond], axis=0)
    # FLAME's own metres may be others than those of the head that it was laid over.
    ties.sigma[ids] = torch.from_numpy(sigma / moved.scale).float()
    return ties


class _Skin:
    """The MakeHuman head's smooth skin where control vertices are, as far as it can be seen."""

    def __init__(self) -> None:
        asset, head = load_asset(), head_model(MAKEHUMAN)
        mean, basis = identity_space()
        smooth = asset.smooth[: len(mean)]
        self.mean = np.asarray(smooth @ mean, float)
        self.basis = np.stack([smooth @ one for one in basis], -1).astype(float)
        whole = head.surface(mean, mean)
        seen = visible(whole, head.faces, AROUND)
        self.ids: Int64[np.ndarray, "p"] = seen[seen < head.controls].astype(np.int64)
        self.normals = normals_of(whole, asset.skin.faces)[self.ids]
        self._landmarks = asset.landmarks

    def marks(self, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "68 3"]:
        """Return the landmarks among all points."""
        return points[self._landmarks]

    def shaped(self, identity: Float64[np.ndarray, "k"]) -> Float64[np.ndarray, "n 3"]:
        """Return the points of a person."""
        return self.mean + self.basis @ identity


@dataclass(frozen=True)
class _Nearest:
    """The places of a surface that are nearest to some points."""

    corners: Int64[np.ndarray, "p 3"]
    shares: Float64[np.ndarray, "p 3"]
    places: Float64[np.ndarray, "p 3"]
    normals: Float64[np.ndarray, "p 3"]
    rim: Bool[np.ndarray, "p"]
    """On the edge of the surface: what is nearest there is beyond it."""


class _Places:
    """FLAME's surface without its eyeballs, moved by a similarity."""

    def __init__(self, model: Flame, moved: Similarity) -> None:
        eyes = model.weights[:, 3:].sum(1) > 0.5
        self._faces = model.faces[~eyes[model.faces].any(1)].numpy()
        self._vertices = moved(model.template.double().numpy())
        at = self._vertices[self._faces]
        self._tree = KDTree(at.mean(1))
        normals = np.cross(at[:, 1] - at[:, 0], at[:, 2] - at[:, 0])
        self._normals = normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
        edges = np.sort(self._faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
        pairs, count = np.unique(edges, axis=0, return_counts=True)
        self._rim = np.zeros(len(self._vertices), bool)
        self._rim[pairs[count == 1]] = True

    def nearest(self, points: Float64[np.ndarray, "p 3"]) -> _Nearest:
        """Return the nearest place to each point."""
        near = np.asarray(self._tree.query(points, min(NEAREST, len(self._faces)))[1])
        shares = _shares(points[:, None], self._vertices[self._faces[near]])
        places = np.einsum("ptc,ptcx->ptx", shares, self._vertices[self._faces[near]])
        best = np.linalg.norm(places - points[:, None], axis=-1).argmin(1)
        row = np.arange(len(points))
        triangle, shares = near[row, best], shares[row, best]
        corners = self._faces[triangle]
        rim = np.asarray((self._rim[corners] | (shares < 1e-6)).all(1))
        return _Nearest(corners, shares, places[row, best], self._normals[triangle], rim)


def _shares(
    points: Float64[np.ndarray, "p 1 3"], at: Float64[np.ndarray, "p t 3 3"]
) -> Float64[np.ndarray, "p t 3"]:
    """Return the shares of the corners in the place of each triangle that is nearest to a point."""
    a, b, c = (at[..., i, :] for i in range(3))
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = ((x * y).sum(-1) for x, y in ((u, u), (u, v), (v, v)))
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    area = (uu * vv - uv * uv).clip(1e-18)
    s, t = (vv * wu - uv * wv) / area, (uu * wv - uv * wu) / area
    inner = np.stack([1 - s - t, s, t], -1)
    found, best = inner, np.where((inner >= 0).all(-1), 0.0, np.inf)
    for i in range(3):  # outside of a triangle, the nearest place is on an edge
        j = (i + 1) % 3
        edge = at[..., j, :] - at[..., i, :]
        along = ((points - at[..., i, :]) * edge).sum(-1) / (edge**2).sum(-1).clip(1e-18)
        along = along.clip(0, 1)
        off = ((at[..., i, :] + along[..., None] * edge - points) ** 2).sum(-1)
        on = np.zeros_like(inner)
        on[..., i], on[..., j] = 1 - along, along
        nearer = off < best
        found, best = np.where(nearer[..., None], on, found), np.where(nearer, off, best)
    return found


def normals_of(
    vertices: Float32[np.ndarray, "s 3"], faces: Int32[np.ndarray, "t 3"]
) -> Float64[np.ndarray, "s 3"]:
    """Return the outward normals of a surface at its vertices."""
    a, b, c = vertices[faces].astype(float).transpose(1, 0, 2)
    out = np.zeros(vertices.shape)
    np.add.at(out, faces.ravel(), np.repeat(np.cross(b - a, c - a), 3, 0))
    return out / np.linalg.norm(out, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True)
class _Laid:
    """The MakeHuman head's visible points as they lie over another surface."""

    found: _Nearest
    apart: Float64[np.ndarray, "p"]
    """How far each is from the surface, metres."""
    good: Bool[np.ndarray, "p"]


def _laid(skin: _Skin, places: _Places, marks: Float64[np.ndarray, "68 3"]) -> _Laid:
    """Lay the MakeHuman head over another surface, whose landmarks are given."""
    first, *rest = np.geomspace(*FAR, ROUNDS).tolist()
    laid = _closer(skin, places, marks, None, first)
    for far in rest:
        laid = _closer(skin, places, marks, laid, far)
    return laid


def _closer(
    skin: _Skin,
    places: _Places,
    marks: Float64[np.ndarray, "68 3"],
    last: _Laid | None,
    far: float,
) -> _Laid:
    """Fit identity and warp to the landmarks and to the good places of the round before."""
    ids = skin.ids[:0] if last is None else skin.ids[last.good]
    there = np.zeros((0, 3)) if last is None else last.found.places[last.good]
    width = np.where(np.arange(len(marks)) < INNER, OUTLINE, LANDMARK)
    # Places of one surface say much the same: all of them as much as the landmarks.
    many = np.full(len(ids), PLACE * np.sqrt(max(len(ids) / len(marks), 1.0)))
    identity = _ridge(
        np.concatenate([skin.marks(skin.basis), skin.basis[ids]]),
        np.concatenate([marks - skin.marks(skin.mean), there - skin.mean[ids]]),
        np.concatenate([width, many]),
    )
    shaped = skin.shaped(identity)
    knots = _knots(shaped[ids])
    at = np.concatenate([skin.marks(shaped), shaped[ids][knots]])
    to = np.concatenate([marks, there[knots]])
    stiff = STIFF * (np.concatenate([width, np.full(len(knots), PLACE)]) / PLACE) ** 2
    # Of a linear kernel, what is beyond the knots moves as they do, and no further.
    warp = RBFInterpolator(
        at, to - at, kernel="linear", degree=0,
        smoothing=stiff,  # pyright: ignore[reportArgumentType]  one for each is as good
    )  # fmt: skip
    points = shaped[skin.ids] + warp(shaped[skin.ids])
    found = places.nearest(points)
    apart = np.linalg.norm(found.places - points, axis=1)
    facing = (found.normals * skin.normals).sum(1)
    return _Laid(found, apart, (apart < far) & (facing > FACING) & ~found.rim)


def _ridge(
    ways: Float64[np.ndarray, "p 3 k"],
    wanted: Float64[np.ndarray, "p 3"],
    width: Float64[np.ndarray, "p"],
) -> Float64[np.ndarray, "k"]:
    """Return numbers of variance one by which points go where they are wanted."""
    J = (ways / width[:, None, None]).reshape(-1, ways.shape[-1])
    return np.linalg.solve(J.T @ J + np.eye(J.shape[1]), J.T @ (wanted / width[:, None]).ravel())


def _knots(points: Float64[np.ndarray, "p 3"]) -> list[int]:
    """Choose some of the points, far from each other."""
    if not len(points):
        return []
    return farthest_points(torch.from_numpy(points), min(KNOTS, len(points)), 0)
