"""LPIPS: how different two pictures look, by weighted differences of a network's features.

Letters: v pictures, h height, w width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.perception.pretrained import fill, read_state
from pipeline.perception.vgg import AlexNet, Vgg16
from pipeline.system import weights

LpipsNet = Literal["alex", "vgg"]
TRUNKS: dict[LpipsNet, tuple[type[AlexNet] | type[Vgg16], str]] = {
    "alex": (AlexNet, "alexnet"),
    "vgg": (Vgg16, "vgg16"),
}
"""The network, and the name of its weights."""
HEADS = "LPIPS's linear heads, version 0.1 (.pth)"


class Lpips(nn.Module):
    """The distance with linear heads that people's judgements were fitted to.

    Source:
        Zhang et al., The unreasonable effectiveness of deep features, 2018; heads of version 0.1.
    """

    def __init__(self, trunk: AlexNet | Vgg16) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Conv2d(c, 1, 1, bias=False) for c in trunk.channels)

    @torch.no_grad()
    def forward(
        self, a: Float[Tensor, "v 3 h w"], b: Float[Tensor, "v 3 h w"]
    ) -> Float[Tensor, "v"]:
        """Return the distance of each pair of pictures, RGB in [0, 1]; 0 for equal ones."""
        total = a.new_zeros(len(a))
        for head, x, y in zip(self.heads, self.trunk(a), self.trunk(b), strict=True):
            square = (functional.normalize(x, dim=1) - functional.normalize(y, dim=1)).square()
            total += head(square).mean((1, 2, 3))
        return total


def load_lpips(
    net: LpipsNet = "alex", trunk: Path | None = None, heads: Path | None = None
) -> Lpips:
    """Return LPIPS with the published weights.

    Args:
        net: Network whose features are compared.
        trunk: Its file; by default looked for by `pipeline.system.weights`.
        heads: File of the linear heads; likewise.

    Raises:
        MissingWeightsError: If a file is not on this machine.
        FormatError: If it holds something else.
    """
    make, name = TRUNKS[net]
    trunk = trunk or weights.find(name)
    heads = heads or weights.find(f"lpips_{net}")
    what = f"torchvision's {name} weights (.pth)"
    model = Lpips(fill(make(), read_state(trunk, what), trunk, what))
    found = {
        f"{name.split('.')[0].removeprefix('lin')}.weight": value
        for name, value in read_state(heads, HEADS).items()
    }
    fill(model.heads, found, heads, HEADS)
    return model.eval()
