"""MobileNetV2's features, for machines where VGG is too slow.

Letters: v pictures, h height, w width.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.perception.pretrained import imagenet

Settings = tuple[int, int, int, int]
# Expansion, channels, repeats, stride: Table 2 of the paper, as torchvision numbers the blocks.
BLOCKS: tuple[Settings, ...] = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
)
TAPS = (1, 3, 6, 10, 13)
"""Blocks whose outputs are compared: the last of each resolution, and of the widest."""


class MobileNetV2(nn.Module):
    """The first fourteen blocks of MobileNetV2, with torchvision's names of the weights.

    Source:
        Sandler et al., MobileNetV2, 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = [_unit(3, 32, 3, 2, 1)]
        before = 32
        for expansion, channels, repeats, stride in BLOCKS:
            for i in range(repeats):
                blocks.append(_Block(before, channels, expansion, stride if i == 0 else 1))
                before = channels
        self.features = nn.Sequential(*blocks)

    def forward(self, x: Float[Tensor, "v 3 h w"]) -> list[Tensor]:
        """Return the features at the taps; pictures in [0, 1]."""
        x = imagenet(x)
        found: list[Tensor] = []
        for i, block in enumerate(self.features):
            x = block(x)
            if i in TAPS:
                found.append(x)
        return found


class _Block(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        parts: list[nn.Module] = [_unit(channels_in, wide, 1, 1, 1)] if expansion > 1 else []
        parts += [
            _unit(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out),
        ]
        self.conv = nn.Sequential(*parts)
        self.shortcut = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.shortcut else self.conv(x)


def _unit(channels_in: int, channels_out: int, size: int, stride: int, groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(inplace=True),
    )
