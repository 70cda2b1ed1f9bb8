"""Where eyes look and how far they are shut, from a closer look at each.

A very small network of our own, trained on drawn people (tools/train_eyes.py): in the square that
shows a whole head, an iris is a pixel or two.

Letters: f faces, s side of a square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.io.tensors import read_header
from pipeline.perception.landmarks import cut_square
from pipeline.system.assets import EYES

KIND, VERSION = "fastgha-eyes", 1
SIDE = 40
"""Pixels of the square about an eye that the network sees."""
MARGIN = 1.7
"""Its side over the distance between the eye's corners, or what that would be from the front."""
RIGHT, LEFT = slice(36, 42), slice(42, 48)
"""Landmarks of the person's eyes: corners at both ends of each row."""
APART = 0.37
"""Distance between an eye's corners over that between the eyes' middles, on the mean head."""
WIDTHS = (24, 48, 64, 96)
HIDDEN = 96
OUTPUTS = 3
"""Of each eye: pitch and yaw of its gaze, as in `pipeline.tracking.surface`, and its lid."""
BOUND = 4.0
"""Of a logarithm of a standard deviation."""
GAZE_UNIT = 0.2
"""Radians that a one of the network's is; a lid's one is shut."""


class EyesNet(nn.Module):
    """Four convolutions over each eye, the left one mirrored, then two layers over both.

    It is also told where the 68 landmarks stand, for an eye looks somewhere in a head that is
    turned itself.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(last, width, 3, 2, 1), nn.ReLU()]
            last = width
        self.features = nn.Sequential(*layers)
        cells = (SIDE // 16 + 1) ** 2
        self.eye = nn.Linear(last * cells, HIDDEN)
        self.hidden = nn.Linear(2 * HIDDEN + 136, HIDDEN)
        self.out = nn.Linear(2 * HIDDEN, 4 * OUTPUTS)

    def forward(
        self, eyes: Float[Tensor, "f 2 3 s s"], marks: Float[Tensor, "f 68 2"]
    ) -> tuple[Float[Tensor, "f 6"], Float[Tensor, "f 6"]]:
        """Return gaze and lids, and the logarithms of their standard deviations.

        Args:
            eyes: Right and mirrored left square; colours in [0, 1].
            marks: Landmarks, as `faced` gives them.

        Returns:
            Left pitch and yaw, right pitch and yaw, left and right lid; gaze in `GAZE_UNIT`.
        """
        middle = eyes.mean((3, 4), keepdim=True)
        x = (eyes - middle) / (eyes.std((2, 3, 4), keepdim=True) + 0.05)
        each = torch.relu(self.eye(self.features(x.flatten(0, 1)).flatten(1))).unflatten(0, (-1, 2))
        both = torch.relu(self.hidden(torch.cat([each.flatten(1), marks.flatten(1)], 1)))
        mean, log = self.out(torch.cat([both, each.sum(1)], 1)).chunk(2, dim=1)
        return mean, log.clamp(-BOUND, BOUND)


def faced(points: Float64[np.ndarray, "68 2"], angle: float) -> Float32[np.ndarray, "68 2"]:
    """Return landmarks upright, in their own size, about their middle."""
    cos, sin = np.cos(angle), np.sin(angle)
    upright = points @ np.array([[cos, -sin], [sin, cos]])
    upright = upright - upright.mean(0)
    return (upright / np.sqrt((upright**2).sum(1).mean())).astype(np.float32)


def squares(
    picture: Image.Image, points: Float64[np.ndarray, "68 2"], side: int = SIDE
) -> tuple[Float32[np.ndarray, "2 s s 3"], float]:
    """Return the squares about both eyes, the left one mirrored, and how the face leans.

    Args:
        picture: A picture.
        points: The 68 landmarks in it, pixels.
        side: Of the squares, pixels.
    """
    middles = [points[eye].mean(0) for eye in (RIGHT, LEFT)]
    across = middles[1] - middles[0]
    down = points[8] - (middles[0] + middles[1]) / 2
    # Up is across the eyes where they are seen apart, and along the face where not.
    lean = np.array([-across[1], across[0]]) + down
    angle = float(np.arctan2(-lean[0], lean[1]))
    size = max(
        float(np.linalg.norm(down)) * 0.35,
        APART * float(np.linalg.norm(across)),
        *(float(np.linalg.norm(points[eye][3] - points[eye][0])) for eye in (RIGHT, LEFT)),
    )
    cut = [cut_square(picture, middle, MARGIN * size, angle, side) for middle in middles]
    return np.stack([cut[0], cut[1][:, ::-1]]), angle


class EyesFinder:
    """Looks at the eyes of a face whose points are known.

    Args:
        path: Weights; the shipped ones if not given.

    Raises:
        FormatError: If they are not those of such a network.
    """

    def __init__(self, path: Path = EYES) -> None:
        read_header(path, KIND, VERSION)
        self._net = EyesNet()
        self._net.load_state_dict({k: v.float() for k, v in load_file(path).items()})
        self._net = self._net.eval().requires_grad_(False)

    def __call__(
        self, picture: Image.Image, points: Float64[np.ndarray, "68 2"]
    ) -> tuple[Float64[np.ndarray, "6"], Float64[np.ndarray, "6"]]:
        """Return gaze (left pitch, yaw, right pitch, yaw; radians) and lids, and their sigmas."""
        cut, angle = squares(picture, points)
        eyes = torch.from_numpy(np.ascontiguousarray(cut)).permute(0, 3, 1, 2)[None]
        mean, log = self._net(eyes, torch.from_numpy(faced(points, angle))[None])
        unit = np.array([GAZE_UNIT] * 4 + [1.0] * 2)
        return mean[0].double().numpy() * unit, np.exp(log[0].double().numpy()) * unit
