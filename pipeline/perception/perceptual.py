"""The perceptual term of training: a distance of pictures in a network's features."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.perception.mobilenet import MobileNetV2
from pipeline.perception.pretrained import fill, read_state
from pipeline.perception.vgg import Vgg16

WHAT = "torchvision's VGG-16 or MobileNetV2 weights (.pth)"
VGG_ONLY = "features.28.weight"


def load_perceptual(path: Path, device: str) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the perceptual distance of a file with torchvision's VGG-16 or MobileNetV2 weights.

    The distance is the squared difference of features of unit length at each pixel, as in LPIPS
    without its learnt weights, averaged over pixels and taps. Pictures are RGB in [0, 1] and
    normalised as ImageNet's were.

    Raises:
        InputError: If there is no file.
        FormatError: If it does not hold these weights.

    Source:
        FastGHA section 4.1 names a VGG perceptual loss, neither its layers nor its distance.
    """
    state = read_state(path, WHAT)
    net = fill(Vgg16() if VGG_ONLY in state else MobileNetV2(), state, path, WHAT).to(device)

    def distance(drawn: Tensor, truth: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = net(truth)
        terms = [
            (functional.normalize(a, dim=1) - functional.normalize(b, dim=1)).square().sum(1)
            for a, b in zip(net(drawn), wanted)
        ]
        return torch.stack([term.mean() for term in terms]).mean()

    return distance
