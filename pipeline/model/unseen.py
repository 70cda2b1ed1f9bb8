"""Gaussians of the sides that no picture shows: the back of the head, an ear, hair behind it.

Pixels make Gaussians where they see the head, and a head of one picture is a mask. So a guided
model covers the rest of the skin, and the hair that stands off it, by what the pictures show
nearest to it on either side, and over the whole head.

Letters: n Gaussians of the pixels, c cells of the skin, k of them unseen, r regions of cells,
f features.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.geometry import project
from pipeline.core.types import Camera, Gaussians, View
from pipeline.faces.guide import FADE, Guide, Rig
from pipeline.faces.heads import CELL, REGIONS, Cells, head_model
from pipeline.model.activate import CanonicalHead
from pipeline.model.blocks import full_precision

FREQUENCIES = 5
UNIT = 0.3
"""Metres on which the slowest wave of the encoding is half as long."""
WIDTH, PERSON = 128, 64
NEAR = 4
"""Seen cells of whose look an unseen one begins with the mean."""
CROWN = 0.01
"""Metres of height that weigh a cell e times as much in the colour of hair."""
HEIGHT, HIGHEST = 0.03, 0.1
"""What heights over the skin are told in, and the most, metres."""
REACH = 0.012
"""Metres that a Gaussian may be off from that height, along each axis."""
SIZE, SIZES = 0.0045, 0.7
"""Standard deviation at the start, metres, and how far its logarithm may be from there."""
FLAT = 0.25
"""How thick one is at the start: what lies round on a surface stands half out of it."""
ROUND = 0.09
"""Metres from the middle of a head to its skin: what stands off it is as much further apart."""
HUES = 2.0
"""How far a colour may be from the start's, logit."""
OPACITIES = 4.0
"""How far an opacity may be from a half, logit: what training left out it can bring back."""
EMPTY = 0.1
"""A matte less than this shows nothing."""


@dataclass(frozen=True)
class Hidden:
    """The cells of a person's skin that no picture shows, and what is known of them."""

    cells: Int64[Tensor, "k"]
    places: Float[Tensor, "k 3"]
    """On the person's neutral mesh, head frame, metres."""
    normals: Float[Tensor, "k 3"]
    known: Float[Tensor, "k d"]
    """Place on the mean head, how far the nearest seen cell is, and what it looks like."""
    person: Float[Tensor, "p"]
    """What the regions of the head look like."""
    color: Float[Tensor, "k 3"]
    """Of what is seen nearest, sRGB in [0, 1]."""
    crown: Float[Tensor, "3"]
    """Of the highest that is seen, likewise: hair's."""


class Numbers(NamedTuple):
    """What the network says of each hidden cell, before it means anything."""

    height: Float[Tensor, "k 1"]
    place: Float[Tensor, "k 3"]
    hue: Float[Tensor, "k 3"]
    share: Float[Tensor, "k 1"]
    quat: Float[Tensor, "k 4"]
    size: Float[Tensor, "k 3"]
    opacity: Float[Tensor, "k 1"]
    features: Float[Tensor, "k f"]


SPLIT = (1, 3, 3, 1, 4, 3, 1)
"""How many numbers each of those but the features has."""


