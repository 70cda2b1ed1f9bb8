"""Head models that guide a network: from a person's neutral mesh and a code to its posed surface.

A head model has control vertices, which trackers fit and shards hold, and a surface that hangs on
them linearly: skin, eyeballs, and what the model has of teeth and tongue.

Letters: m control vertices, s vertices of the surface, k triangles.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, fields, replace
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int32, Int64
from scipy.sparse import csr_matrix, vstack
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.core.errors import InputError, LayoutError, MissingWeightsError
from pipeline.core.geometry import farthest_points, look_at
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces import makehuman
from pipeline.faces.flame import Flame, load_flame
from pipeline.faces.layouts import (
    ARKIT_NAMES,
    EXPRESSION,
    EYELIDS,
    FLAME2020,
    FLAME2023,
    JAW,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    arkit_to_code,
    arkit_weights,
    matrix_from_rot6d,
    require_layout,
)
from pipeline.render.triangles import draw_triangles
from pipeline.system import weights as places

PROXIES = ("eyes/highpolyeyes", "teeth/teeth_base", "tongue/tongue01")
"""What belongs to the surface of the MakeHuman head beside its skin."""
PROXY_PARTS = ("eyes", "teeth", "tongue")
PARTS = ("skin", "eyes", "teeth", "tongue")
"""What the inner vertices of a head model can belong to."""
THINNED = {"skin": 2, "eyes": 1, "teeth": 3, "tongue": 1}
"""Of so many vertices, one is enough to hang a Gaussian on."""
LID_TRAVEL = 0.003
"""Metres that skin before the eyeball goes at least, when an eye shuts, to be a lid's."""
IRIS_BRIGHTNESS = 0.4
"""Darker vertices of an eyeball are iris and pupil."""
LID_AROUND = 0.03
"""Skin so far from a lid has about its colour, metres."""
CELL = 0.006
"""Metres between the points that cover a head."""
REGIONS = 32
"""Parts that those points are divided into."""
FINEST = 12
"""Parts that a triangle's edge is divided into at most to find them."""
CELLS_ABOVE = -0.145
"""Metres: what is lower on the mean head is cut off, see `pipeline.core.framing.NECK`."""
FROM_INSIDE = 0.003
"""Metres from what is inside of a head to its outer skin: lips and lids turn inwards there."""
FRONT = (-80, -50, -25, 0, 25, 50, 80)
AROUND = (*FRONT, -115, -150, 115, 150, 180)
"""Degrees of yaw that a head is looked at from."""
FLAME_FILES = {FLAME2020: "flame2020.npz", FLAME2023: "flame2023.npz"}
"""Where a converted FLAME model is looked for, in the folder of `fastgha weights`."""


@dataclass(frozen=True)
class Shade:
    """Inner vertices that have a colour of the person's own."""

    own: Bool[np.ndarray, "k"]
    shown: Int32[np.ndarray, "n"]
    """The vertices of the surface on which pictures show that colour."""
    share: float
    """So many of the pixels there are darker: a pixel of an iris shows white too, and the other way
    round, for a gaze is known to some degrees."""


@dataclass(frozen=True)
class Inner:
    """Vertices that pictures seldom see: what an open mouth shows, what lids unfold."""

    vertices: Int32[np.ndarray, "k"]
    parts: Int32[np.ndarray, "k"]
    """Numbers into `PARTS`."""
    places: Float32[np.ndarray, "k 3"]
    """Where they are on the mean head, metres: tells them apart for anybody."""
    colors: Float32[np.ndarray, "k 3"]
    """What they look like on most people, sRGB in [0, 1]: pupils, irises, teeth, gums."""
    lids: Bool[np.ndarray, "k"]
    """Which of them are the skin of lids."""
    shades: tuple[Shade, ...]
    """Lids first, then irises, whites, teeth and tongue."""


