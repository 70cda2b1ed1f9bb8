"""The decoder: tokens to maps of Gaussian parameters.

Letters: v views, h w size of the token grid, c channels.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.model.blocks import (
    CrossViewAttention,
    ResidualBlock,
    Upsample,
    full_precision,
    group_norm,
)
from pipeline.model.config import DecoderConfig


class Decoder(nn.Module):
    """A decoder shaped as that of the SD-Turbo VAE, with attention between views.

    Source:
        FastGHA section 3.1 and Table 4.
    """

    def __init__(
        self, channels_in: int, channels_out: int, skips: tuple[int, ...], config: DecoderConfig
    ) -> None:
        super().__init__()
        top, *finer = config.widths
        self.conv_in = nn.Conv2d(channels_in, top, 3, padding=1)
        self.mid = nn.Sequential(
            ResidualBlock(top, top),
            CrossViewAttention(top, config.heads, config.pool),
            ResidualBlock(top, top),
        )
        self.up = nn.ModuleList()
        self.skip = nn.ModuleList()
        self.blocks = nn.ModuleList()
        # The scales run from 1/4 on, the skips from fine to coarse.
        coarse_to_fine = [*reversed(skips), *[0] * len(finer)]
        for before, width, skip in zip(config.widths, finer, coarse_to_fine):
            self.up.append(Upsample(before, width))
            self.skip.append(nn.Conv2d(skip, width, 1) if skip else nn.Identity())
            self.blocks.append(
                nn.Sequential(*(ResidualBlock(width, width) for _ in range(config.blocks)))
            )
        self.split = config.split
        self.norm_out = group_norm(config.widths[-1])
        self.conv_out = nn.Conv2d(config.widths[-1], channels_out * config.split**2, 3, padding=1)

    def forward(
        self, tokens: Float[Tensor, "v c h w"], skips: tuple[Tensor, ...], sets: int = 1
    ) -> Float[Tensor, "v d s*h s*w"]:
        """Return raw maps; `activate` gives them their meaning."""
        first, across, second = self.mid
        x = second(across(first(self.conv_in(tokens)), sets))
        finer = [*reversed(skips), *[None] * len(self.up)]
        for up, mix, blocks, skip in zip(self.up, self.skip, self.blocks, finer):
            x = up(x)
            x = blocks(x if skip is None else x + mix(skip))
        # Depths need more digits than bfloat16 has.
        with full_precision(x):
            maps = self.conv_out(functional.silu(self.norm_out(x.float())))
        return functional.pixel_shuffle(maps, self.split)
