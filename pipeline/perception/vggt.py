"""Point maps by VGGT, which the user has installed.

Letters: v views of a group, h w pixels of a point map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32

from pipeline.core.errors import MissingPackageError, MissingWeightsError
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


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