@dataclass(frozen=True)
class Cells:
    """Points that cover the outer skin of a head model evenly."""

    corners: Int32[np.ndarray, "c 3"]
    """Vertices of the surface between which each lies."""
    shares: Float32[np.ndarray, "c 3"]
    """Of those corners."""
    places: Float32[np.ndarray, "c 3"]
    """Where they are on the mean head, metres."""
    normals: Float32[np.ndarray, "c 3"]
    """Outwards from the mean head there."""
    regions: Int32[np.ndarray, "c"]
    """The number of the part of the head that each is in."""
    of_vertex: Int32[np.ndarray, "s"]
    """The point nearest to each vertex of the surface."""

    @property
    def vertices(self) -> Int32[np.ndarray, "c"]:
        """The vertex nearest to each point."""
        return np.take_along_axis(self.corners, self.shares.argmax(1)[:, None], 1)[:, 0]


class HeadModel(Protocol):
    """A head whose expressions are known for any person's neutral mesh. Head frame, metres."""

    @property
    def layout(self) -> str:
        """Which codes drive it."""
        ...

    @property
    def faces(self) -> Int32[np.ndarray, "k 3"]:
        """Triangles of the surface."""
        ...

    @property
    def topology(self) -> str:
        """A name of the control vertices' order: meshes of another cannot be taken for this."""
        ...

    @property
    def controls(self) -> int:
        """How many control vertices there are."""
        ...

    @property
    def interior(self) -> Inner:
        """Eyeballs, lids and the inside of the mouth; none where the model has none."""
        ...

    @property
    def cells(self) -> Cells:
        """Points that cover the skin from the neck up."""
        ...

    def posed(
        self, neutral: Float32[np.ndarray, "m 3"], code: ExpressionCode
    ) -> Float32[np.ndarray, "m 3"]:
        """Return a person's control vertices under one expression."""
        ...

    def surface(
        self, vertices: Float32[np.ndarray, "m 3"], neutral: Float32[np.ndarray, "m 3"]
    ) -> Float32[np.ndarray, "s 3"]:
        """Return the surface that hangs on a person's posed control vertices."""
        ...

    def rest(self, neutral: Float[Tensor, "m 3"]) -> Float[Tensor, "s 3"]:
        """Return the surface of a neutral mesh, on its device."""
        ...

    def landmarks(self, vertices: Float32[np.ndarray, "m 3"]) -> Float32[np.ndarray, "68 3"]:
        """Return the iBUG landmarks of a person's posed control vertices."""
        ...

    def displacement(
        self, neutral: Float[Tensor, "m 3"], code: Float[Tensor, "120"]
    ) -> Float[Tensor, "s 3"]:
        """Return how far an expression moves the surface, on the device of both, metres."""
        ...


@functools.cache
def head_model(layout: str) -> HeadModel:
    """Return the head model of a layout, made once in a process.

    Raises:
        LayoutError: If the layout has none.
        MissingWeightsError: If it is FLAME, which its owners give out, and not on this machine.
    """
    if layout == MAKEHUMAN:
        return MakeHumanHead()
    if layout not in FLAME_FILES:
        raise LayoutError(
            f"No head model is known for codes of {layout!r}.",
            f"Known: {', '.join((MAKEHUMAN, *FLAME_FILES))}.",
        )
    path = places.home() / FLAME_FILES[layout]
    if not path.is_file():
        raise MissingWeightsError(
            f"Meshes of {layout} need the FLAME model, which is not on this machine.",
            f"Register at flame.is.tue.mpg.de and run: fastgha flame convert FILE -o {path}",
        )
    return FlameHead(load_flame(path), layout)


@dataclass(frozen=True)
class _Tables:
    """What the surface of the MakeHuman head hangs on, on one device; r refs at most."""

    refs: Int64[Tensor, "s r"]
    shares: Float[Tensor, "s r"]
    offsets: Float[Tensor, "s 3"]
    units: Float[Tensor, "52 m 3"]
    scale_pairs: Int64[Tensor, "3 2"]
    eyes: tuple[Tensor, ...]

    def hang(self, vertices: Float[Tensor, "m 3"]) -> Float[Tensor, "s 3"]:
        """Return the mean of each surface vertex's control vertices, by their shares."""
        return torch.einsum("sr,src->sc", self.shares, vertices[self.refs])


