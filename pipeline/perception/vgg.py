"""VGG-16's and AlexNet's features at the layers that perceptual distances look at.

Letters: v pictures, h height, w width.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.perception.pretrained import imagenet

VGG16_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg16(nn.Module):
    """The convolutions of VGG-16, with torchvision's names of the weights.

    Its features are those after the last ReLU of each stage: relu1_2, 2_2, 3_3, 4_3, 5_3, the
    layers of LPIPS and of most perceptual losses.

    Source:
        Simonyan and Zisserman, Very deep convolutional networks, 2015, configuration D.
    """

    channels = tuple(stage[-1] for stage in VGG16_STAGES)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        before = 3
        for i, stage in enumerate(VGG16_STAGES):
            if i:
                layers.append(nn.MaxPool2d(2))
            for width in stage:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
                before = width
            self.taps.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)

    def forward(self, x: Float[Tensor, "v 3 h w"]) -> list[Tensor]:
        """Return the features of each stage; pictures in [0, 1], at least 16 pixels wide."""
        return _walk(self.features, self.taps, imagenet(x))


class AlexNet(nn.Module):
    """The convolutions of AlexNet, with torchvision's names; features after each of five ReLUs.

    Source:
        Krizhevsky, One weird trick for parallelizing convolutional neural networks, 2014.
    """

    channels = (64, 192, 384, 256, 256)

    def __init__(self) -> None:
        super().__init__()
        pool = nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), pool,
            nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), pool,
            nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(),
            nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(),
            nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.taps = [i for i, layer in enumerate(self.features) if isinstance(layer, nn.ReLU)]

    def forward(self, x: Float[Tensor, "v 3 h w"]) -> list[Tensor]:
        """Return the features after each ReLU; pictures in [0, 1], at least 63 pixels wide."""
        return _walk(self.features, self.taps, imagenet(x))


def _walk(layers: nn.Sequential, taps: list[int], x: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    for i, layer in enumerate(layers):
        x = layer(x)
        if i in taps:
            found.append(x)
    return found
