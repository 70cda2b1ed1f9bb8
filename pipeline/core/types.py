"""The values that pass between the parts: frozen, with shapes and units, checked when made.

Letters: v views or cameras (any leading dimensions), h height, w width, n Gaussians,
c colour channels, f feature channels. Frames and units are those of CONVENTIONS.md.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Self, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.errors import CameraError, LayoutError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

V = TypeVar("V")
T = TypeVar("T", bound="_Tensors")

CODE_SIZE = 120
"""Numbers in an expression code: expression 100, jaw 6, eyes 12, eyelids 2."""

ROTATION_TOLERANCE = 1e-3


class _Tensors:
    """What all values of tensors share: moving to a device or a type together."""

    def to(self, target: torch.device | torch.dtype | str) -> Self:
        """Return the same value on another device or in another floating type."""
        moved = {
            f.name: value.to(target) if isinstance(value, Tensor) else value
            for f in fields(self)  # pyright: ignore[reportArgumentType]
            for value in [getattr(self, f.name)]
        }
        return type(self)(**moved)


def map_tensors(value: V, move: Callable[[Tensor], Tensor]) -> V:
    """Return a frozen value of tensors, and of values of tensors, with each of them moved."""
    if isinstance(value, Tensor):
        return move(value)  # pyright: ignore[reportReturnType]
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{f.name: map_tensors(getattr(value, f.name), move)
                             for f in fields(value)})  # fmt: skip


@dataclass(frozen=True)
class Camera(_Tensors):
    """One or more pinhole cameras of one image size.

    Raises:
        CameraError: If a matrix is not finite or not a rigid motion, or `K` is not in pixels.
        ShapeError: If the shapes do not fit each other.
    """

    world_to_camera: Float[Tensor, "*v 4 4"]
    """Rigid motion from the head frame to the OpenCV camera frame (x right, y down, z forward);
    translation in metres."""
    K: Float[Tensor, "*v 3 3"]
    """Intrinsics in pixels; the centre of the top left pixel is at (0.5, 0.5)."""
    width: int
    """Image width in pixels."""
    height: int
    """Image height in pixels."""

    def __post_init__(self) -> None:
        E, K = self.world_to_camera, self.K
        if E.shape[-2:] != (4, 4) or K.shape[-2:] != (3, 3) or E.shape[:-2] != K.shape[:-2]:
            raise ShapeError(
                f"A camera needs world_to_camera [..., 4, 4] and K [..., 3, 3]; got "
                f"{list(E.shape)} and {list(K.shape)}.",
                "Give both the same leading dimensions.",
            )
        if self.width < 1 or self.height < 1:
            raise ShapeError(
                f"An image of {self.width}x{self.height} pixels has no pixel.",
                "Give a positive width and height.",
            )
        if E.device.type != "cpu":
            return  # looking at numbers elsewhere waits for them; they were checked where made
        if not (torch.isfinite(E).all() and torch.isfinite(K).all()):
            raise CameraError(
                "A camera has numbers that are not finite (nan or inf).",
                "Leave this view out, or calibrate it again.",
            )
        with torch.no_grad():
            R = E[..., :3, :3].double()
            error = (R @ R.mT - torch.eye(3).to(R)).abs()
            bottom = (E[..., 3, :] - torch.tensor([0.0, 0.0, 0.0, 1.0]).to(E)).abs()
            if R.numel() and (
                error.max() > ROTATION_TOLERANCE
                or bottom.max() > ROTATION_TOLERANCE
                or torch.linalg.det(R).min() < 0
            ):
                raise CameraError(
                    "world_to_camera is not a rigid motion (rotation, translation, 0 0 0 1).",
                    "Check for a transposed matrix, a scale, or a mirrored axis.",
                )
            if K.numel() and (K[..., [0, 1], [0, 1]] < 0.05 * max(self.width, self.height)).any():
                raise CameraError(
                    f"Focal length {float(K[..., [0, 1], [0, 1]].min()):.3g} px is too short for "
                    f"a {self.width}x{self.height} image.",
                    "Intrinsics are in pixels: multiply normalised ones by the image size.",
                )

    def __getitem__(self, index: int | slice | Sequence[int]) -> Camera:
        """Select along the first leading dimension."""
        return Camera(self.world_to_camera[index], self.K[index], self.width, self.height)

    def __len__(self) -> int:
        if self.world_to_camera.ndim < 3:
            raise TypeError("A single camera has no length.")
        return self.world_to_camera.shape[0]

    @property
    def centers(self) -> Float[Tensor, "*v 3"]:
        """Camera centres in the head frame, metres."""
        R, t = self.world_to_camera[..., :3, :3], self.world_to_camera[..., :3, 3]
        return -(R.mT @ t[..., None])[..., 0]

    def resized(self, width: int, height: int) -> Camera:
        """Return the camera of the same picture resampled to another size."""
        scale = torch.tensor([width / self.width, height / self.height, 1.0]).to(self.K)
        return Camera(self.world_to_camera, self.K * scale[:, None], width, height)


@dataclass(frozen=True)
class View(_Tensors):
    """Pictures with their mattes and cameras; several views share leading dimensions."""

    image: Float[Tensor, "*v 3 h w"]
    """sRGB in [0, 1], composited on white."""
    alpha: Float[Tensor, "*v 1 h w"]
    """Coverage by the head, in [0, 1]."""
    camera: Camera

    def __post_init__(self) -> None:
        size = (self.camera.height, self.camera.width)
        lead = self.camera.K.shape[:-2]
        if self.image.shape != (*lead, 3, *size) or self.alpha.shape != (*lead, 1, *size):
            raise ShapeError(
                f"Views need image {[*lead, 3, *size]} and alpha {[*lead, 1, *size]}; got "
                f"{list(self.image.shape)} and {list(self.alpha.shape)}.",
                "Images are channels first and of the camera's size.",
            )
        if not self.image.is_floating_point() or not self.alpha.is_floating_point():
            raise ShapeError(
                f"Pictures are floats in [0, 1]; got {self.image.dtype}.", "Divide bytes by 255."
            )

    def __getitem__(self, index: int | slice | Sequence[int]) -> View:
        """Select along the first leading dimension."""
        return View(self.image[index], self.alpha[index], self.camera[index])

    def __len__(self) -> int:
        return len(self.camera)

    def to(self, target: torch.device | torch.dtype | str) -> View:
        """Return the same views on another device or in another floating type."""
        return View(self.image.to(target), self.alpha.to(target), self.camera.to(target))


@dataclass(frozen=True)
class Gaussians(_Tensors):
    """A set of 3D Gaussians in the head frame, as 3DGS and gsplat define them."""

    means: Float[Tensor, "n 3"]
    """Centres, metres."""
    quats: Float[Tensor, "n 4"]
    """Rotations, quaternions in wxyz order; need not be of unit length."""
    scales: Float[Tensor, "n 3"]
    """Standard deviations along the rotated axes, metres, linear (not logarithms)."""
    opacities: Float[Tensor, "n"]
    """In [0, 1], linear (not logits)."""
    colors: Float[Tensor, "n c"]
    """sRGB in [0, 1], not spherical harmonics; other channels may be drawn too."""

    def __post_init__(self) -> None:
        n = self.means.shape[0] if self.means.ndim else 0
        wanted = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,)}
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                raise ShapeError(
                    f"Gaussians need {name} {list(shape)}; got {list(getattr(self, name).shape)}.",
                    "All fields describe the same Gaussians, one row each.",
                )
        if self.colors.ndim != 2 or self.colors.shape[0] != n:
            raise ShapeError(
                f"Gaussians need colors [{n}, c]; got {list(self.colors.shape)}.",
                "Give one row of channels for each Gaussian.",
            )

    def __len__(self) -> int:
        return self.means.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Gaussians:
        """Select Gaussians by a slice, a mask or indices."""
        return Gaussians(
            self.means[index],
            self.quats[index],
            self.scales[index],
            self.opacities[index],
            self.colors[index],
        )

    def __add__(self, more: Gaussians) -> Gaussians:
        """Return both sets as one, in this order."""
        return Gaussians(
            torch.cat([self.means, more.means]),
            torch.cat([self.quats, more.quats]),
            torch.cat([self.scales, more.scales]),
            torch.cat([self.opacities, more.opacities]),
            torch.cat([self.colors, more.colors]),
        )


@dataclass(frozen=True)
class ExpressionCode(_Tensors):
    """The numbers that drive an avatar, with the name of what they mean.

    Raises:
        ShapeError: If the last dimension is not 120 or a number is not finite.
        LayoutError: If the layout has no name.
    """

    values: Float[Tensor, "*t 120"]
    """Expression 100, jaw 6, left eye 6, right eye 6, eyelids left and right."""
    layout: str
    """Which face model the numbers belong to; see `pipeline.faces.layouts`."""

    def __post_init__(self) -> None:
        if self.values.ndim < 1 or self.values.shape[-1] != CODE_SIZE:
            raise ShapeError(
                f"An expression code has {CODE_SIZE} numbers; got {list(self.values.shape)}.",
                "Convert the sequence to the 120-number layout first.",
            )
        if self.values.device.type == "cpu" and not torch.isfinite(self.values).all():
            raise ShapeError(
                "An expression code has numbers that are not finite (nan or inf).",
                "Leave out or repair these frames.",
            )
        if not self.layout:
            raise LayoutError(
                "An expression code has no layout tag.", "Name the face model it was made with."
            )

    def __getitem__(self, index: int | slice | Sequence[int]) -> ExpressionCode:
        """Select along the first dimension."""
        return ExpressionCode(self.values[index], self.layout)

    def __len__(self) -> int:
        return self.values.shape[0]