class MakeHumanHead:
    """The head that comes with the package: smooth skin, eyes, teeth and tongue."""

    layout = MAKEHUMAN

    def __init__(self) -> None:
        asset = makehuman.load_asset()
        proxies = [asset.proxies[name] for name in PROXIES]
        m, skin = len(asset.mean), len(asset.skin.occlusion)
        self._hang = csr_matrix(vstack([asset.smooth, *(_matrix(proxy, m) for proxy in proxies)]))
        # What a proxy stands off its refs; it grows with the head.
        self._offsets = np.concatenate([np.zeros((skin, 3), np.float32)]
                                       + [proxy.offsets for proxy in proxies])  # fmt: skip
        starts = np.cumsum([skin, *(len(proxy.refs) for proxy in proxies)])
        faces = [asset.skin.faces] + [p.faces + at for p, at in zip(proxies, starts)]
        self.faces = np.ascontiguousarray(np.concatenate(faces).astype(np.int32))
        self.topology, self.controls = topology_of(self.faces, m), m
        self._mean, self._starts = asset.mean, starts
        self._tables: dict[torch.device, _Tables] = {}

    @property
    def interior(self) -> Inner:
        """Eyes, teeth, tongue, and the skin that hides among the teeth and above the eyes."""
        return self._interior

    @functools.cached_property
    def _interior(self) -> Inner:
        mean = self.surface(self._mean, self._mean)
        skin, *ends = self._starts.tolist()
        ranges = dict(zip(PROXY_PARTS, zip([skin, *ends], ends)))
        teeth = mean[slice(*ranges["teeth"])]
        inside = ((mean[:skin] > teeth.min(0)) & (mean[:skin] < teeth.max(0))).all(1)
        inside[visible(mean[:skin], self.faces[(self.faces < skin).all(1)])] = False
        found = {"skin": np.flatnonzero(inside)}
        found |= {name: np.arange(*ranges[name]) for name in PROXY_PARTS}
        found = {name: found[name][:: THINNED[name]].astype(np.int32) for name in PARTS}
        lid = self._lids(mean)
        found["skin"] = np.union1d(found["skin"], np.flatnonzero(lid)).astype(np.int32)
        parts = [np.full(len(found[name]), i, np.int32) for i, name in enumerate(PARTS)]
        vertices = np.concatenate(list(found.values()))
        colors = {part.name: makehuman.vertex_colors(part)
                  for part in makehuman.Head(makehuman.Identity()).parts(self._mean)
                  if part.name in PARTS}  # fmt: skip
        surface = np.concatenate([colors[name] for name in PARTS])
        lids = np.zeros(len(mean), np.bool_)
        lids[:skin] = lid
        near, _ = KDTree(mean[:skin][lid]).query(mean[:skin])
        around = np.flatnonzero(near < LID_AROUND).astype(np.int32)
        part, colors = np.concatenate(parts), surface[vertices]
        # Make-up and shadow of that one skin are nobody else's.
        colors[lids[vertices]] = np.median(colors[lids[vertices]], axis=0)
        eye = part == PARTS.index("eyes")
        iris = eye & (colors.mean(1) < IRIS_BRIGHTNESS)
        teeth, tongue = (part == PARTS.index(name) for name in ("teeth", "tongue"))
        groups = ((iris, 0.3), (eye & ~iris, 0.7), (teeth, 0.7), (tongue, 0.5))
        shades = (
            Shade(lids[vertices], around, 0.5),
            *(Shade(own, vertices[own], share) for own, share in groups),
        )
        return Inner(vertices, part, mean[vertices], colors, lids[vertices], shades)

    @property
    def cells(self) -> Cells:
        """Points that cover the skin from the neck up, but not lids and mouth's inside."""
        return self._cells

    @functools.cached_property
    def _cells(self) -> Cells:
        mean = self.surface(self._mean, self._mean)
        skin = self.faces[(self.faces < self._starts[0]).all(1)]
        inner = np.isin(skin, self.interior.vertices).any(1)
        return _cells(mean, self.faces, skin[~inner])

    def _lids(self, mean: Float32[np.ndarray, "s 3"]) -> Bool[np.ndarray, "n"]:
        """Tell which vertices of the skin are seen before the eyeballs when the eyes are shut."""
        skin, end = self._starts[:2].tolist()
        shut = torch.zeros(1, len(ARKIT_NAMES))
        shut[0, [ARKIT_NAMES.index(f"eyeBlink{side}") for side in ("Left", "Right")]] = 1
        code = arkit_to_code(shut.numpy())
        moved = self.displacement(torch.from_numpy(self._mean), code.values[0]).numpy()[:skin]
        posed = mean[:skin] + moved
        lid = np.zeros(skin, np.bool_)
        for side in (-1, 1):
            eye = mean[skin:end][mean[skin:end, 0] * side > 0]
            off = posed - eye.mean(0)
            radius = np.ptp(eye[:, 0]) / 2
            lid |= (np.linalg.norm(off[:, :2], axis=1) < radius) & (off[:, 2] > 0)
        seen = np.zeros(skin, np.bool_)
        seen[visible(posed, self.faces[(self.faces < skin).all(1)])] = True
        return lid & seen & (np.linalg.norm(moved, axis=1) > LID_TRAVEL)

    def posed(
        self, neutral: Float32[np.ndarray, "m 3"], code: ExpressionCode
    ) -> Float32[np.ndarray, "m 3"]:
        """Return a person's control vertices under one expression."""
        require_layout(code, self.layout)
        return makehuman.pose(neutral, code)

    def surface(
        self, vertices: Float32[np.ndarray, "m 3"], neutral: Float32[np.ndarray, "m 3"]
    ) -> Float32[np.ndarray, "s 3"]:
        """Return the surface that hangs on a person's posed control vertices."""
        placed = self._hang @ vertices + self._offsets * makehuman.head_scale(neutral)
        return placed.astype(np.float32)

    def landmarks(self, vertices: Float32[np.ndarray, "m 3"]) -> Float32[np.ndarray, "68 3"]:
        """Return the iBUG landmarks of a person's posed control vertices."""
        return vertices[makehuman.load_asset().landmarks]

    def rest(self, neutral: Float[Tensor, "m 3"]) -> Float[Tensor, "s 3"]:
        """Return the surface of a neutral mesh, on its device."""
        on = self._on(neutral.device)
        ends = neutral[on.scale_pairs]
        size = (ends[:, 0] - ends[:, 1]).diagonal().abs()
        return on.hang(neutral) + on.offsets * size

    def displacement(
        self, neutral: Float[Tensor, "m 3"], code: Float[Tensor, "120"]
    ) -> Float[Tensor, "s 3"]:
        """Return how far an expression moves the surface, on the device of both, metres."""
        on = self._on(neutral.device)
        with _all_digits(neutral.device):
            weights = arkit_weights(code)
            moved = torch.einsum("u,uvc->vc", weights, on.units)
            for part, ids in zip((LEFT_EYE, RIGHT_EYE), on.eyes):
                eye = neutral[ids]
                arms = eye - eye.mean(0)
                moved[ids] = arms @ matrix_from_rot6d(code[part]).to(arms).mT - arms
            return on.hang(moved)

    def _on(self, device: torch.device) -> _Tables:
        """Return what the surface hangs on, on a device."""
        if device not in self._tables:
            asset = makehuman.load_asset()
            counts = np.diff(self._hang.indptr)
            refs = np.zeros((len(counts), counts.max()), np.int64)
            shares = np.zeros(refs.shape, np.float32)
            there = np.arange(refs.shape[1]) < counts[:, None]
            refs[there], shares[there] = self._hang.indices, self._hang.data

            def on_device(x: np.ndarray) -> Tensor:
                return torch.from_numpy(np.ascontiguousarray(x)).to(device)

            self._tables[device] = _Tables(
                on_device(refs),
                on_device(shares),
                on_device(self._offsets),
                on_device(asset.units),
                on_device(asset.scale_pairs.astype(np.int64)),
                tuple(
                    on_device(np.asarray(ids, np.int64))
                    for ids in (asset.left_eye, asset.right_eye)
                ),
            )
        return self._tables[device]


