"""What a head wears around its neck, told from its hair, which may hang as low.

Clothes move with the shoulders and not with the head. A matte knows only who is in front, so what
is left of a collar beside a neck would be part of an avatar and turn with it.

Letters: h w size of a picture.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from scipy.ndimage import distance_transform_edt, gaussian_filter, label
from torch import Tensor

from pipeline.core.geometry import pixel_directions
from pipeline.core.types import Camera
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import HeadModel
from pipeline.render.triangles import draw_triangles

MOUTH_ABOVE_CHIN = 0.03
"""Metres. Hair beside a neck comes down from higher, clothes do not."""
NECK_WIDE, NECK_UNDER = 0.06, 0.01
"""So far to the side, and below the chin, the head model is shoulders and not neck."""
AT_FACE, AT_NECK = 0.008, 0.002
"""Metres beyond the head model that are still the head's: cheeks and beards are not its own, but a
neck is seldom wider than it says."""
TURNING = (-0.015, -0.005)
"""Heights above the chin between which the one becomes the other."""
THICK, NEAR = 0.006, 0.01
"""Metres. Clothes go further beyond than that, and begin nearer."""
SOLID = 0.3
"""Share of a pixel in the matte that ties what is beside it together."""
EDGE = 0.7
"""Pixels by which the cut is softened."""


def without_clothes(
    alpha: Float[Tensor, "h w"],
    depth: Float[Tensor, "h w"],
    mesh: TrackedMesh,
    camera: Camera,
    head: HeadModel,
    chin: float,
) -> Float[Tensor, "h w"]:
    """Return the share of each pixel that is kept of a head without what it wears at its neck.

    What stands beyond the head model about the neck, and does not come down from above the mouth,
    is taken for clothes.

    Args:
        alpha: The matte.
        depth: Of the head at each pixel, along the camera's z axis, metres.
        mesh: As posed in this picture alone.
        camera: Of the picture, from the head frame; no leading dimension.
        head: Model of the mesh.
        chin: Its height on the neutral head, metres.
    """
    pixel = float(camera.world_to_camera[2, 3] / camera.K[0, 0])
    R = camera.world_to_camera[:3, :3].to(depth)
    rays = torch.einsum("ji,jhw->ihw", R, depth * pixel_directions(camera).to(depth))
    height = (rays[1] + camera.centers[1] - chin).double().numpy()
    beyond = pixel * np.asarray(distance_transform_edt(~_covered(mesh, camera, head, chin)))
    beyond = beyond - np.interp(height, TURNING, (AT_NECK, AT_FACE))
    matte = alpha.numpy()
    parts = np.zeros(matte.shape, np.int32)
    label((beyond > 0) & (matte > SOLID), output=parts)
    found = range(1, int(parts.max()) + 1)
    worn = [i for i in found if _is_worn(beyond[parts == i], height[parts == i])]
    cut = np.isin(parts, worn)
    if not worn:
        return torch.ones_like(alpha)
    # What is half there beside clothes is their edge, and not that of what stays.
    hair = (parts > 0) & ~cut
    about = pixel * np.asarray(distance_transform_edt(~cut)) < THICK
    cut |= about & (beyond > 0) & (height < MOUTH_ABOVE_CHIN) & ~hair
    return torch.from_numpy(1 - gaussian_filter(cut.astype(np.float64), EDGE)).to(alpha)


def _is_worn(beyond: Float64[np.ndarray, "p"], height: Float64[np.ndarray, "p"]) -> bool:
    """Tell clothes from hair by how far beyond the head and how high their pixels go."""
    thick = beyond.max() > THICK and beyond.min() < NEAR
    return bool(thick and height.max() < MOUTH_ABOVE_CHIN)


def _covered(
    mesh: TrackedMesh, camera: Camera, head: HeadModel, chin: float
) -> Bool[np.ndarray, "h w"]:
    """Return where the head model is seen, without its shoulders."""
    rest = head.surface(mesh.neutral, mesh.neutral)
    shoulders = (rest[:, 1] < chin - NECK_UNDER) & (np.abs(rest[:, 0]) > NECK_WIDE)
    faces = head.faces[~shoulders[head.faces].any(1)]
    posed = head.surface(mesh.posed[0], mesh.neutral)
    return draw_triangles(posed, faces, camera).triangle >= 0
