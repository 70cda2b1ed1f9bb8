"""Head models that guide a network: from a person's neutral mesh and a code to its posed surface.

A head model has control vertices, which trackers fit and shards hold, and a surface that hangs on
them linearly: skin, eyeballs, and what the model has of teeth and tongue.

Letters: m control vertices, s vertices of the surface, k triangles.
"""

from __future__ import annotations

import functools
import hashlib
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float32, Int32
from scipy.sparse import csr_matrix, vstack

from pipeline.core.errors import LayoutError, MissingWeightsError
from pipeline.core.types import ExpressionCode
from pipeline.faces import makehuman
from pipeline.faces.flame import Flame, load_flame
from pipeline.faces.layouts import (
    EXPRESSION,
    EYELIDS,
    FLAME2020,
    FLAME2023,
    JAW,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    matrix_from_rot6d,
    require_layout,
)
from pipeline.system import weights as places

PROXIES = ("eyes/highpolyeyes", "teeth/teeth_base", "tongue/tongue01")
"""What belongs to the surface of the MakeHuman head beside its skin."""
FLAME_FILES = {FLAME2020: "flame2020.npz", FLAME2023: "flame2023.npz"}
"""Where a converted FLAME model is looked for, in the folder of `fastgha weights`."""


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
        self.topology = topology_of(self.faces, m)

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


class FlameHead:
    """A FLAME model of a version that has codes; its surface is its mesh."""

    def __init__(self, model: Flame, layout: str) -> None:
        self.model, self.layout = model, layout
        self.faces = model.faces.numpy().astype(np.int32)
        self.topology = topology_of(self.faces, len(model.template))

    def posed(
        self, neutral: Float32[np.ndarray, "m 3"], code: ExpressionCode
    ) -> Float32[np.ndarray, "m 3"]:
        """Return a person's mesh under one expression; joints are those of its neutral."""
        require_layout(code, self.layout)
        values = code.values.detach().cpu()
        turns = torch.eye(3).repeat(5, 1, 1)
        for joint, part in ((2, JAW), (3, LEFT_EYE), (4, RIGHT_EYE)):
            turns[joint] = matrix_from_rot6d(values[part])
        posed = self.model.vertices(
            torch.zeros(0),
            values[EXPRESSION],
            turns,
            None if self.model.eyelids is None else values[EYELIDS],
            torch.from_numpy(neutral) - self.model.template,
        )
        return posed.numpy().astype(np.float32)

    def surface(
        self, vertices: Float32[np.ndarray, "m 3"], neutral: Float32[np.ndarray, "m 3"]
    ) -> Float32[np.ndarray, "s 3"]:
        """Return the vertices themselves."""
        return vertices


def _matrix(proxy: makehuman.Proxy, m: int) -> csr_matrix:
    """Return the weights of a proxy's vertices on the control mesh."""
    n = len(proxy.refs)
    rows = np.repeat(np.arange(n), 3)
    return csr_matrix((proxy.weights.ravel(), (rows, proxy.refs.ravel())), shape=(n, m))


def topology_of(faces: Int32[np.ndarray, "k 3"], m: int) -> str:
    """Return the name of the order of `m` control vertices under the triangles of a surface."""
    return hashlib.sha256(f"{m} ".encode() + faces.tobytes()).hexdigest()[:16]
