# pyright: basic
"""Where point maps of a timestep's pictures come from: VGGT, files, or the tracked mesh.

Letters: v views of a group, h w pixels of a point map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from PIL import Image

from pipeline.core.errors import ConfigError, FormatError, MissingPackageError, MissingWeightsError
from pipeline.core.types import View

SIDE = 518
"""Pictures go into VGGT at this size: 37 patches of 14 pixels."""
HUB = "facebook/VGGT-1B"


@dataclass(frozen=True)
class PointMaps:
    """Points seen by the pixels of several pictures, in one frame of any scale."""

    points: Float32[np.ndarray, "v h w 3"]
    """nan where unknown. Pixels divide the picture evenly, whatever its size."""
    confidence: Float32[np.ndarray, "v h w"]
    """1 or more; of no unit."""


Source = Callable[[View, str, int, Sequence[int]], PointMaps]
"""Called with pictures [v] and which they are: subject, timestep, views."""


class VggtPoints:
    """Point maps of VGGT, which the user has installed.

    Args:
        weights: Name on the hub, or a local folder.
        head: `depth` unprojects its depth with its cameras, which its authors found better than
            `points`, its point head.
        device: cpu or cuda; bfloat16 on cuda.

    Raises:
        MissingPackageError: If `vggt` cannot be imported.
        MissingWeightsError: If the weights are not here and cannot be fetched.

    Source:
        Wang et al., VGGT: Visual Geometry Grounded Transformer, CVPR 2025.
    """

    def __init__(
        self, weights: str = HUB, head: Literal["depth", "points"] = "depth", device: str = "cpu"
    ) -> None:
        try:
            from vggt.models.vggt import VGGT  # noqa: PLC0415  # pyright: ignore
            from vggt.utils.geometry import (  # noqa: PLC0415  # pyright: ignore
                unproject_depth_map_to_point_map,
            )
            from vggt.utils.pose_enc import (  # noqa: PLC0415  # pyright: ignore
                pose_encoding_to_extri_intri,
            )
        except ImportError as error:
            raise MissingPackageError(
                "The backend vggt needs the package vggt, which is on no package index.",
                "Install it: pip install git+https://github.com/facebookresearch/vggt; or choose "
                "--backend precomputed or mesh.",
            ) from error
        try:
            net: Any = VGGT.from_pretrained(weights)
        except (OSError, ValueError) as error:
            raise MissingWeightsError(
                f"The weights {weights} of VGGT are not here and cannot be fetched.",
                "Accept their licence (non-commercial) on the hub, or give a local folder.",
            ) from error
        self._net = net.to(device).eval()
        self._unproject, self._cameras = (
            unproject_depth_map_to_point_map,
            pose_encoding_to_extri_intri,
        )
        self._head, self._device = head, device

    def __call__(self, view: View, subject: str, timestep: int, views: Sequence[int]) -> PointMaps:
        """Return the point maps of one group, in the frame of its first camera."""
        images = torch.nn.functional.interpolate(
            view.image, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True
        ).clamp(0, 1)
        cuda = self._device.startswith("cuda")
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            out = self._net(images.to(self._device))
        if self._head == "points":
            points, sure = out["world_points"][0], out["world_points_conf"][0]
            return PointMaps(_array(points), _array(sure))
        extrinsic, intrinsic = self._cameras(out["pose_enc"], (SIDE, SIDE))
        depth, sure = out["depth"][0], out["depth_conf"][0]
        points = self._unproject(_array(depth), _array(extrinsic[0]), _array(intrinsic[0]))
        return PointMaps(np.asarray(points, np.float32), _array(sure))


class PrecomputedPoints:
    """Point maps from files `<folder>/<subject>/<timestep>.npz`.

    A file holds `points` float32 [v h w 3] of all views of the shard's timestep (counted from 0, as
    `000012`), in one frame of any scale, nan where unknown; and, if there, `confidence` [v h w].

    Raises:
        FormatError: If a file is missing, damaged, or has other shapes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, view: View, subject: str, timestep: int, views: Sequence[int]) -> PointMaps:
        """Read the point maps of one group."""
        path = self._folder / subject / f"{timestep:06d}.npz"
        try:
            with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
                points = np.asarray(file["points"], np.float32)[list(views)]
                sure = (
                    np.asarray(file["confidence"], np.float32)[list(views)]
                    if "confidence" in file.files
                    else np.ones(points.shape[:3], np.float32)
                )
        except Exception as error:  # noqa: BLE001  numpy and zipfile raise many kinds
            raise FormatError(
                f"{path} is missing or not a file of point maps: {error}.",
                "It holds `points` [v h w 3], and may hold `confidence` [v h w].",
            ) from error
        if points.ndim != 4 or points.shape[3] != 3 or sure.shape != points.shape[:3]:
            raise FormatError(
                f"{path} has points {list(points.shape)}, confidence {list(sure.shape)}.",
                "Write points [v h w 3] and confidence [v h w].",
            )
        return PointMaps(points, sure)


def shrunk(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a matte [h w] at the size of a point map."""
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BOX))


def make_source(backend: str, folder: Path | None, weights: str, head: str, device: str) -> Source:
    """Return a source of point maps by name.

    Raises:
        ConfigError: If there is none of that name, or `precomputed` has no folder.
    """
    if backend == "vggt":
        return VggtPoints(weights, "points" if head == "points" else "depth", device)
    if backend != "precomputed":
        raise ConfigError(
            f"There is no backend {backend!r}.", "Choose one of vggt, precomputed, mesh."
        )
    if folder is None:
        raise ConfigError("Precomputed point maps need their folder.", "Add --points FOLDER.")
    return PrecomputedPoints(folder)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
