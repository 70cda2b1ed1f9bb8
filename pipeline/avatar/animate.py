"""Avatars under a sequence of expressions, along a path of cameras."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Row
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ImageColor
from scipy.spatial.transform import Rotation

from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import InputError, ShapeError
from pipeline.core.types import Camera, ExpressionCode, Gaussians
from pipeline.expressions.sequences import Sequence
from pipeline.faces.layouts import (
    JAW,
    LEFT_EYE,
    RIGHT_EYE,
    matrix_from_rot6d,
    neutral_code,
    rot6d_from_matrix,
)
from pipeline.io.video import write_mp4, write_pngs, write_webm
from pipeline.render import render
from pipeline.system.progress import Progress, silent


@dataclass(frozen=True)
class Style:
    """How frames are drawn."""

    background: str = "white"
    """A colour by name or as #rrggbb."""
    alpha: bool = False
    """Give RGBA with nothing behind the head, instead of RGB on the background."""

    def __post_init__(self) -> None:
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise InputError(
                f"{self.background!r} is not a colour.", "Give a name such as white, or #rrggbb."
            ) from error

    @property
    def color(self) -> torch.Tensor:
        """Background, [3], sRGB in [0, 1]."""
        return torch.tensor(ImageColor.getrgb(self.background)[:3]) / 255


def exaggerate(sequence: Sequence, factor: float) -> Sequence:
    """Return the same expressions stronger: `factor` times as far from the neutral face.

    Rotations of jaw and eyes turn `factor` times as far about the same axis.
    """
    codes = sequence.codes
    neutral = neutral_code(codes.layout).values
    values = neutral + factor * (codes.values - neutral)
    for part in (JAW, LEFT_EYE, RIGHT_EYE):
        turns = Rotation.from_matrix(matrix_from_rot6d(codes.values[..., part]).double().numpy())
        wider = Rotation.from_rotvec(factor * turns.as_rotvec()).as_matrix()
        values[..., part] = rot6d_from_matrix(torch.from_numpy(wider).float())
    return replace(sequence, codes=ExpressionCode(values, codes.layout))


@torch.no_grad()
def picture(gaussians: Gaussians, camera: Camera, style: Style) -> UInt8[np.ndarray, "h w c"]:
    """Draw Gaussians to bytes, RGB or RGBA (the alpha is not multiplied in)."""
    behind = gaussians.means.new_zeros(3) if style.alpha else style.color.to(gaussians.means)
    drawn = render(gaussians, camera.to(gaussians.means.device), background=behind)
    color = drawn.color
    if style.alpha:
        color = torch.cat([color / drawn.alpha.clamp(min=1e-6), drawn.alpha], dim=-1)
    return (color.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def frames(
    avatars: Row[Avatar],
    sequences: Row[Sequence],
    cameras: Camera,
    style: Style = Style(),
    progress: Progress = silent,
) -> Iterator[UInt8[np.ndarray, "h w c"]]:
    """Draw each frame of a sequence from its camera, the avatars side by side.

    Args:
        avatars: One or several.
        sequences: The same expressions in the layout of each avatar.
        cameras: One for each frame.
        style: How to draw.
        progress: Called after each frame.

    Raises:
        LayoutError: If a sequence is not of its avatar's layout.
        ShapeError: If there is not one camera for each frame.
    """
    count = len(sequences[0])
    if len(cameras) != count:
        raise ShapeError(
            f"{count} expressions, but {len(cameras)} cameras.", "Give one camera for each frame."
        )
    for i in range(count):
        row = [
            picture(avatar.animate(sequence.codes[i]), cameras[i], style)
            for avatar, sequence in zip(avatars, sequences, strict=True)
        ]
        progress(i + 1, count)
        yield np.concatenate(row, axis=1)


def write_video(
    path: Path,
    avatars: Row[Avatar],
    sequences: Row[Sequence],
    cameras: Camera,
    style: Style = Style(),
    progress: Progress = silent,
) -> None:
    """Write .mp4, .webm, or a folder of PNG frames if the name has no suffix.

    Raises:
        LayoutError: If a sequence is not of its avatar's layout.
        InputError: If the name is of another kind, MP4 should be transparent, or the file cannot
            be written.
    """
    kind = path.suffix.lower()
    if kind not in ("", ".mp4", ".webm"):
        raise InputError(
            f"{path} is not the name of a video.",
            "Name it .mp4 or .webm, or without suffix for a folder of PNG frames.",
        )
    if kind == ".mp4" and style.alpha:
        raise InputError("MP4 has no transparency.", "Name the video .webm, or leave out --alpha.")
    if not sequences or not len(sequences[0]):
        raise InputError(f"There is no frame for {path}.", "Give a sequence that is not empty.")
    fps = sequences[0].fps
    drawn = frames(avatars, sequences, cameras, style, progress)
    if kind == ".mp4":
        write_mp4(path, drawn, fps)
    elif kind == ".webm":
        opaque = (rgb if style.alpha else _opaque(rgb) for rgb in drawn)
        write_webm(path, opaque, fps)
    else:
        write_pngs(path, drawn, sequences[0].origin)


def _opaque(rgb: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 4"]:
    return np.concatenate([rgb, np.full_like(rgb[..., :1], 255)], axis=-1)