class FlameHead:
    """A FLAME model of a version that has codes; its surface is its mesh."""

    def __init__(self, model: Flame, layout: str) -> None:
        self.model, self.layout = model, layout
        self.faces = model.faces.numpy().astype(np.int32)
        self.controls = len(model.template)
        self.topology = topology_of(self.faces, self.controls)
        none = np.zeros(0, np.int32)
        nowhere = np.zeros((0, 3), np.float32)
        self.interior = Inner(none, none, nowhere, nowhere, none.astype(np.bool_), ())
        self._models: dict[torch.device, Flame] = {}

    @property
    def cells(self) -> Cells:
        """Points that cover the mesh from the neck up."""
        return self._cells

    @functools.cached_property
    def _cells(self) -> Cells:
        return _cells(self.model.template.numpy().astype(np.float32), self.faces, self.faces)

    def posed(
        self, neutral: Float32[np.ndarray, "m 3"], code: ExpressionCode
    ) -> Float32[np.ndarray, "m 3"]:
        """Return a person's mesh under one expression; joints are those of its neutral."""
        require_layout(code, self.layout)
        values = code.values.detach().cpu()
        posed = _pose_flame(self.model, torch.from_numpy(neutral), values)
        return posed.numpy().astype(np.float32)

    def surface(
        self, vertices: Float32[np.ndarray, "m 3"], neutral: Float32[np.ndarray, "m 3"]
    ) -> Float32[np.ndarray, "s 3"]:
        """Return the vertices themselves."""
        return vertices

    def landmarks(self, vertices: Float32[np.ndarray, "m 3"]) -> Float32[np.ndarray, "68 3"]:
        """Return the iBUG landmarks of a person's posed vertices.

        Raises:
            InputError: If the model was converted without them.
        """
        if self.model.embedding is None:
            raise InputError(
                f"The FLAME model of {self.layout} was converted without its landmarks.",
                "Convert it again: fastgha flame convert ... --landmarks landmark_embedding.npy.",
            )
        return self.model.embedding.on(torch.from_numpy(vertices)).numpy()

    def rest(self, neutral: Float[Tensor, "m 3"]) -> Float[Tensor, "s 3"]:
        """Return the neutral mesh itself."""
        return neutral

    def displacement(
        self, neutral: Float[Tensor, "m 3"], code: Float[Tensor, "120"]
    ) -> Float[Tensor, "s 3"]:
        """Return how far an expression moves the surface, on the device of both, metres."""
        device = neutral.device
        if device not in self._models:
            moved = {
                field.name: value.to(device)
                for field in fields(self.model)
                if isinstance(value := getattr(self.model, field.name), Tensor)
            }
            self._models[device] = replace(self.model, **moved)
        with _all_digits(device):
            return _pose_flame(self._models[device], neutral, code.to(neutral)) - neutral


