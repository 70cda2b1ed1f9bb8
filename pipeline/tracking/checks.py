"""Check that a capture's picture, camera, pose, mesh and matte fit each other.

One look at the tracked mesh on the matte catches millimetres taken for metres, a transposed or
inverted matrix, OpenGL taken for OpenCV, a principal point from the wrong edge, and a wrong crop.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw
from scipy.spatial import ConvexHull, QhullError

from pipeline.core.geometry import project
from pipeline.core.types import Camera

MIN_OVERLAP = 0.5
"""Of mesh and matte. A true fit has 0.65 to 0.9, as hair and ears go past the mesh."""


def geometry_problems(
    camera: Camera,
    *,
    head_to_world: Float[np.ndarray, "4 4"] | None = None,
    mesh: Float[np.ndarray, "n 3"] | None = None,
    matte: UInt8[np.ndarray, "h w"] | None = None,
) -> list[str]:
    """Return what does not fit, in words; an empty list if all does.

    Args:
        camera: A single camera of the world.
        head_to_world: Head pose, metres.
        mesh: Tracked vertices in the world, metres.
        matte: Coverage by the person, of the camera's size.
    """
    found: list[str] = []
    cx, cy = camera.K[0, 2].item(), camera.K[1, 2].item()
    if not (0 < cx < camera.width and 0 < cy < camera.height):
        found.append(f"the principal point ({cx:.0f}, {cy:.0f}) is outside the picture")
    if head_to_world is not None:
        pixel, depth = project(camera, torch.from_numpy(head_to_world[None, :3, 3]).to(camera.K))
        x, y = pixel[0].tolist()
        if not (0 < x < camera.width and 0 < y < camera.height and float(depth[0]) > 0):
            found.append(f"the head is at ({x:.0f}, {y:.0f}), outside the picture")
    if mesh is not None and matte is not None:
        share = overlap(camera, mesh, matte)
        if not share >= MIN_OVERLAP:
            found.append(f"the tracked mesh covers the matte by {share:.2f} only")
    return found


def overlap(
    camera: Camera, mesh: Float[np.ndarray, "n 3"], matte: UInt8[np.ndarray, "h w"]
) -> float:
    """Return the intersection over union of the mesh's outline and the matte.

    The person's body goes on below the mesh: what is lower than it does not count.
    """
    pixels, depth = project(camera, torch.from_numpy(mesh).to(camera.K))
    outline = _outline(pixels[depth > 0].double().numpy(), matte.shape)
    rows = np.flatnonzero(outline.any(axis=1))
    if not len(rows):
        return 0.0
    person = matte > 127
    person[rows[-1] + 1 :] = False
    return float((outline & person).sum() / (outline | person).sum())


def _outline(pixels: Float[np.ndarray, "n 2"], shape: tuple[int, ...]) -> Bool[np.ndarray, "h w"]:
    canvas = Image.new("1", (shape[1], shape[0]))
    near = np.clip(pixels[np.isfinite(pixels).all(axis=1)], -1e5, 1e5)
    try:
        corners = near[ConvexHull(near).vertices]
    except (QhullError, ValueError, IndexError):  # fewer than three points, or all on one line
        return np.asarray(canvas)
    ImageDraw.Draw(canvas).polygon([(x, y) for x, y in corners.tolist()], fill=1)
    return np.asarray(canvas)
