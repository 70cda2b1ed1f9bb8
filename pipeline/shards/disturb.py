"""What real inputs suffer: errors of the tracker, and damage to pictures and mattes.

Only inputs are disturbed, so that a model learns to weigh the mesh against what the views say, and
to give clean pictures of poor ones.

Letters: v pictures, m control vertices.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32
from PIL import Image
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import EXPRESSION, MAKEHUMAN, arkit_to_code, code_to_arkit

FACE = np.array([0.0, -0.02, 0.08])
"""Middle of the face, head frame, metres: a tracker that turns a head wrongly keeps it in place."""


@dataclass(frozen=True)
class Tracking:
    """Errors of a tracker, as standard deviations; measured through the detector."""

    share: float = 0.0
    """Of the samples that have such errors."""
    degrees: tuple[float, float, float] = (2.4, 1.6, 1.1)
    """Of the head in each picture: pitch, yaw, roll."""
    shift_mm: float = 2.0
    """Of the face in each picture, along each axis."""
    shape: float = 0.03
    """Of the head's proportions about the middle of the face: 3 mm at 10 cm."""
    rear: float = 0.08
    """More of it where no landmark reaches, from the ears backwards."""
    bumps_mm: float = 2.0
    """Of the surface from place to place."""
    units: float = 0.08
    """Of the face units' weights, in each picture."""


@dataclass(frozen=True)
class Damage:
    """Damage to input pictures."""

    share: float = 0.0
    """Of the pictures that are damaged."""
    blur: float = 0.5
    """The picture is shrunk to at least this share of its size, and enlarged again."""
    noise: float = 0.03
    """Greatest standard deviation of a pixel's noise."""
    jpeg: int = 40
    """Lowest quality."""
    matte: float = 0.015
    """Greatest error of the matte's edge, in widths of the picture."""
    exposure: float = 0.2
    """Standard deviation of the picture's exposure, in stops."""
    balance: float = 0.04
    """The same of its white balance, of red and blue against green, in stops."""


def mistrack(
    mesh: TrackedMesh,
    camera: Camera,
    codes: ExpressionCode,
    errors: Tracking,
    rng: np.random.Generator,
) -> tuple[TrackedMesh, Camera]:
    """Return mesh and cameras as a tracker might have found them.

    The mesh stays where the face is in each picture: what is wrong is the head's pose, with the
    camera that goes with it, its shape and its expression. The first picture keeps its pose.

    Args:
        mesh: The true one, posed in each of v pictures.
        camera: The true ones [v].
        codes: Of the pictures [v, 120].
        errors: How large they are.
        rng: Source of the errors.
    """
    head = head_model(mesh.layout)
    neutral = misshape(mesh.neutral, errors, rng)
    posed = [head.posed(neutral, _misread(code, mesh.layout, errors, rng)) for code in codes.values]
    count = len(mesh)
    turns = np.radians(errors.degrees) * rng.normal(size=(count, 3))
    shifts = errors.shift_mm / 1e3 * rng.normal(size=(count, 3))
    turns[0], shifts[0] = 0.0, 0.0
    # x -> R (x - face) + face + shift: where the true head is, seen from the one that was found.
    move = np.tile(np.eye(4), (count, 1, 1))
    move[:, :3, :3] = Rotation.from_rotvec(turns).as_matrix()
    move[:, :3, 3] = FACE - move[:, :3, :3] @ FACE + shifts
    world_to_camera = camera.world_to_camera @ torch.from_numpy(move).to(camera.world_to_camera)
    found = TrackedMesh(mesh.layout, neutral, np.stack(posed))
    return found, replace(camera, world_to_camera=world_to_camera)


def misshape(
    neutral: Float32[np.ndarray, "m 3"], errors: Tracking, rng: np.random.Generator
) -> Float32[np.ndarray, "m 3"]:
    """Return a person's neutral mesh with smooth errors, the largest behind the ears."""
    arms = neutral - FACE
    behind = np.clip(-arms[:, 2:] / 0.1 - 0.6, 0.0, 1.5)
    found = neutral + arms @ rng.normal(0, errors.shape, (3, 3))
    found = found + behind * arms * rng.normal(0, errors.rear, 3)
    for _ in range(8):
        center = neutral[int(rng.integers(len(neutral)))]
        near = np.exp(-((neutral - center) ** 2).sum(1, keepdims=True) / (2 * 0.035**2))
        found = found + near * rng.normal(0, errors.bumps_mm / 1e3, 3)
    return found.astype(np.float32)


def _misread(
    values: Float[Tensor, "120"], layout: str, errors: Tracking, rng: np.random.Generator
) -> ExpressionCode:
    """Return the code of a picture with errors."""
    code = ExpressionCode(values, layout)
    if layout == MAKEHUMAN:
        weights = code_to_arkit(code).numpy()
        return arkit_to_code(np.clip(weights + rng.normal(0, errors.units, weights.shape), 0, 1))
    noisy = values.clone()
    noise = rng.normal(0, 2 * errors.units, EXPRESSION.stop)
    noisy[EXPRESSION] += torch.from_numpy(noise).to(values)
    return ExpressionCode(noisy, layout)


def damage(view: View, how: Damage, rng: np.random.Generator) -> View:
    """Return views [v] of which some are blurred, noisy, compressed, and wrongly cut out."""
    images, alphas = list(view.image), list(view.alpha)
    for i in range(len(view)):
        if rng.random() < how.share:
            images[i], alphas[i] = _damaged(view.image[i], view.alpha[i], how, rng)
    return replace(view, image=torch.stack(images), alpha=torch.stack(alphas))


def _damaged(
    image: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"],
    how: Damage,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "1 h w"]]:
    size = image.shape[-2:]
    image = _expose(image, alpha, how, rng)
    small = [max(int(side * rng.uniform(how.blur, 1.0)), 8) for side in size]
    shrunk = functional.interpolate(image[None], small, mode="bilinear", antialias=True)
    image = functional.interpolate(shrunk, size, mode="bilinear")[0]
    image = image + how.noise * rng.random() * torch.from_numpy(rng.normal(size=image.shape)).to(
        image
    )
    pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(how.jpeg, 96)))
    with Image.open(file) as opened:
        image = torch.from_numpy(np.asarray(opened).copy()).permute(2, 0, 1) / 255
    reach = 2 * round(how.matte * size[0] * rng.random()) + 1
    if reach > 1:
        grow = rng.random() < 0.5
        matte = functional.max_pool2d((alpha if grow else 1 - alpha)[None], reach, 1, reach // 2)
        matte = functional.avg_pool2d(matte, 3, 1, 1, count_include_pad=False)[0]
        alpha = matte if grow else 1 - matte
        if not grow:  # a matte that is too small shows white where it cuts the head off
            image = image * alpha + matte
    return image, alpha


def _expose(
    image: Float[Tensor, "3 h w"],
    alpha: Float[Tensor, "1 h w"],
    how: Damage,
    rng: np.random.Generator,
) -> Float[Tensor, "3 h w"]:
    """Return the picture under another exposure and white balance; white stays behind the head."""
    red, blue = rng.normal(0, how.balance, 2)
    stops = rng.normal(0, how.exposure) + np.array([red, 0.0, blue])
    # 2.2 is close enough to sRGB for a gain; what is lost at 1 is lost as a camera loses it.
    gain = torch.from_numpy(2.0 ** (stops / 2.2)).to(image)[:, None, None]
    head = (image - 1 + alpha) * gain
    return torch.minimum(head, alpha) + 1 - alpha