def _all_digits(device: torch.device) -> torch.autocast:
    """Return the context in which a network around a mesh does not round its millimetres."""
    return torch.autocast(device.type, enabled=False)


def _pose_flame(
    model: Flame, neutral: Float[Tensor, "m 3"], values: Float[Tensor, "120"]
) -> Float[Tensor, "m 3"]:
    turns = torch.eye(3).to(values).repeat(5, 1, 1)
    for joint, part in ((2, JAW), (3, LEFT_EYE), (4, RIGHT_EYE)):
        turns[joint] = matrix_from_rot6d(values[part])
    with torch.autocast(values.device.type, enabled=False):  # a mesh is exact whatever a network is
        return model.vertices(
            values[:0],
            values[EXPRESSION],
            turns,
            None if model.eyelids is None else values[EYELIDS],
            neutral - model.template,
        )


def visible(
    surface: Float32[np.ndarray, "s 3"],
    faces: Int32[np.ndarray, "k 3"],
    yaws: tuple[int, ...] = FRONT,
) -> Int32[np.ndarray, "n"]:
    """Return the vertices of the triangles of a head that are seen from some sides."""
    middle = torch.from_numpy(surface).double().mean(0)
    found: list[np.ndarray] = []
    for yaw in yaws:
        for pitch in (-40, -15, 15):
            turn = Rotation.from_euler("yx", [yaw, pitch], degrees=True).as_matrix()
            E = look_at(middle + torch.from_numpy(turn[:, 2]), middle)
            K = torch.tensor([[900.0, 0, 192], [0, 900, 192], [0, 0, 1]])
            drawn = draw_triangles(surface, faces, Camera(E.float(), K, 384, 384)).triangle
            found.append(np.unique(faces[np.unique(drawn[drawn >= 0])]))
    return np.unique(np.concatenate(found))


