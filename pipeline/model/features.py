"""Image features: pictures to maps on the 1/8 grid.

Letters: v views, h w image size, c channels.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.blocks import ResidualBlock
from pipeline.model.config import FeatureConfig


@dataclass(frozen=True)
class Features:
    """What a feature extractor gives to the rest of the model."""

    grid: Float[Tensor, "v c h/8 w/8"]
    skips: tuple[Tensor, ...]
    """Finer maps for the decoder, finest first ([v, c, h/2, w/2], [v, c, h/4, w/4]); empty
    where the extractor has none."""


class ConvFeatures(nn.Module):
    """Convolutions trained from scratch, in place of downloaded networks.

    Reads the picture, its matte and the Pluecker rays of its pixels, ten channels, and four of a
    guide where there is one.
    """

    def __init__(self, config: FeatureConfig, guide_channels: int = 0) -> None:
        super().__init__()
        half, quarter, eighth = config.widths
        self.skip_channels = (half, quarter)
        self.grid_channels = config.channels
        self.stem = nn.Conv2d((10 + guide_channels) * 4, half, 3, padding=1)
        self.at_half = ResidualBlock(half, half)
        self.down1 = nn.Conv2d(half, quarter, 4, stride=2, padding=1)
        self.at_quarter = ResidualBlock(quarter, quarter)
        self.down2 = nn.Conv2d(quarter, eighth, 4, stride=2, padding=1)
        self.at_eighth = nn.Sequential(ResidualBlock(eighth, eighth), ResidualBlock(eighth, eighth))
        self.out = nn.Conv2d(eighth, config.channels, 1)

    def forward(self, pixels: Float[Tensor, "v d h w"]) -> Features:
        """Return features of each view by itself."""
        # Folding 2 x 2 pixels into channels keeps every value and spares the costliest scale.
        half = self.at_half(self.stem(torch.nn.functional.pixel_unshuffle(pixels, 2)))
        quarter = self.at_quarter(self.down1(half))
        return Features(self.out(self.at_eighth(self.down2(quarter))), (half, quarter))
