"""Head models as a tracker sees them: identity and state of the face to landmarks and vertices.

Letters: t frames, k numbers of identity, e of expression, n vertices.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.core.errors import InputError, LayoutError
from pipeline.core.types import CODE_SIZE, ExpressionCode
from pipeline.faces import makehuman
from pipeline.faces.flame import Flame
from pipeline.faces.flame_fit import LAYOUT_OF
from pipeline.faces.heads import head_model, topology_of
from pipeline.faces.layouts import (
    ARKIT,
    BASIS_FILE,
    EXPRESSION_UNITS,
    EYELIDS,
    GAZE_DOWN,
    GAZE_SIDE,
    GAZE_UP,
    JAW,
    JAW_OPEN,
    JAW_SIDE,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    rot6d_from_matrix,
)
from pipeline.synthetic.people import sample_identity

SAMPLES, COMPONENTS = 300, 60
"""People that the MakeHuman identity space is made of, and its dimensions."""


@dataclass(frozen=True)
class FaceState:
    """What a face does in some frames. Rotation vectors in radians, head frame."""

    expression: Float[Tensor, "t e"]
    jaw: Float[Tensor, "t 3"]
    eyes: Float[Tensor, "t 2 3"]
    """Left, right."""
    eyelids: Float[Tensor, "t 2"]
    """Left, right; 1 is shut."""

    @staticmethod
    def neutral(expression_size: int) -> FaceState:
        """Return one frame at rest."""
        zero = torch.zeros
        return FaceState(zero(1, expression_size), zero(1, 3), zero(1, 2, 3), zero(1, 2))

    def __getitem__(self, index: slice) -> FaceState:
        """Select frames."""
        return FaceState(
            self.expression[index], self.jaw[index], self.eyes[index], self.eyelids[index]
        )

    def code(self, layout: str) -> ExpressionCode:
        """Return the 120 numbers of each frame [t, 120]."""
        values = torch.zeros(len(self.jaw), CODE_SIZE, dtype=torch.float64)
        values[:, : self.expression.shape[1]] = self.expression.double()
        values[:, JAW] = rot6d_from_matrix(rotation(self.jaw.double()))
        values[:, LEFT_EYE] = rot6d_from_matrix(rotation(self.eyes[:, 0].double()))
        values[:, RIGHT_EYE] = rot6d_from_matrix(rotation(self.eyes[:, 1].double()))
        values[:, EYELIDS] = self.eyelids.double()
        return ExpressionCode(values.float(), layout)


class FaceModel(Protocol):
    """A head that a tracker can fit; all numbers of identity and expression have variance one."""

    layout: str
    topology: str
    """Name of the vertices' order, as the head model of the layout has it."""
    identity_size: int
    expression_size: int
    has_eyelids: bool
    """Whether lids have shapes of their own, beside the expression."""

    def landmarks(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t 68 3"]:
        """Return the iBUG landmarks, head frame, metres; differentiable."""
        ...

    def vertices(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t n 3"]:
        """Return the whole face, head frame, metres."""
        ...

    def marks(self, vertices: Float[Tensor, "*t n 3"]) -> Float[Tensor, "*t 68 3"]:
        """Return the iBUG landmarks of a face whose vertices are given."""
        ...


class MakeHumanFace:
    """The MakeHuman head; its identity space is the principal directions of sampled people."""

    layout = MAKEHUMAN
    expression_size = len(EXPRESSION_UNITS)
    has_eyelids = True

    def __init__(self) -> None:
        self.topology = head_model(MAKEHUMAN).topology
        asset = makehuman.load_asset()
        mean, basis = identity_space()
        self.identity_size = len(basis)
        self._mean, self._basis = torch.from_numpy(mean), torch.from_numpy(basis)
        self._units = torch.from_numpy(asset.units)
        with np.load(BASIS_FILE) as file:
            self._backward = torch.from_numpy(file["backward"]).float()
        self._slots = torch.tensor([ARKIT[name] for name in EXPRESSION_UNITS])
        self._ids = torch.from_numpy(asset.landmarks.astype(np.int64))
        eyes = (asset.left_eye, asset.right_eye)
        self._eyes = [torch.from_numpy(ids.astype(np.int64)) for ids in eyes]

    def landmarks(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t 68 3"]:
        """Return the iBUG landmarks: none of them is on an eyeball."""
        ids = self._ids
        neutral = self._mean[ids] + torch.einsum("knc,k->nc", self._basis[:, ids], identity)
        return neutral + torch.einsum("unc,tu->tnc", self._units[:, ids], self._weights(state))

    def vertices(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t n 3"]:
        """Return the control vertices."""
        neutral = self._mean + torch.einsum("knc,k->nc", self._basis, identity)
        posed = neutral + torch.einsum("unc,tu->tnc", self._units, self._weights(state))
        for side, ids in enumerate(self._eyes):
            center = neutral[ids].mean(0)
            turned = (neutral[ids] - center) @ rotation(state.eyes[:, side]).mT + center
            posed[:, ids] = turned
        return posed

    def marks(self, vertices: Float[Tensor, "*t n 3"]) -> Float[Tensor, "*t 68 3"]:
        """Return the iBUG landmarks of a face whose vertices are given."""
        return vertices[..., self._ids, :]

    def _weights(self, state: FaceState) -> Float[Tensor, "t 52"]:
        """Return ARKit weights, as `code_to_arkit` does, differentiable."""
        columns = [torch.zeros(len(state.jaw))] * len(ARKIT)
        units = state.expression @ self._backward.T
        for i, slot in enumerate(self._slots.tolist()):
            columns[slot] = units[:, i]
        jaw, eyes = torch.rad2deg(state.jaw), torch.rad2deg(state.eyes)
        columns[ARKIT["jawOpen"]] = jaw[:, 0] / JAW_OPEN
        columns[ARKIT["jawLeft"]] = jaw[:, 1].clamp(min=0) / JAW_SIDE
        columns[ARKIT["jawRight"]] = (-jaw[:, 1]).clamp(min=0) / JAW_SIDE
        for side, name in enumerate(("Left", "Right")):
            pitch, yaw = eyes[:, side, 0], eyes[:, side, 1]
            out = yaw if name == "Left" else -yaw
            columns[ARKIT[f"eyeLookUp{name}"]] = (-pitch).clamp(min=0) / GAZE_UP
            columns[ARKIT[f"eyeLookDown{name}"]] = pitch.clamp(min=0) / GAZE_DOWN
            columns[ARKIT[f"eyeLookOut{name}"]] = out.clamp(min=0) / GAZE_SIDE
            columns[ARKIT[f"eyeLookIn{name}"]] = (-out).clamp(min=0) / GAZE_SIDE
            columns[ARKIT[f"eyeBlink{name}"]] = state.eyelids[:, side]
        return torch.stack(columns, 1)


class FlameFace:
    """A FLAME model that was converted with its landmarks.

    Args:
        model: Of version 2020 or 2023.
        identity_size: How many numbers of shape to fit.

    Raises:
        LayoutError: If the version has no layout of codes.
        InputError: If the landmarks are not known.
    """

    def __init__(self, model: Flame, identity_size: int = 100) -> None:
        if model.version not in LAYOUT_OF:
            raise LayoutError(
                f"FLAME {model.version} has no layout of expression codes.",
                f"Use FLAME {' or '.join(LAYOUT_OF)}.",
            )
        if model.embedding is None:
            raise InputError(
                "This FLAME model was converted without its landmarks, which a fit needs.",
                "Convert it again: fastgha flame convert ... --landmarks landmark_embedding.npy.",
            )
        self.layout = LAYOUT_OF[model.version]
        self.topology = topology_of(model.faces.numpy().astype(np.int32), len(model.template))
        self.identity_size, self.expression_size = identity_size, model.expressions.shape[-1]
        self.has_eyelids = model.eyelids is not None
        self.model, self._embedding, self._shares = model, model.embedding, model.embedding.shares
        ids, self._corners = torch.unique(model.embedding.corners, return_inverse=True)
        # A model of the landmarks' vertices alone; its joints come of the whole one.
        self._few = FewVertices(model, ids)

    def landmarks(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t 68 3"]:
        """Return the iBUG landmarks; those of the outline at fixed places of the surface."""
        vertices = self._few.vertices(identity, state)
        return (vertices[:, self._corners] * self._shares[..., None]).sum(-2)

    def vertices(self, identity: Float[Tensor, "k"], state: FaceState) -> Float[Tensor, "t n 3"]:
        """Return the whole face."""
        return pose_flame(self.model, identity, state)

    def marks(self, vertices: Float[Tensor, "*t n 3"]) -> Float[Tensor, "*t 68 3"]:
        """Return the iBUG landmarks of a face whose vertices are given."""
        return self._embedding.on(vertices)


class FewVertices:
    """Some of FLAME's vertices at the cost of some: joints are linear in the numbers too."""

    def __init__(self, model: Flame, ids: Int64[Tensor, "n"]) -> None:
        lids = None if model.eyelids is None else model.eyelids[:, ids]
        joints = [
            torch.einsum("jv,vc...->jc...", model.regressor, part)
            for part in (model.template, model.shapes, model.expressions)
        ]
        few = [part[ids] for part in (model.template, model.shapes, model.expressions)]
        whole = [torch.cat([a, b]) for a, b in zip(few, joints, strict=True)]
        n = len(ids)
        pick = torch.zeros(5, n + 5)
        pick[:, n:] = torch.eye(5)
        self._n = n
        self._model = Flame(
            version=model.version,
            template=whole[0],
            faces=model.faces,
            shapes=whole[1],
            expressions=whole[2],
            poses=torch.cat([model.poses[ids], torch.zeros(5, 3, 36)]),
            regressor=pick,
            weights=torch.cat([model.weights[ids], torch.eye(5)]),
            eyelids=None if lids is None else torch.cat([lids, torch.zeros(2, 5, 3)], 1),
        )

    def vertices(self, identity: Tensor, state: FaceState) -> Float[Tensor, "t n 3"]:
        """Return these vertices."""
        return pose_flame(self._model, identity, state)[:, : self._n]


def pose_flame(
    model: Flame, identity: Float[Tensor, "k"], state: FaceState
) -> Float[Tensor, "t n 3"]:
    """Return FLAME's vertices under states of the face, head frame, metres."""
    still = torch.eye(3).expand(len(state.jaw), 2, 3, 3)
    rotations = torch.cat([still, rotation(state.jaw)[:, None], rotation(state.eyes)], 1)
    lids = None if model.eyelids is None else state.eyelids
    shape = identity.expand(len(state.jaw), -1)
    return model.vertices(shape, state.expression, rotations, lids)


def rotation(vectors: Float[Tensor, "*t 3"]) -> Float[Tensor, "*t 3 3"]:
    """Return the rotations of rotation vectors, differentiable also at zero."""
    x, y, z = vectors.unbind(-1)
    o = torch.zeros_like(x)
    rows = [torch.stack(r, -1) for r in ((o, -z, y), (z, o, -x), (-y, x, o))]
    return torch.linalg.matrix_exp(torch.stack(rows, -2))


@functools.cache
def identity_space() -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of sampled neutral faces and their principal directions, variance one."""
    rng = np.random.default_rng(20260)
    faces = np.stack([makehuman.Head(sample_identity(rng)).neutral for _ in range(SAMPLES)])
    mean = faces.mean(0)
    _, size, rows = np.linalg.svd((faces - mean).reshape(SAMPLES, -1), full_matrices=False)
    basis = rows[:COMPONENTS] * (size[:COMPONENTS, None] / np.sqrt(SAMPLES - 1))
    return mean.astype(np.float32), basis.reshape(COMPONENTS, -1, 3).astype(np.float32)
