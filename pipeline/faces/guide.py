"""Mesh guidance: what a tracked mesh says about each pixel, and how Gaussians hang on it.

Letters: v views, h w size of the map, m control vertices, s vertices of the surface, n Gaussians.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int, Int64
from torch import Tensor

from pipeline.core.arrays import nearest_true
from pipeline.core.errors import ShapeError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.heads import HeadModel, head_model
from pipeline.render.triangles import draw_triangles

FADE = 0.03
"""Metres from the mesh at which its motion has faded to 1 / e."""


@dataclass(frozen=True)
class TrackedMesh:
    """A person's mesh as a tracker found it in some pictures. Head frame, metres.

    Raises:
        ShapeError: If the posed meshes are not of the neutral one's vertices.
    """

    layout: str
    """Of the head model's codes; says what the vertices are, see `pipeline.faces.heads`."""
    neutral: Float32[np.ndarray, "m 3"]
    """Without any expression."""
    posed: Float32[np.ndarray, "v m 3"]
    """In each picture, in the frame of that picture's camera matrix."""

    def __post_init__(self) -> None:
        if self.posed.ndim != 3 or self.posed.shape[1:] != self.neutral.shape:
            raise ShapeError(
                f"Posed meshes are {list(self.posed.shape)}, the neutral one "
                f"{list(self.neutral.shape)}.",
                "Give the same vertices of one person in all.",
            )

    def __getitem__(self, index: slice | Sequence[int]) -> TrackedMesh:
        """Select pictures."""
        return replace(self, posed=self.posed[index])

    def __len__(self) -> int:
        return len(self.posed)


@dataclass(frozen=True)
class Guide:
    """Where on the person's neutral mesh each pixel of some views looks."""

    canonical: Float[Tensor, "v 3 h w"]
    """The point of the neutral mesh that the pixel sees, head frame, metres. Where it sees no mesh:
    a point on its ray at the depth of the nearest pixel that does, moved as that one's."""
    coverage: Float[Tensor, "v 1 h w"]
    """1 where the pixel sees the mesh, else 0."""
    vertex: Int64[Tensor, "v h w"]
    """Vertex of the surface nearest to the point seen, or to that of the nearest pixel."""
    neutral: Float[Tensor, "m 3"]
    """The person's neutral control vertices."""
    layout: str

    def __len__(self) -> int:
        return len(self.canonical)

    def __getitem__(self, index: slice | Sequence[int]) -> Guide:
        """Select views."""
        return replace(
            self,
            canonical=self.canonical[index],
            coverage=self.coverage[index],
            vertex=self.vertex[index],
        )

    def to(self, device: torch.device | str) -> Guide:
        """Return the same guide on another device."""
        return replace(
            self,
            canonical=self.canonical.to(device),
            coverage=self.coverage.to(device),
            vertex=self.vertex.to(device),
            neutral=self.neutral.to(device),
        )