class Unseen(nn.Module):
    """A small network that makes a Gaussian over each cell of the skin that no picture shows.

    It knows the cell by its place on the mean head and by what is seen nearest to it or to its
    mirror image, and the person by how far what is seen stands off the skin, by region.
    `tools/train_unseen.py` teaches it heights and colours, where training by pictures alone cannot:
    what begins within hair shows nowhere, and what begins outside is only in the way.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.person = nn.Sequential(
            nn.Linear(REGIONS * 6, PERSON), nn.SiLU(), nn.Linear(PERSON, PERSON)
        )
        known = 3 + 6 * FREQUENCIES + 1 + 1 + 3 + 3 + 3 + features + PERSON
        self.layers = nn.Sequential(
            nn.Linear(known, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(),
        )  # fmt: skip
        for layer in (*self.person, *self.layers):
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        self.out = nn.Linear(WIDTH, sum(SPLIT) + features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self, head: CanonicalHead, guide: Guide, views: View, covered: Bool[Tensor, "n"]
    ) -> CanonicalHead:
        """Return the head with Gaussians of its unseen sides after its own.

        Args:
            head: Of the pixels alone.
            guide: Of the same pictures.
            views: The pictures.
            covered: Which of its Gaussians' pixels see the mesh.
        """
        with full_precision(head.gaussians.means):
            hidden = find_hidden(head, guide, views.camera, covered)
            if hidden is None:
                return head
            height, place, hue, share, quat, size, opacity, features = self.numbers(hidden)
        off = over_skin(height)
        means = hidden.places + off * hidden.normals + REACH * torch.tanh(place)
        start = SIZE * (1 + off.detach() / ROUND)
        like = means.detach()
        gaussians = Gaussians(
            means=means,
            quats=functional.normalize(_facing(hidden.normals) + quat, dim=1),
            scales=start
            * torch.tensor([1, 1, FLAT]).to(like)
            * torch.exp(SIZES * torch.tanh(size)),
            opacities=torch.sigmoid(OPACITIES * torch.tanh(opacity / OPACITIES))[:, 0],
            colors=colored(hidden, share, hue),
        )
        assert head.rig is not None  # a guided model's
        away = (like - hidden.places).norm(dim=1)
        vertex = torch.from_numpy(head_model(guide.layout).cells.vertices)
        rig = replace(
            head.rig,
            vertex=vertex.to(like.device, torch.int64)[hidden.cells],
            weight=torch.exp(-((away / FADE) ** 2)),
        )
        made = CanonicalHead(gaussians, features, rig)
        return head + made[_within_mattes(like, views)]

    def numbers(self, hidden: Hidden) -> Numbers:
        """Return what the network says of each hidden cell."""
        person = self.person(hidden.person).expand(len(hidden.cells), -1)
        raw: Tensor = self.out(self.layers(torch.cat([hidden.known, person], dim=1)))
        return Numbers(*raw.split([*SPLIT, raw.shape[1] - sum(SPLIT)], dim=1))


def _facing(normals: Float[Tensor, "k 3"]) -> Float[Tensor, "k 4"]:
    """Return rotations (wxyz) of Gaussians whose third axis is along normals, to either side."""
    x, y, z = normals.unbind(1)
    # From the axis that points backwards: only one that looks straight ahead has no rotation.
    turn = torch.stack([(1 - z).clamp(min=1e-4), y, -x, torch.zeros_like(x)], dim=1)
    return functional.normalize(turn, dim=1)


def over_skin(height: Float[Tensor, "k 1"]) -> Float[Tensor, "k 1"]:
    """Return the metres off the skin that a number of the network means."""
    return HIGHEST * torch.tanh(height * HEIGHT / HIGHEST)


def colored(
    hidden: Hidden, share: Float[Tensor, "k 1"], hue: Float[Tensor, "k 3"]
) -> Float[Tensor, "k 3"]:
    """Return the colours that its numbers mean: between skin's and hair's, and off it."""
    start = torch.lerp(hidden.color, hidden.crown.expand_as(hidden.color), torch.sigmoid(share))
    return torch.sigmoid(torch.logit(start.clamp(0.02, 0.98)) + HUES * torch.tanh(hue / HUES))


def find_hidden(
    head: CanonicalHead, guide: Guide, camera: Camera, covered: Bool[Tensor, "n"]
) -> Hidden | None:
    """Find the cells that no picture shows; nothing if there are none, or all are such.

    Args:
        head: Of the pixels alone.
        guide: Of the same pictures.
        camera: Of the pictures.
        covered: Which of its Gaussians' pixels see the mesh.
    """
    assert head.rig is not None  # a guided model's
    like = head.gaussians.means.detach()
    cells = head_model(guide.layout).cells
    if not len(cells.places):
        return None
    of_vertex = torch.from_numpy(cells.of_vertex).to(like.device, torch.int64)
    cell = of_vertex[head.rig.vertex]
    places = _places(head.rig, cells, like)
    # Where a picture looks at the mesh and its matte shows nothing, there is nothing to fill.
    hidden = torch.nonzero(~_looked_at(places, guide, camera))[:, 0]
    seen = torch.zeros(len(places), dtype=torch.bool, device=like.device)
    seen[cell[covered]] = True
    if not len(hidden) or not seen.any():
        return None
    look, mean = _look(head, cell, places), torch.from_numpy(cells.places).to(like)
    normals = torch.from_numpy(cells.normals).to(like)
    distance, near = _nearest(cells, hidden.cpu().numpy(), seen.cpu().numpy())
    beside = look[torch.from_numpy(near).to(look.device)]
    # A mirror image's offset would be mirrored; how far it stands off the skin is not.
    up = (look[:, :3] * normals).sum(1, keepdim=True)
    above = up[torch.from_numpy(near).to(look.device)].mean(1)
    off, color, features = beside.mean(1).split([3, 3, look.shape[1] - 6], dim=1)
    crown = torch.softmax(mean[seen][:, 1] / CROWN, 0) @ look[seen][:, 3:6]
    x = mean[hidden] / UNIT
    octaves = torch.pi * 2.0 ** torch.arange(FREQUENCIES).to(x)
    angles = (x[:, :, None] * octaves).flatten(1)
    far = torch.from_numpy(distance).to(like)[:, None] / UNIT
    known = [x, angles.sin(), angles.cos(), far, above / HEIGHT, off / HEIGHT, color,
             crown.expand_as(color), features]  # fmt: skip
    regions = torch.from_numpy(cells.regions).to(like.device, torch.int64)
    person = _person(regions[seen], torch.cat([up / HEIGHT, look[:, 3:6]], dim=1)[seen])
    return Hidden(
        hidden, places[hidden], normals[hidden], torch.cat(known, dim=1), person, color, crown
    )


def _person(regions: Int64[Tensor, "q"], look: Float[Tensor, "q 4"]) -> Float[Tensor, "p"]:
    """Return of each region whether it is seen, its mean look, and how far it stands off."""
    ones = torch.ones_like(look[:, :1])
    sums = torch.zeros(REGIONS, 5).to(look).index_add_(0, regions, torch.cat([ones, look], 1))
    means = sums[:, 1:] / sums[:, :1].clamp(min=1)
    most = torch.zeros(REGIONS).to(look).scatter_reduce_(0, regions, look[:, 0], "amax")
    return torch.cat([(sums[:, :1] > 0).to(look), means, most[:, None]], dim=1).flatten()


def _places(rig: Rig, cells: Cells, like: Tensor) -> Float[Tensor, "c 3"]:
    """Return where the cells are on a person's neutral mesh."""
    corners = torch.from_numpy(cells.corners).to(like.device, torch.int64)
    at = replace(rig, vertex=corners.flatten()).places.to(like)
    return torch.einsum("ck,ckx->cx", torch.from_numpy(cells.shares).to(like), at.view(-1, 3, 3))


