"""FLAME parameters of one moment as a tracker left them, and what they say without the model.

The five joints are in FLAME's order: root, neck, jaw, left eye, right eye.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float64
from scipy.spatial.transform import Rotation

from pipeline.core.errors import ShapeError
from pipeline.core.types import CODE_SIZE, ExpressionCode
from pipeline.faces.layouts import (
    EXPRESSION,
    EYELIDS,
    FLAME2020,
    FLAME2023,
    JAW,
    LEFT_EYE,
    RIGHT_EYE,
    rot6d_from_matrix,
)

VERTICES = 5023
"""Of FLAME; exporters append others (teeth)."""
LAYOUT_OF = {"2020": FLAME2020, "2023": FLAME2023}
MAX_ABS = 1e4
"""A larger parameter, or translation in metres, comes of a damaged file or of another unit."""
ROOT, NECK, JAW_JOINT, LEFT, RIGHT = range(5)


@dataclass(frozen=True)
class FlameFit:
    """FLAME parameters; the world is that of the capture's cameras, metres."""

    version: Literal["2020", "2023"]
    """Which FLAME model the expression numbers belong to."""
    shape: Float64[np.ndarray, "300"]
    expression: Float64[np.ndarray, "100"]
    rotations: Float64[np.ndarray, "5 3 3"]
    """Of root, neck, jaw, left eye, right eye."""
    translation: Float64[np.ndarray, "3"]
    eyelids: Float64[np.ndarray, "2"]
    """Left, right; 0 where the tracker has none."""
    scale: float = 1.0
    """FLAME's metres to the world's."""
    root_about: Literal["joint", "origin"] = "joint"
    """What the root rotates about: its joint (FLAME's own way), or the origin of the model."""
    static_offset: Float64[np.ndarray, "5023 3"] | None = None
    """Added to the shaped template before joints and skinning, metres."""

    def __post_init__(self) -> None:
        wanted = {"shape": (300,), "expression": (100,), "rotations": (5, 3, 3)}
        wanted |= {"translation": (3,), "eyelids": (2,)}
        for name, shape in wanted.items():
            values: np.ndarray = getattr(self, name)
            if values.shape != shape or not (np.abs(values) < MAX_ABS).all():
                raise ShapeError(
                    f"FLAME parameters need finite {name} {list(shape)}; got {list(values.shape)}.",
                    "Track this frame again, or leave it out.",
                )

    def code(self) -> ExpressionCode:
        """Return the 120 numbers: expression, jaw, eyes, eyelids; no identity, no head pose."""
        values = torch.zeros(CODE_SIZE, dtype=torch.float64)
        values[EXPRESSION] = torch.from_numpy(self.expression)
        six = rot6d_from_matrix(torch.from_numpy(self.rotations))
        values[JAW], values[LEFT_EYE], values[RIGHT_EYE] = six[JAW_JOINT], six[LEFT], six[RIGHT]
        values[EYELIDS] = torch.from_numpy(self.eyelids)
        return ExpressionCode(values.float(), LAYOUT_OF[self.version])

    def head_to_world(
        self, joints: Float64[np.ndarray, "5 3"] | None = None
    ) -> Float64[np.ndarray, "4 4"] | None:
        """Return the motion of the skull: root and neck, as the code has neither.

        Args:
            joints: Rest positions of this person's five joints, FLAME frame, metres. They come
                of the FLAME model and the shape.

        Returns:
            From the head frame to the world; None if that depends on joints that are not given.
            The head frame is FLAME's rest frame in the size of this person (`scale` times
            FLAME's metres).
        """
        still = [np.allclose(self.rotations[i], np.eye(3), atol=1e-7) for i in (ROOT, NECK)]
        if joints is None:
            if not still[1] or not (still[0] or self.root_about == "origin"):
                return None
            joints = np.zeros((5, 3))
        neck = _about(self.rotations[NECK], joints[NECK] * self.scale)
        at = joints[ROOT] * self.scale if self.root_about == "joint" else np.zeros(3)
        root = _about(self.rotations[ROOT], at)
        root[:3, 3] += self.translation
        return root @ neck


def from_vectors(
    *,
    version: Literal["2020", "2023"],
    shape: np.ndarray,
    expression: np.ndarray,
    root: np.ndarray,
    neck: np.ndarray,
    jaw: np.ndarray,
    eyes: np.ndarray,
    translation: np.ndarray,
    static_offset: np.ndarray | None = None,
) -> FlameFit:
    """Return a fit whose rotations are written as rotation vectors (radians), as VHAP does.

    Args:
        version: Of the FLAME model.
        shape: Up to 300 numbers.
        expression: Up to 100 numbers.
        root: Three numbers; `neck` and `jaw` likewise.
        neck: See above.
        jaw: See above.
        eyes: Six numbers, left then right.
        translation: Metres.
        static_offset: [5023 or more, 3]; vertices after FLAME's own are left out.

    Raises:
        ShapeError: If a part has the wrong size or is not finite.
    """
    parts = {"root": (root, 3), "neck": (neck, 3), "jaw": (jaw, 3), "eyes": (eyes, 6)}
    for name, (values, size) in parts.items():
        if values.size != size or not (np.abs(values) < MAX_ABS).all():
            raise ShapeError(
                f"A FLAME pose needs {size} finite numbers for {name}; got {list(values.shape)}.",
                "Track this frame again, or leave it out.",
            )
    vectors = np.concatenate([np.ravel(v) for v, _ in parts.values()]).reshape(5, 3)
    return FlameFit(
        version=version,
        shape=_padded(shape, 300, "shape"),
        expression=_padded(expression, 100, "expression"),
        rotations=Rotation.from_rotvec(vectors.astype(np.float64)).as_matrix(),
        translation=np.ravel(translation).astype(np.float64),
        eyelids=np.zeros(2),
        static_offset=None if static_offset is None else _offset(static_offset),
    )


def _padded(values: np.ndarray, size: int, name: str) -> Float64[np.ndarray, "n"]:
    flat = np.ravel(values).astype(np.float64)
    if not 0 < flat.size <= size:
        raise ShapeError(
            f"FLAME has {size} numbers for {name}; got {list(values.shape)}.",
            "Give the parameters of one frame.",
        )
    return np.pad(flat, (0, size - flat.size))


def _offset(values: np.ndarray) -> Float64[np.ndarray, "5023 3"]:
    vertices = values.reshape(-1, 3) if values.size % 3 == 0 else values
    if vertices.ndim != 2 or len(vertices) < VERTICES or not (np.abs(vertices) < 1).all():
        raise ShapeError(
            f"An offset of FLAME's vertices is [{VERTICES} or more, 3]; got {list(values.shape)}.",
            "Export the tracking again.",
        )
    return vertices[:VERTICES].astype(np.float64, copy=False)


def _about(R: np.ndarray, center: np.ndarray) -> Float64[np.ndarray, "4 4"]:
    """Return the rotation about a point."""
    motion = np.eye(4)
    motion[:3, :3] = R
    motion[:3, 3] = center - R @ center
    return motion