def _cells(
    mean: Float32[np.ndarray, "s 3"],
    surface: Int32[np.ndarray, "t 3"],
    faces: Int32[np.ndarray, "k 3"],
) -> Cells:
    """Cover those of some triangles of a mean head evenly that can be seen.

    Args:
        mean: Its surface, metres.
        surface: All triangles: eyeballs hide the skin behind them.
        faces: Those to cover.
    """
    seen = np.zeros(len(mean), np.bool_)
    seen[visible(mean, surface, AROUND)] = True
    inside = np.unique(faces[~seen[faces]])
    if len(inside):
        off, _ = KDTree(mean[inside]).query(mean)
        seen &= off > FROM_INSIDE
    faces = faces[(mean[faces, 1].mean(1) > CELLS_ABOVE) & seen[faces].all(1)]
    if not len(faces):
        none = np.zeros((0, 3), np.float32)
        return Cells(
            none.astype(np.int32), none, none, none, np.zeros(0, np.int32),
            np.zeros(len(mean), np.int32),
        )  # fmt: skip
    # A grid on each triangle as fine as the cells, of which each cell keeps one.
    longest = np.linalg.norm(mean[faces] - mean[faces][:, [1, 2, 0]], axis=2).max()
    steps = min(int(np.ceil(longest / CELL)), FINEST)
    i, j = np.mgrid[: steps + 1, : steps + 1]
    i, j = i[i + j <= steps], j[i + j <= steps]
    grid = (np.stack([i, j, steps - i - j], 1) / steps).astype(np.float32)
    corners = np.repeat(faces, len(grid), 0)
    shares = np.tile(grid, (len(faces), 1))
    places = np.einsum("ck,ckx->cx", shares, mean[corners])
    at = np.floor(places / CELL)
    off = np.linalg.norm(places / CELL - at - 0.5, axis=1)
    order = np.lexsort((off, *at.T))
    first = np.ones(len(order), np.bool_)
    first[1:] = (np.diff(at[order], axis=0) != 0).any(1)
    kept = np.sort(order[first])
    a, b, c = mean[faces].transpose(1, 0, 2)
    areas = np.zeros_like(mean)
    np.add.at(areas, faces.ravel(), np.repeat(np.cross(b - a, c - a), 3, 0))
    normals = np.einsum("ck,ckx->cx", shares[kept], areas[corners[kept]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-12)
    few = farthest_points(torch.from_numpy(places[kept]), min(REGIONS, len(kept)), 0)
    _, regions = KDTree(places[kept][few]).query(places[kept])
    _, of_vertex = KDTree(places[kept]).query(mean)
    return Cells(
        corners[kept],
        shares[kept],
        places[kept].astype(np.float32),
        normals.astype(np.float32),
        np.asarray(regions, np.int32),
        np.asarray(of_vertex, np.int32),
    )


def _matrix(proxy: makehuman.Proxy, m: int) -> csr_matrix:
    """Return the weights of a proxy's vertices on the control mesh."""
    n = len(proxy.refs)
    rows = np.repeat(np.arange(n), 3)
    return csr_matrix((proxy.weights.ravel(), (rows, proxy.refs.ravel())), shape=(n, m))


def topology_of(faces: Int32[np.ndarray, "k 3"], m: int) -> str:
    """Return the name of the order of `m` control vertices under the triangles of a surface."""
    return hashlib.sha256(f"{m} ".encode() + faces.tobytes()).hexdigest()[:16]