def _looked_at(places: Float[Tensor, "c 3"], guide: Guide, camera: Camera) -> Bool[Tensor, "c"]:
    """Tell which cells of a person's neutral mesh a pixel of some picture sees."""
    points = guide.canonical.movedim(1, -1)[guide.coverage[:, 0] > 0.5].cpu().numpy()
    if not len(points):
        return torch.zeros(len(places), dtype=torch.bool, device=places.device)
    # A pixel sees a place about as wide as itself.
    wide = camera.width / guide.coverage.shape[-1] / camera.K[:, 0, 0] * camera.centers.norm(dim=1)
    # Points that are nearly in one place tell the same.
    _, few = np.unique(np.floor(points / (CELL / 2)), axis=0, return_index=True)
    near = CELL / 2 + float(wide.max())
    distance, _ = KDTree(points[few]).query(
        places.detach().cpu().numpy(), distance_upper_bound=near
    )
    return torch.from_numpy(np.isfinite(distance)).to(places.device)


def _within_mattes(points: Float[Tensor, "p 3"], views: View) -> Bool[Tensor, "p"]:
    """Tell which points no picture shows to be empty."""
    return ~find_pixels(points, views).empty.any(0)


class Pixels(NamedTuple):
    """Where points are in pictures."""

    view: Int64[Tensor, "v 1"]
    row: Int64[Tensor, "v p"]
    """Of the pixel, or of the nearest one."""
    column: Int64[Tensor, "v p"]
    inside: Bool[Tensor, "v p"]
    """Whether the picture has the point."""
    empty: Bool[Tensor, "v p"]
    """Whether it does, and its matte shows nothing there."""
    ahead: Float[Tensor, "v p"]
    """Depth in the camera, metres."""


def find_pixels(points: Float[Tensor, "p 3"], views: View) -> Pixels:
    """Return the pixels of points of the head frame, metres."""
    matte = functional.max_pool2d(views.alpha.float(), 3, stride=1, padding=1)[:, 0]
    pixels, ahead = project(views.camera, points.detach())
    column, row = pixels.floor().long().unbind(-1)
    h, w = matte.shape[-2:]
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w) & (ahead > 0)
    view = torch.arange(len(matte)).to(row.device)[:, None]
    row, column = row.clamp(0, h - 1), column.clamp(0, w - 1)
    return Pixels(view, row, column, inside, inside & (matte[view, row, column] < EMPTY), ahead)


def _look(
    head: CanonicalHead, cell: Int64[Tensor, "n"], places: Float[Tensor, "c 3"]
) -> Float[Tensor, "c l"]:
    """Return how far off the skin the Gaussians of each cell are, their colour and features.

    Means by opacity, without a gradient: what guesses the unseen is not to change the seen.
    """
    g = head.gaussians
    of_each = torch.cat([g.means - places[cell], g.colors, head.features], dim=1).detach().float()
    weight = g.opacities.detach().float()[:, None]
    total = torch.zeros(len(places), of_each.shape[1] + 1).to(of_each)
    total.index_add_(0, cell, torch.cat([of_each * weight, weight], dim=1))
    return total[:, :-1] / total[:, -1:].clamp(min=1e-6)


def _nearest(
    cells: Cells, hidden: Int64[np.ndarray, "k"], seen: Bool[np.ndarray, "c"]
) -> tuple[Float32[np.ndarray, "k"], Int64[np.ndarray, "k near"]]:
    """Return the seen cells nearest to unseen ones, or to their mirror images, and how far."""
    shown, places = np.flatnonzero(seen), cells.places[hidden]
    both = np.concatenate([places, places * np.array([-1, 1, 1], np.float32)])
    tree, near = KDTree(cells.places[shown]), min(NEAR, len(shown))
    found = tree.query(both, k=list(range(1, near + 1)))  # pyright: ignore[reportArgumentType]
    distance, at = (np.asarray(x) for x in found)
    k = len(hidden)
    row = np.arange(k) + k * (distance[k:, 0] < distance[:k, 0])
    return distance[row, 0].astype(np.float32), shown[at[row]]