def draw_guide(mesh: TrackedMesh, camera: Camera, stride: int = 1) -> Guide:
    """Draw a tracked mesh as its cameras see it.

    Args:
        mesh: One posed mesh for each camera.
        camera: [v], of the pictures in which the mesh was found. An error of it that the mesh
            shares changes nothing.
        stride: Side of the block of pixels that one number of the maps stands for; what its
            middle sees counts.

    Raises:
        ShapeError: If there is not one camera for each mesh, or they are not of the head model.
    """
    head = head_model(mesh.layout)
    if len(mesh) != len(camera):
        raise ShapeError(
            f"{len(mesh)} posed meshes, {len(camera)} cameras.", "Give one mesh for each picture."
        )
    small = camera.resized(camera.width // stride, camera.height // stride)
    rest = head.surface(mesh.neutral, mesh.neutral)
    maps = [
        _draw(head.surface(posed, mesh.neutral), rest, head.faces, small[i])
        for i, posed in enumerate(mesh.posed)
    ]
    canonical, coverage, vertex = (torch.from_numpy(np.stack(x)) for x in zip(*maps, strict=True))
    neutral = torch.from_numpy(mesh.neutral)
    return Guide(canonical, coverage, vertex, neutral, mesh.layout)


def filled_depth(
    mesh: TrackedMesh, camera: Camera, head: HeadModel | None = None
) -> Float32[np.ndarray, "h w"]:
    """Return how far a tracked head is at each pixel of one picture, along the z axis, metres.

    Beyond the mesh, as in hair, the nearest pixel that sees it counts.

    Args:
        mesh: As posed in this picture alone.
        camera: Of the picture; no leading dimension.
        head: Model of the mesh; the one of its layout on this machine if not given.
    """
    head = head or head_model(mesh.layout)
    drawn = draw_triangles(head.surface(mesh.posed[0], mesh.neutral), head.faces, camera)
    (row, column), known = nearest_true(drawn.triangle >= 0)
    return np.where(known, drawn.depth[row, column], camera.world_to_camera.numpy()[2, 3])


def _draw(
    posed: Float32[np.ndarray, "s 3"],
    rest: Float32[np.ndarray, "s 3"],
    faces: Int[np.ndarray, "k 3"],
    camera: Camera,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    drawn = draw_triangles(posed, faces, camera)
    covered = drawn.triangle >= 0
    (row, column), seen = nearest_true(covered)  # none: points around the head's origin
    corners = faces[np.maximum(drawn.triangle, 0)]
    there, back = (np.einsum("hwk,hwkc->hwc", drawn.shares, at[corners]) for at in (posed, rest))
    moved = np.where(seen[..., None], (back - there)[row, column], 0.0)
    E = camera.world_to_camera.numpy()
    depth = np.where(seen, drawn.depth[row, column], E[2, 3])
    canonical = np.where(covered[..., None], back, _points(depth, camera) + moved)
    vertex = np.take_along_axis(corners, drawn.shares.argmax(-1)[..., None], -1)[..., 0]
    return (
        np.moveaxis(canonical, -1, 0).astype(np.float32),
        covered[None].astype(np.float32),
        vertex[row, column].astype(np.int64),
    )


def _points(depth: Float[np.ndarray, "h w"], camera: Camera) -> Float[np.ndarray, "h w 3"]:
    """Return the points of the head frame that pixels see at some depths along z."""
    h, w = depth.shape
    y, x = np.mgrid[:h, :w] + 0.5
    E, K = camera.world_to_camera.double().numpy(), camera.K.double().numpy()
    rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(K).T
    return (depth[..., None] * rays - E[:3, 3]) @ E[:3, :3]


@dataclass(frozen=True)
class Rig:
    """How Gaussians hang on a person's mesh, so that they go with it under any expression."""

    layout: str
    neutral: Float[Tensor, "m 3"]
    """Control vertices, head frame, metres."""
    vertex: Int64[Tensor, "n"]
    """Vertex of the surface that each Gaussian goes with."""
    weight: Float[Tensor, "n"]
    """Share of that vertex's displacement that it takes, in [0, 1]: it fades with distance, and is
    1 for those of the mesh itself."""

    @staticmethod
    def attach(guide: Guide, means: Float[Tensor, "n 3"], vertex: Int64[Tensor, "n"]) -> Rig:
        """Hang canonical Gaussians on the vertices whose surface their pixels saw."""
        rig = Rig(guide.layout, guide.neutral, vertex, torch.ones(len(means)).to(means))
        rest = rig._rest_of(means)
        distance = (means.detach() - rest[vertex]).norm(dim=1)
        return replace(rig, weight=torch.exp(-((distance / FADE) ** 2)))

    def displacement(self, code: Float[Tensor, "120"]) -> Float[Tensor, "n 3"]:
        """Return how far the mesh takes each Gaussian under a code of its layout, metres."""
        head = head_model(self.layout)
        if code.device.type == "cpu":
            neutral = self.neutral.numpy()
            wanted = ExpressionCode(code.detach().float(), self.layout)
            moved = head.surface(head.posed(neutral, wanted), neutral) - self._rest
            surface = torch.from_numpy(moved).to(self.weight)
        else:
            surface = head.displacement(self.neutral, code.detach().float()).to(self.weight)
        return surface[self.vertex] * self.weight[:, None]

    @cached_property
    def _rest(self) -> Float32[np.ndarray, "s 3"]:
        """The surface of the neutral mesh: the same for all frames."""
        neutral = self.neutral.numpy()
        return head_model(self.layout).surface(neutral, neutral)

    def to(self, device: torch.device | str) -> Rig:
        """Return the same rig on another device."""
        return replace(
            self,
            neutral=self.neutral.to(device),
            vertex=self.vertex.to(device),
            weight=self.weight.to(device),
        )

    @property
    def on_mesh(self) -> Bool[Tensor, "n"]:
        """Which Gaussians are the mesh's own, not a pixel's."""
        return self.weight == 1

    @property
    def places(self) -> Float[Tensor, "n 3"]:
        """Where on the neutral surface the Gaussians' vertices are, head frame, metres."""
        return self._rest_of(self.weight)[self.vertex]

    def _rest_of(self, like: Tensor) -> Float[Tensor, "s 3"]:
        """Return the surface of the neutral mesh where a tensor is, and in its type."""
        if like.device.type == "cpu":
            return torch.from_numpy(self._rest).to(like)
        return head_model(self.layout).rest(self.neutral.to(like))

    def __getitem__(self, index: slice | Tensor) -> Rig:
        """Select Gaussians by a slice, a mask or indices."""
        return replace(self, vertex=self.vertex[index], weight=self.weight[index])

    def __add__(self, more: Rig) -> Rig:
        """Return the Gaussians of both on the mesh of this one, which is also the other's."""
        vertex, weight = (
            torch.cat([a, b]) for a, b in ((self.vertex, more.vertex), (self.weight, more.weight))
        )
        return replace(self, vertex=vertex, weight=weight)
