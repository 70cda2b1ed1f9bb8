"""Where point maps of a timestep's pictures come from: VGGT, files, or the tracked mesh.

Letters: v views of a group, h w pixels of a point map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.core.errors import ConfigError, FormatError, MissingItemError
from pipeline.core.types import View
from pipeline.io.raw_files import read_npz
from pipeline.perception.vggt import PointMaps, VggtPoints
from pipeline.system.files import inside

LARGEST = 2**34
"""Bytes of the point maps of a timestep, unpacked: of eighty views they are 350 MB."""
PointMapSource = Callable[[View, str, int, Sequence[int]], PointMaps]
"""Called with pictures [v] and which they are: subject, timestep, views."""


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
        path = inside(self._folder, subject, f"{timestep:06d}.npz")
        try:
            file = read_npz(path, lambda name: name in ("points", "confidence"), LARGEST)
            # Too large for a float is as unknown as infinite.
            with np.errstate(over="ignore", invalid="ignore"):
                points = np.asarray(file["points"], np.float32)[list(views)]
                sure = (
                    np.asarray(file["confidence"], np.float32)[list(views)]
                    if "confidence" in file
                    else np.ones(points.shape[:3], np.float32)
                )
        except (MissingItemError, KeyError, ValueError, TypeError, IndexError) as error:
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


def make_point_map_source(
    backend: str, folder: Path | None, weights: str, head: str, device: str
) -> PointMapSource:
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
