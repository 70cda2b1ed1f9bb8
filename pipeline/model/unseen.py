"""Gaussians of the sides that no picture shows: the back of the head, an ear, hair behind it.

Pixels make Gaussians where they see the head, and a head of one picture is a mask. So a guided
model covers the rest of the skin, by what the pictures show nearest to it on either side.

Letters: n Gaussians of the pixels, c cells of the skin, k of them unseen, q seen, f features.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from scipy.spatial import KDTree
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.types import Camera, Gaussians
from pipeline.faces.guide import FADE, Guide, Rig
from pipeline.faces.heads import CELL, Cells, head_model
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
REACH = 0.06
"""Metres that a Gaussian may be off from where it begins, along each axis."""
OFF_SKIN = 0.03
"""Most that one begins off the skin, metres."""
SIZE, SIZES = 0.0035, 0.7
"""Standard deviation at the start, metres, and how far its logarithm may be from there."""
HUES = 1.0
"""How far a colour may be from the start's, logit."""
OPACITY = -1.0
"""At the start, logit: training first sees the pixels' head, and fills it."""


class Unseen(nn.Module):
    """A small network that makes a Gaussian on each cell of the skin that no picture shows.

    It knows the cell by its place on the mean head, what is seen nearest to it or to its mirror
    image, and the person by the mean of all tokens.
    """

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.person = nn.Linear(tokens, PERSON)
        known = 3 + 6 * FREQUENCIES + 1 + 3 + 3 + 3 + features + PERSON
        self.layers = nn.Sequential(
            nn.Linear(known, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(),
            nn.Linear(WIDTH, WIDTH), nn.SiLU(),
        )  # fmt: skip
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        self.out = nn.Linear(WIDTH, 3 + 3 + 1 + 4 + 3 + 1 + features)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        head: CanonicalHead,
        guide: Guide,
        camera: Camera,
        covered: Bool[Tensor, "n"],
        tokens: Float[Tensor, "v c h w"],
    ) -> CanonicalHead:
        """Return the head with Gaussians of its unseen sides after its own.

        Args:
            head: Of the pixels alone.
            guide: Of the same pictures.
            camera: Of the pictures.
            covered: Which of its Gaussians' pixels see the mesh.
            tokens: Of the pictures.
        """
        assert head.rig is not None  # a guided model's
        like = head.gaussians.means
        cells = head_model(guide.layout).cells
        if not len(cells.places):
            return head
        of_vertex = torch.from_numpy(cells.of_vertex).to(like.device, torch.int64)
        cell = of_vertex[head.rig.vertex]
        places = _places(head.rig, cells, like)
        # Where a picture looks at the mesh and its matte shows nothing, there is nothing to fill.
        hidden = torch.nonzero(~_looked_at(places, guide, camera))[:, 0]
        seen = torch.zeros(len(places), dtype=torch.bool, device=like.device)
        seen[cell[covered]] = True
        if not len(hidden) or not seen.any():
            return head
        with full_precision(like):
            look = _look(head, cell, places)
            mean = torch.from_numpy(cells.places).to(like)
            distance, near = _nearest(cells, hidden.cpu().numpy(), seen.cpu().numpy())
            beside = look[torch.from_numpy(near).to(look.device)].mean(1)
            far = torch.from_numpy(distance).to(like)[:, None] / UNIT
            off, color, features = beside.split([3, 3, look.shape[1] - 6], dim=1)
            crown = torch.softmax(mean[seen][:, 1] / CROWN, 0) @ look[seen][:, 3:6]
            crown = crown.expand_as(color)
            x = mean[hidden] / UNIT
            octaves = torch.pi * 2.0 ** torch.arange(FREQUENCIES).to(x)
            angles = (x[:, :, None] * octaves).flatten(1)
            person = self.person(tokens.float().mean((0, 2, 3))).expand(len(x), -1)
            known = [x, angles.sin(), angles.cos(), far, off / OFF_SKIN, color, crown,
                     features, person]  # fmt: skip
            raw: Tensor = self.out(self.layers(torch.cat(known, dim=1)))
        place, hue, share, quat, size, opacity = raw[:, :15].split([3, 3, 1, 4, 3, 1], dim=1)
        start = torch.lerp(color, crown, torch.sigmoid(share)).clamp(0.02, 0.98)
        begin = places[hidden] + off * (OFF_SKIN / off.norm(dim=1, keepdim=True).clamp(OFF_SKIN))
        means = begin + REACH * torch.tanh(place)
        gaussians = Gaussians(
            means=means,
            quats=functional.normalize(quat + torch.tensor([1.0, 0, 0, 0]).to(like), dim=1),
            scales=SIZE * torch.exp(SIZES * torch.tanh(size)),
            opacities=torch.sigmoid(opacity + OPACITY)[:, 0],
            colors=torch.sigmoid(torch.logit(start) + HUES * torch.tanh(hue / HUES)),
        )
        away = (means.detach() - places[hidden]).norm(dim=1)
        vertex = torch.from_numpy(cells.vertices).to(like.device, torch.int64)[hidden]
        rig = replace(head.rig, vertex=vertex, weight=torch.exp(-((away / FADE) ** 2)))
        return head + CanonicalHead(gaussians, raw[:, 15:], rig)


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
