"""A tracked MakeHuman head carried to FLAME: the same face in FLAME's numbers and frame.

A table (`pipeline.tracking.ties`) says where FLAME's surface has the points of the MakeHuman head.
FLAME's identity, and how it sits in the frame of the tracked head, are those by which these places
lie on the person's neutral skin; each moment's expression, jaw and lids are those by which they
move as it does. What the two neutral faces differ by is thus no expression.

Letters: n control vertices of the MakeHuman head, p points, t moments, v vertices of FLAME,
k numbers of identity.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.core.geometry import farthest_points
from pipeline.faces.flame import Flame
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import load_asset
from pipeline.tracking.align import umeyama
from pipeline.tracking.bundle import spins
from pipeline.tracking.models import FaceState, FewVertices, FlameFace, pose_flame
from pipeline.tracking.refit import BATCH, Side, solve
from pipeline.tracking.ties import normals_of

SURFACE = 0.001
"""How far FLAME's surface may be from the person's skin, metres; along it the ties say."""
ALONE = 200
"""So many ties tell something of their own; more of them repeat it."""
MOVING = 0.0005
"""Metres that a place moves under some face unit, from which it tells the expression."""
CHOSEN = 500
"""Such places that are compared, beside the landmarks; far from each other."""
DENSE = 1.0
"""Weight of all of these beside that of all landmarks."""
STEPS = 6


@dataclass(frozen=True)
class Carried:
    """A person's face as FLAME has it; head frame of FLAME at rest, metres."""

    identity: Float64[np.ndarray, "k"]
    seat: Float64[np.ndarray, "4 4"]
    """From FLAME's head frame to that of the tracked head."""
    neutral: Float32[np.ndarray, "v 3"]
    posed: Float32[np.ndarray, "t v 3"]
    state: FaceState


