"""Lids that unfold: what hangs on their skin and is darker takes its colour as an eye shuts.

Of the lid of an open eye pixels see a fold, between lashes and brow, a pixel or two high. Where a
tracked mesh is a millimetre off, lashes, irises and shadows hang on it, and stand apart as dark
dots when it unfolds.

Letters: n Gaussians, m of them on lids.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.faces.heads import LID_TRAVEL, head_model
from pipeline.model.activate import CanonicalHead

DARKER = 0.2
"""What is so much darker than the lids' skin takes all of its colour; less a share."""


@dataclass(frozen=True)
class Lids:
    """The Gaussians that pixels made on the lids of a head."""

    which: Int64[Tensor, "m"]
    share: Float[Tensor, "m"]
    """How much of the skin's colour each takes when its eye is shut."""
    color: Float[Tensor, "3"]

    @staticmethod
    def of(head: CanonicalHead) -> Lids | None:
        """Find them; none where the head has no inner Gaussians, which tell the skin's colour."""
        if head.rig is None:
            return None
        inner, vertex = head_model(head.rig.layout).interior, head.rig.vertex
        lids = torch.isin(vertex, torch.from_numpy(inner.vertices[inner.lids]).to(vertex))
        own, colors = head.rig.on_mesh, head.gaussians.colors.detach()
        which = torch.nonzero(lids & ~own)[:, 0]
        skin = colors[lids & own]
        if not len(which) or not len(skin):
            return None
        color = skin.median(0).values
        share = ((color - colors[which]).mean(1) / DARKER).clamp(0, 1)
        return Lids(which, share, color)

    def unfold(
        self, colors: Float[Tensor, "n 3"], displacement: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """Return the colours of all Gaussians where the mesh takes each so far, metres."""
        shut = (displacement[self.which].norm(dim=1) / LID_TRAVEL).clamp(max=1)
        taken = torch.lerp(colors[self.which], self.color, (self.share * shut)[:, None])
        return colors.index_copy(0, self.which, taken)
