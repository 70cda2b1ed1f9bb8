"""Gaussians of what pictures seldom show: eyeballs, lids, teeth, tongue, the inside of the mouth.

Pixels make Gaussians where they see the head. Of a mouth that is shut in all pictures they see
nothing, and when it opens there is a hole; of lids they see a fold, and when it unfolds the eye
shows between its points. So a guided model adds Gaussians on the mesh there.

Letters: k of them, n of the pixels, f features, c channels of the tokens.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.types import Gaussians, View
from pipeline.faces.guide import Guide
from pipeline.faces.heads import PARTS, Inner, head_model
from pipeline.model.activate import CanonicalHead, solid_colors
from pipeline.model.blocks import full_precision

FREQUENCIES = 8
UNIT = 0.3
"""Metres on which the slowest wave of the encoding is half as long."""
WIDTH, PERSON = 128, 64
RECESS, LID_RECESS = 0.001, 0.002
"""Metres that a Gaussian begins behind its vertex, as seen from the front: where pixels see the
same, theirs are before it, and sharper. Side by side, training makes inner ones small and moves
them off. Lids are so far behind their skin that open eyes are before them, and shut ones not."""
REACH = 0.001
"""Metres that a Gaussian may be off from there, along each axis."""
SIZE, LID_SIZE, SIZES = 0.0014, 0.0009, 0.3
"""Standard deviation at the start, metres; that of lids, which lie close when eyes are open; and
how far the logarithm may be from there."""
HUES = 0.6
"""How far a colour may be from the start's, logit: the person's own is known, and a network that is
free makes patterns of the eyes that it has seen."""
OPACITY, OPACITIES = 0.88, (0.75, 0.95)
"""At the start, and its bounds: without them training makes all of them glassy."""

WHOLE = 0.9
"""Least coverage of a pixel whose colour is the head's."""
ENOUGH = 6
"""Pixels that tell a colour."""
SKIN_CHROMA = 0.08
"""Difference between skin's strongest and weakest colour, at least, where pictures are not grey."""


class Interior(nn.Module):
    """A small network that makes a Gaussian at each inner vertex of a head model, for a person.

    It knows the vertex by its place on the mean head, whatever the head model, and the person by
    the mean of all tokens.
    """

    def __init__(self, tokens: int, features: int) -> None:
        super().__init__()
        self.person = nn.Linear(tokens, PERSON)
        kinds = len(PARTS) + 1  # lids are skin of their own
        self.layers = nn.Sequential(
            nn.Linear(3 + 6 * FREQUENCIES + kinds + PERSON, WIDTH),
            nn.SiLU(),
            nn.Linear(WIDTH, WIDTH),
            nn.SiLU(),
        )
        # torch's own start hardly tells one vertex from another, and a bias for all would let
        # teeth, which are most, take the eyes with them.
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
        self.out = nn.Linear(WIDTH + kinds, 3 + 3 + 4 + 3 + 1 + features, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(
        self, head: CanonicalHead, guide: Guide, views: View, tokens: Float[Tensor, "v c h w"]
    ) -> CanonicalHead:
        """Return the head with the inner Gaussians after its own."""
        assert head.rig is not None  # a guided model's
        inner = head_model(guide.layout).interior
        like = head.gaussians.means
        vertex = torch.from_numpy(inner.vertices).to(like.device, torch.int64)
        part = torch.from_numpy(inner.parts).to(like.device, torch.int64)
        lids = torch.from_numpy(inner.lids).to(like.device)[:, None]
        with full_precision(like):
            x = torch.from_numpy(inner.places).to(like) / UNIT
            octaves = torch.pi * 2.0 ** torch.arange(FREQUENCIES).to(x)
            angles = (x[:, :, None] * octaves).flatten(1)
            person = self.person(tokens.float().mean((0, 2, 3))).expand(len(x), -1)
            kind = torch.cat([functional.one_hot(part, len(PARTS)).to(x), lids.to(x)], dim=1)
            known = [x, angles.sin(), angles.cos(), kind, person]
            hidden = self.layers(torch.cat(known, dim=1))
            raw: Tensor = self.out(torch.cat([hidden, kind], dim=1))
        place, color, quat, size, opacity = raw[:, :14].split([3, 3, 4, 3, 1], dim=1)
        first = torch.where(lids, LID_SIZE, SIZE).to(like)
        behind = torch.where(lids, LID_RECESS, RECESS) * torch.tensor([0.0, 0.0, 1.0]).to(like)
        rig = replace(head.rig, vertex=vertex, weight=torch.ones(len(vertex)).to(like))
        start, vivid = _colors(inner, guide, views)
        color = HUES * torch.tanh(color / HUES)
        grey = color.mean(1, keepdim=True)
        color = grey + (color - grey) * vivid
        low, high = OPACITIES
        middle = torch.logit(torch.tensor((OPACITY - low) / (high - low)))
        gaussians = Gaussians(
            means=rig.places.to(like) - behind + REACH * torch.tanh(place),
            quats=functional.normalize(quat + torch.tensor([1.0, 0, 0, 0]).to(like), dim=1),
            scales=first * torch.exp(SIZES * torch.tanh(size)),
            opacities=low + (high - low) * torch.sigmoid(opacity + middle)[:, 0],
            colors=torch.sigmoid(torch.logit(start.clamp(0.02, 0.98)) + color),
        )
        return head + CanonicalHead(gaussians, raw[:, 14:], rig)


def _colors(
    inner: Inner, guide: Guide, views: View
) -> tuple[Float[Tensor, "k 3"], Float[Tensor, ""]]:
    """Return the inner Gaussians' colours at the start, of what pictures show, and how vivid.

    A grey picture has no red mouth: nothing is more colourful than its skin lets expect. Of that
    colourfulness the share is given back, 1 where pictures are not grey.
    """
    stride = views.image.shape[-1] // guide.coverage.shape[-1]
    seen = solid_colors(views, stride).movedim(1, -1).clamp(0.02, 0.98)
    whole = functional.avg_pool2d(views.alpha, stride)[:, 0] > WHOLE
    colors = torch.from_numpy(inner.colors).to(seen).clamp(0.02, 0.98)
    skin = _at(seen, whole, guide, inner.shades[0].shown) if inner.shades else seen[whole]
    vivid = torch.ones(()).to(seen)
    if len(skin):
        vivid = ((skin.amax(1) - skin.amin(1)).median() / SKIN_CHROMA).clamp(max=1)
        grey = colors.mean(1, keepdim=True)
        colors = grey + (colors - grey) * vivid
    for shade in inner.shades:
        pixels = _at(seen, whole, guide, shade.shown)
        if len(pixels) < ENOUGH:
            continue
        order = pixels.sum(1).argsort()
        at = round(shade.share * (len(order) - 1))
        near = pixels[order[max(at - len(order) // 8, 0) : at + len(order) // 8 + 1]].mean(0)
        own = torch.from_numpy(shade.own).to(seen.device)
        shift = torch.logit(near) - torch.logit(colors[own].median(0).values)
        shifted = torch.sigmoid(torch.logit(colors) + shift)
        colors = torch.where(own[:, None], shifted, colors)
    return colors, vivid


def _at(
    seen: Float[Tensor, "v h w 3"],
    whole: Bool[Tensor, "v h w"],
    guide: Guide,
    vertices: Int32[np.ndarray, "n"],
) -> Float[Tensor, "p 3"]:
    """Return the colours of pixels that show some vertices of the surface."""
    shown = torch.from_numpy(vertices).to(guide.vertex)
    return seen[whole & (guide.coverage[:, 0] > 0.5) & torch.isin(guide.vertex, shown)]
