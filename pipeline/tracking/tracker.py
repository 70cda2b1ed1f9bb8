"""A tracked head: what the network sees of some pictures, and the one fit of all of them.

Letters: n pictures, v vertices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float32

from pipeline.core.arrays import Rgb
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.makehuman import load_asset
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsFinder, PointsSeen
from pipeline.tracking.bundle import Bundle, BundleConfig, Poses, Sighting, fit
from pipeline.tracking.models import FaceState, MakeHumanFace
from pipeline.tracking.surface import Surface, face_state


@dataclass(frozen=True)
class TrackedHead:
    """One person's head in some pictures."""

    bundle: Bundle
    mesh: TrackedMesh
    """Neutral, and posed for each moment."""
    codes: ExpressionCode
    """Of each moment."""

    @property
    def landmarks(self) -> Float32[np.ndarray, "68 3"]:
        """The neutral face's landmarks, head frame, metres."""
        return _landmarks(self.mesh.neutral)


class HeadTracker:
    """Sees the head model's points in pictures and fits the head to them.

    Args:
        finder: The network; the shipped one if not given.
    """

    def __init__(self, finder: PointsFinder | None = None) -> None:
        self.finder = finder or PointsFinder()
        self.model = MakeHumanFace()
        self._surface = Surface(self.finder.vertices)

    def see(self, rgb: Rgb, face: Face) -> PointsSeen:
        """Return where the points of a detected face are."""
        return self.finder(rgb, face)

    def fit(
        self,
        seen: Sequence[PointsSeen],
        sizes: Sequence[tuple[int, int]],
        *,
        focals: Sequence[float | None] | None = None,
        cameras: Sequence[Camera] | None = None,
        moments: Sequence[int] | None = None,
        lenses: Sequence[int] | None = None,
        poses: Poses = "each",
        config: BundleConfig | None = None,
    ) -> TrackedHead:
        """Fit one person's head to what was seen.

        Args:
            seen: In each picture.
            sizes: Width and height of each.
            focals: Focal lengths in pixels that are known, for example from EXIF.
            cameras: Of each picture, world to camera, if they are known.
            moments: Which pictures show one moment; each its own if not given.
            lenses: Which pictures one lens took, without a zoom; each its own if not given.
            poses: See `pipeline.tracking.bundle.fit`.
            config: Priors; those of photographs if not given.

        Raises:
            As `pipeline.tracking.bundle.fit`.
        """
        n = len(seen)
        found = fit(
            self._surface,
            [
                Sighting(
                    points=one.points,
                    sigma=one.sigma,
                    size=sizes[i],
                    moment=i if moments is None else moments[i],
                    camera=None if cameras is None else cameras[i],
                    focal=None if focals is None else focals[i],
                    lens=i if lenses is None else lenses[i],
                    numbers=one.numbers,
                    numbers_sigma=one.numbers_sigma,
                )
                for i, one in zip(range(n), seen, strict=True)
            ],
            config or BundleConfig(),
            poses=poses,
        )
        return self._tracked(found)

    @torch.no_grad()
    def _tracked(self, found: Bundle) -> TrackedHead:
        identity = torch.from_numpy(found.identity).float()
        state = face_state(found.states)
        rest = FaceState.neutral(self.model.expression_size)
        neutral = self.model.vertices(identity, rest)[0].numpy()
        posed = self.model.vertices(identity, state).numpy()
        mesh = TrackedMesh(self.model.layout, neutral, posed)
        return TrackedHead(found, mesh, state.code(self.model.layout))


def _landmarks(neutral: Float32[np.ndarray, "v 3"]) -> Float32[np.ndarray, "68 3"]:
    return neutral[load_asset().landmarks]
