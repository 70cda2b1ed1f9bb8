"""The deformation: a small network that moves and recolours each Gaussian for an expression.

Letters: n Gaussians, f features, d inputs of one Gaussian.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.types import CODE_SIZE, Gaussians
from pipeline.faces.layouts import code_gain, neutral_code
from pipeline.model.activate import HEAD_RADIUS, CanonicalHead
from pipeline.model.blocks import full_precision, zero_
from pipeline.model.config import DeformConfig
from pipeline.model.lids import Lids

OFFSET_UNIT = 0.01
"""Metres that a small output of 1 moves a Gaussian."""
OFFSET_REACH = 0.06
"""Metres that a Gaussian can move at most along an axis: somewhat more than the chin does under a
wide open jaw. Without a limit, early training throws Gaussians out of the picture to be rid of
them, and from there no gradient brings them back."""
SLOPE = 0.01


@dataclass(frozen=True)
class PreparedHead:
    """A canonical head with its share of the deformation's first layer, computed once."""

    head: CanonicalHead
    first: Float[Tensor, "n width"]
    lids: Lids | None = None


class Deformation(nn.Module):
    """Six hidden layers of 256 that act on each Gaussian alone.

    The first layer is linear in its input, which is the Gaussian's numbers and the expression
    code side by side. Its Gaussian part is the same for every frame, its code part the same for
    every Gaussian; `prepare` keeps the one, and a frame adds the other. This is exact.

    Guided, each Gaussian goes with the mesh, and the network adds to that; it is told how far.

    Source:
        FastGHA section 3.1; hidden sizes and LeakyReLU from appendix A.1. Colour offsets are ours
        in the logit's space, so that no code makes a colour that is none.
    """

    def __init__(self, features: int, config: DeformConfig, guided: bool = False) -> None:
        super().__init__()
        self.config = config
        of_gaussian = 3 + 6 * config.frequencies + 11 + features
        self.of_gaussian = nn.Linear(of_gaussian, config.width)
        self.of_code = nn.Linear(CODE_SIZE, config.width, bias=False)
        self.of_motion = nn.Linear(3, config.width, bias=False) if guided else None
        self.gain: Tensor
        self.register_buffer("gain", torch.ones(CODE_SIZE))
        self.rest: Tensor
        self.register_buffer("rest", torch.zeros(CODE_SIZE))
        self.hidden = nn.ModuleList(
            nn.Linear(config.width, config.width) for _ in range(config.layers - 1)
        )
        self.out = nn.Linear(config.width, 6 if config.color_offsets else 3)
        # torch's own start shrinks the signal in each layer: after six of them, hardly anything
        # of the code would be left.
        for layer in (self.of_gaussian, self.of_code, *self.hidden):
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, a=SLOPE)
        if self.of_motion is not None:
            nn.init.kaiming_normal_(self.of_motion.weight, a=SLOPE)
        zero_(self.out)

    def set_layout(self, layout: str) -> None:
        """Weight each number of the codes by how far it moves the face; kept with the weights."""
        self.gain.copy_(code_gain(layout))
        self.rest.copy_(neutral_code(layout).values)

    def prepare(self, head: CanonicalHead) -> PreparedHead:
        """Compute what does not depend on the expression."""
        lids = Lids.of(head) if self.config.color_offsets else None
        return PreparedHead(head, self.of_gaussian(self._inputs(head)), lids)

    def forward(self, prepared: PreparedHead, code: Float[Tensor, "120"]) -> Gaussians:
        """Return the Gaussians under an expression."""
        still, rig = prepared.head.gaussians, prepared.head.rig
        ridden = None if rig is None else rig.displacement(code)
        # Positions in high octaves, and where things end up, do not survive bfloat16.
        with full_precision(code):
            x = prepared.first + self.of_code(self.gain * (code - self.rest))
            if ridden is not None and self.of_motion is not None:
                x = x + self.of_motion(ridden / OFFSET_UNIT)
            x = functional.leaky_relu(x, SLOPE)
        for layer in self.hidden:
            x = functional.leaky_relu(layer(x), SLOPE, inplace=True)
        with full_precision(code):
            offsets = self.out(x.float())
        shift = OFFSET_REACH * torch.tanh(OFFSET_UNIT / OFFSET_REACH * offsets[:, :3])
        colors = self._colors(still.colors, offsets[:, 3:])
        if ridden is None:
            return replace(still, means=still.means + shift, colors=colors)
        if prepared.lids is not None:
            colors = prepared.lids.unfold(colors, ridden)
        return replace(still, means=still.means + ridden + shift, colors=colors)

    def _colors(self, still: Tensor, offsets: Tensor) -> Tensor:
        if not self.config.color_offsets:
            return still
        if self.config.color_space == "linear":
            return still + offsets
        return torch.sigmoid(torch.logit(still, 1e-3) + offsets)

    def _inputs(self, head: CanonicalHead) -> Float[Tensor, "n d"]:
        g = head.gaussians
        x = g.means / HEAD_RADIUS
        octaves = torch.pi * 2.0 ** torch.arange(self.config.frequencies).to(x)
        angles = (x[:, :, None] * octaves).flatten(1)
        # Logarithms around a millimetre bring the scales to the size of the other inputs.
        sizes = torch.log(g.scales.clamp(min=1e-6) * 1000.0)
        return torch.cat(
            [x, angles.sin(), angles.cos(), g.colors, g.quats, sizes, g.opacities[:, None]]
            + [head.features],
            dim=1,
        )
