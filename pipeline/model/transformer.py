"""The multi-view transformer: tokens of all views attend to each other.

Letters: v views, h w size of the token grid, c width.
"""

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.blocks import ViewAttention
from pipeline.model.config import TransformerConfig


class Layer(nn.Module):
    """Pre-norm attention and a two-layer network."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.width
        self.norm1 = nn.LayerNorm(width)
        self.attention = ViewAttention(width, config.heads, config.pool)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Float[Tensor, "v h w c"], sets: int = 1) -> Float[Tensor, "v h w c"]:
        """Return the tokens after one layer."""
        x = x + self.attention(self.norm1(x), sets)
        return x + self.mlp(self.norm2(x))


class MultiViewTransformer(nn.Module):
    """Self-attention layers over the tokens of all views together.

    Where a token is, its Pluecker ray tells; there is no other position encoding, so the
    order of the views does not matter and their number and size are free.

    Source:
        FastGHA section 3.1, after GRM (Xu et al., 2024).
    """

    def __init__(self, channels: int, config: TransformerConfig) -> None:
        super().__init__()
        self.embed = nn.Linear(channels, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Float[Tensor, "v d h w"], sets: int = 1) -> Float[Tensor, "v c h w"]:
        """Let every position of every view attend to all others of its set."""
        tokens = self.embed(x.permute(0, 2, 3, 1))
        for layer in self.layers:
            tokens = layer(tokens, sets)
        return self.norm(tokens).permute(0, 3, 1, 2)