class Carrier:
    """Carries tracked heads to a FLAME model.

    Args:
        face: FLAME.

    Raises:
        InputError: If the model was converted without its ties to the MakeHuman head, or with
            those to another version of it.
    """

    def __init__(self, face: FlameFace) -> None:
        self.face = face
        ties = face.model.ties
        if ties is None or ties.topology != head_model(MAKEHUMAN).topology:
            what = "without" if ties is None else "with an older version of"
            raise InputError(
                f"This FLAME model was converted {what} the table that our own fit needs.",
                "Convert it again: fastgha flame convert ... --landmarks landmark_embedding.npy.",
            )
        asset = load_asset()
        self._smooth = asset.smooth[: len(asset.mean)]
        self._ids = np.flatnonzero(torch.isfinite(ties.sigma).numpy())
        self._corners = ties.corners[self._ids].numpy()
        self._shares = ties.shares[self._ids].double().numpy()
        self._sigma = ties.sigma[self._ids].double().numpy()
        marks = np.flatnonzero(np.isin(self._ids, asset.landmarks))
        reach = np.linalg.norm(asset.units[:, self._ids], axis=-1).max(0)
        moving = np.setdiff1d(np.flatnonzero(reach > MOVING), marks)
        few = min(CHOSEN, len(moving))
        places = torch.from_numpy(asset.mean[self._ids[moving]])
        dense = moving[farthest_points(places, few, 0)] if few else moving
        self._telling: Int64[np.ndarray, "p"] = np.concatenate([marks, dense])
        each = DENSE * np.sqrt(len(marks) / max(few, 1))
        self._weights = np.concatenate([np.ones(len(marks)), np.full(few, each)])

    @torch.no_grad()
    def __call__(
        self,
        neutral: Float32[np.ndarray, "n 3"],
        posed: Float32[np.ndarray, "t n 3"],
        state: FaceState,
    ) -> Carried:
        """Carry a person and its moments.

        The identity depends on the neutral mesh alone: that of a known person is always the same.

        Args:
            neutral: Control vertices of the MakeHuman head at rest, its head frame, metres.
            posed: Likewise, at each moment.
            state: Of the MakeHuman head at each moment.
        """
        identity, seat = self._seated(neutral)
        model = self.face.model
        shape = torch.from_numpy(identity).float()
        whole = model.template + model.shapes[..., : len(shape)] @ shape
        # The person's own face: its numbers of shape are none.
        own = replace(model, template=whole, shapes=model.shapes[..., :0])
        none = torch.zeros(0)
        motion = np.stack([self._smooth @ (one - neutral) for one in posed])
        wanted = motion[:, self._ids[self._telling]] @ seat[:3, :3]
        found, _, _ = solve(state, torch.from_numpy(wanted).float(), self._side(own))
        moved = torch.cat(
            [pose_flame(own, none, found[i : i + BATCH]) for i in range(0, len(posed), BATCH)]
        )
        return Carried(identity, seat, whole.numpy(), moved.numpy(), found)

    def _seated(
        self, neutral: Float32[np.ndarray, "n 3"]
    ) -> tuple[Float64[np.ndarray, "k"], Float64[np.ndarray, "4 4"]]:
        """Return FLAME's identity, and the motion to the frame of the neutral mesh.

        Gauss-Newton on both: places may slide along the skin more than they may leave it.
        """
        model, k = self.face.model, self.face.identity_size
        target = (self._smooth @ neutral)[self._ids].astype(float)
        normals = normals_of(load_asset().smooth @ neutral, load_asset().skin.faces)[self._ids]
        mean = self._places(model.template.double().numpy()[..., None])[..., 0]
        basis = self._places(model.shapes[..., :k].double().numpy())
        start = umeyama(mean, target)
        assert start is not None  # ties of a face are on no line
        seat, identity = np.eye(4), np.zeros(k)
        seat[:3, :3] = start.R
        seat[:3, 3] = target.mean(0) - start.R @ mean.mean(0)
        repeated = np.sqrt(max(len(target) / ALONE, 1.0))
        across, along = 1 / (SURFACE * repeated), 1 / (self._sigma * repeated)
        outer = np.einsum("pi,pj->pij", normals, normals)
        root = along[:, None, None] * (np.eye(3) - outer) + across * outer
        for _ in range(STEPS):
            turned = (mean + basis @ identity) @ seat[:3, :3].T
            miss = np.einsum("pij,pj->pi", root, target - turned - seat[:3, 3]).ravel()
            ways = [seat[:3, :3] @ basis, spins(turned), np.tile(np.eye(3), (len(target), 1, 1))]
            J = (root @ np.concatenate(ways, -1)).reshape(-1, k + 6)
            prior = np.diag(np.append(np.ones(k), np.zeros(6)))
            right = J.T @ miss - np.append(identity, np.zeros(6))
            x = np.linalg.solve(J.T @ J + prior, right)
            identity = identity + x[:k]
            seat[:3, :3] = Rotation.from_rotvec(x[k : k + 3]).as_matrix() @ seat[:3, :3]
            seat[:3, 3] += x[k + 3 :]
        return identity, seat

    def _places(self, vertices: Float64[np.ndarray, "v 3 c"]) -> Float64[np.ndarray, "p 3 c"]:
        """Return what the ties take of some vertices."""
        return np.einsum("pk,pkxc->pxc", self._shares, vertices[self._corners])

    def _side(self, own: Flame) -> Side:
        """Return how the telling places of a person move with its face."""
        corners = torch.from_numpy(self._corners[self._telling])
        shares = torch.from_numpy(self._shares[self._telling]).float()[..., None]
        ids, at = torch.unique(corners, return_inverse=True)
        few, none = FewVertices(own, ids), torch.zeros(0)

        def places(state: FaceState) -> Tensor:
            return (few.vertices(none, state)[:, at] * shares).sum(-2)

        rest = places(FaceState.neutral(self.face.expression_size))
        return Side(
            lambda state: places(state) - rest, self.face.expression_size, self.face.has_eyelids,
            torch.from_numpy(self._weights).float(),
        )  # fmt: skip
