"""Linear shapes in place of the deformation network: what `pipeline.avatar.bake` makes.

Letters: n Gaussians, m of them moving (the first ones), r shapes, s samples.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.config import check_range
from pipeline.core.types import CODE_SIZE, Gaussians
from pipeline.model.activate import CanonicalHead

STEPS, LR = 600, 3e-3


@dataclass(frozen=True)
class BakedConfig:
    """Sizes of a baked deformation."""

    rank: int
    moving: int
    hidden: int
    """Width of the map's hidden layer; 0 for a linear map."""

    def __post_init__(self) -> None:
        check_range("rank", self.rank, 1, 2**10)
        check_range("moving", self.moving, 0, 2**24)
        check_range("hidden", self.hidden, 0, 2**14)


class Baked(nn.Module):
    """Offsets of position and colour as a weighted sum of shapes; weights from the code.

    The map from code to weights is linear, with a small network beside it where that helps.
    """

    def __init__(self, config: BakedConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(CODE_SIZE, config.rank)
        self.hidden = nn.Linear(CODE_SIZE, config.hidden) if config.hidden else None
        self.out = nn.Linear(config.hidden, config.rank, bias=False) if config.hidden else None
        self.shapes: Tensor
        self.register_buffer("shapes", torch.zeros(config.rank, config.moving, 6))
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(config.moving, 6))

    @staticmethod
    def fit(
        codes: Float[Tensor, "s 120"], weights: Float[Tensor, "s r"], hidden: int, ridge: float
    ) -> Baked:
        """Return a map from codes to weights: least squares, and a network for what is left."""
        found = Baked(BakedConfig(weights.shape[1], 0, hidden)).to(weights.device)
        with torch.no_grad():
            x = torch.cat([codes, codes.new_ones(len(codes), 1)], 1).double()
            A = x.T @ x + ridge * torch.eye(x.shape[1], device=x.device)
            solution = torch.linalg.solve(A, x.T @ weights.double()).float()
            found.linear.weight.copy_(solution[:-1].T)
            found.linear.bias.copy_(solution[-1])
        if found.out is not None:
            nn.init.zeros_(found.out.weight)
            _train(found, codes, weights)
        return found.eval().requires_grad_(False)

    @staticmethod
    def of(mapping: Baked, shapes: Float[Tensor, "r m 6"], mean: Float[Tensor, "m 6"]) -> Baked:
        """Return the map together with its shapes."""
        config = replace(mapping.config, moving=len(mean))
        found = Baked(config).to(mean.device)
        found.load_state_dict({**mapping.state_dict(), "shapes": shapes, "mean": mean})
        return found.eval().requires_grad_(False)

    def weights(self, code: Float[Tensor, "*s 120"]) -> Float[Tensor, "*s r"]:
        """Return the weight of each shape."""
        found = self.linear(code)
        if self.hidden is not None and self.out is not None:
            found = found + self.out(functional.silu(self.hidden(code)))
        return found

    def offsets(self, code: Float[Tensor, "120"]) -> Float[Tensor, "m 6"]:
        """Return the offsets of position (metres) and colour of the moving Gaussians."""
        weights = self.weights(code)
        flat = torch.addmv(self.mean.flatten(), self.shapes.flatten(1).T, weights)
        return flat.reshape(-1, 6)

    def prepare(self, head: CanonicalHead) -> CanonicalHead:
        """Return the head back: nothing can be computed beforehand."""
        return head

    def forward(self, prepared: CanonicalHead, code: Float[Tensor, "120"]) -> Gaussians:
        """Return the Gaussians under an expression."""
        still, m = prepared.gaussians, self.config.moving
        offsets = self.offsets(code)
        means, colors = still.means.clone(), still.colors.clone()
        means[:m] += offsets[:, :3]
        colors[:m] += offsets[:, 3:]
        return replace(still, means=means, colors=colors.clamp(0, 1))


def _train(net: Baked, codes: Tensor, weights: Tensor) -> None:
    with torch.enable_grad():
        torch.manual_seed(0)
        size = weights.square().mean(0).sqrt().mean()
        adam = torch.optim.AdamW(net.parameters(), LR, weight_decay=1e-2)
        for step in range(STEPS):
            for group in adam.param_groups:
                group["lr"] = LR * (1 - step / STEPS)
            loss = ((net.weights(codes) - weights) / size).square().mean()
            adam.zero_grad(set_to_none=True)
            loss.backward()
            adam.step()
