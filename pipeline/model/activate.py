"""From the decoder's raw numbers to Gaussians: the only place with activations.

Letters: v views, h w size of the map, n Gaussians that are kept, f features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pipeline.core.geometry import pixel_directions, rays
from pipeline.core.types import Camera, Gaussians, View
from pipeline.faces.guide import Guide, Rig
from pipeline.model.config import ModelConfig

HEAD_RADIUS = 0.30
"""Half the side of the head's box, metres: hair, neck and upper shoulders fit in."""
SCALES_PX = (0.15, 4.0)
"""Smallest and largest standard deviation, in blocks of the map at the Gaussian's depth."""
SCALE_START_PX = 0.6
GUIDE_REACH = (0.01, 0.01, 0.10)
"""How far from the guide's point a Gaussian may be: across the picture (x, y), where the tracked
pose is wrong, and along the pixel's ray, where hair stands off the mesh; metres. The ray keeps it
in its own picture where the pixel is, however far it is off."""
GUIDE_OPACITY = 0.88
"""Most that guided Gaussians begin with, where the matte is full: the mesh is a surface."""
THINNER = 1 / 8
"""Power of the number of layers by which their Gaussians are smaller: where one is half opaque, as
many that are opaque together as it in the middle would be more than that."""
ALIKE = 0.26
"""Radians at which two views have 1 / e of an outline in common."""
FOREGROUND = 0.02
"""A block with less coverage than this makes no Gaussian (with `foreground_only`)."""


@dataclass(frozen=True)
class CanonicalHead:
    """The head before any expression: Gaussians and what the deformation knows of each."""

    gaussians: Gaussians
    features: Float[Tensor, "n f"]
    rig: Rig | None = None
    """How they hang on the person's mesh, in a guided model."""

    def to(self, device: torch.device | str) -> CanonicalHead:
        """Return the same head on another device."""
        rig = None if self.rig is None else self.rig.to(device)
        return CanonicalHead(self.gaussians.to(device), self.features.to(device), rig)

    def __getitem__(self, index: slice | Tensor) -> CanonicalHead:
        """Select Gaussians by a slice, a mask or indices."""
        rig = None if self.rig is None else self.rig[index]
        return CanonicalHead(self.gaussians[index], self.features[index], rig)

    def __add__(self, more: CanonicalHead) -> CanonicalHead:
        """Return the Gaussians of both, of the same person."""
        rig = None if self.rig is None or more.rig is None else self.rig + more.rig
        features = torch.cat([self.features, more.features])
        return CanonicalHead(self.gaussians + more.gaussians, features, rig)


def activate(
    raw: Float[Tensor, "v c h w"], views: View, config: ModelConfig, guide: Guide | None = None
) -> CanonicalHead:
    """Fuse the maps of all views into one set of Gaussians in the head frame.

    Raw zeros give a plausible start: Gaussians somewhat smaller than a block of pixels, coloured
    as the picture; with a guide nearly opaque ones on the person's neutral mesh, without one
    half-way opaque ones on a plane through the head's origin.
    """
    camera, stride = views.camera, config.stride
    position, color, quat, scale, opacity, features = raw.split(
        [config.channels - 11 - config.gaussian_features, 3, 4, 3, 1, config.gaussian_features],
        dim=1,
    )
    means = _positions(position, camera, config, guide)

    inside = torch.einsum("vij,vjhw->vihw", camera.world_to_camera[:, :3, :3], means)
    depths = inside[:, 2:] + camera.world_to_camera[:, 2:3, 3, None, None]
    focal = camera.K.diagonal(dim1=1, dim2=2)[:, :2].mean(-1)[:, None, None, None]
    low, high = SCALES_PX
    # softplus is smooth, and exact at both ends after the clamp
    start = torch.logit(torch.tensor((SCALE_START_PX - low) / (high - low)))
    pixels = low + (high - low) * torch.sigmoid(scale + start)
    scales = pixels * depths.detach().clamp(min=0.05) * stride / focal

    pixel_color = functional.avg_pool2d(views.image, stride)
    if guide is not None:
        # On a known surface, what shows of the white behind the head's edge would stay in the air.
        pixel_color = solid_colors(views, stride)
        coverage = functional.avg_pool2d(views.alpha, stride)
        opacity = opacity + torch.logit(coverage.clamp(FOREGROUND, GUIDE_OPACITY))
    colors = torch.sigmoid(torch.logit(pixel_color.clamp(0.02, 0.98)) + color)

    # The network turns each Gaussian against its camera; the head frame is reached from there.
    turn = _quaternions(camera.world_to_camera[:, :3, :3].mT)[:, :, None, None]
    start_quat = torch.tensor([1.0, 0.0, 0.0, 0.0]).to(quat)[:, None, None]
    quats = _multiply(turn, functional.normalize(quat + start_quat, dim=1))

    if guide is None:
        opacity = torch.sigmoid(opacity)
    else:
        # What several see from one side is in as many layers, which together are to be one:
        # 1 - (1 - a)^(1/k), whose slope in this form is finite for a = 1, too.
        alike = _alike(camera)[:, None, None, None]
        opacity = -torch.expm1(functional.logsigmoid(-opacity) / alike)
        scales = scales * alike**-THINNER

    keep = kept(views, config)
    gaussians = Gaussians(
        means=_rows(means, keep),
        quats=_rows(quats, keep),
        scales=_rows(scales, keep),
        opacities=_rows(opacity, keep)[:, 0],
        colors=_rows(colors, keep),
    )
    rig = None if guide is None else Rig.attach(guide, gaussians.means, guide.vertex[keep])
    return CanonicalHead(gaussians, _rows(features, keep), rig)


def _positions(
    raw: Tensor, camera: Camera, config: ModelConfig, guide: Guide | None
) -> Float[Tensor, "v 3 h w"]:
    if guide is not None:
        reach = torch.tensor(GUIDE_REACH).to(raw)[:, None, None]
        right, down, away = (reach * torch.tanh(raw)).split(1, dim=1)
        x, y = pixel_directions(camera, config.stride)[:, :2].split(1, dim=1)
        residual = torch.cat([right + x * away, down + y * away, away], dim=1)
        R = camera.world_to_camera[:, :3, :3]
        return guide.canonical + torch.einsum("vij,vihw->vjhw", R, residual)
    origins, directions = rays(camera, config.stride)
    if config.position == "xyz":
        return HEAD_RADIUS * torch.tanh(raw)
    distance = torch.linalg.norm(origins, dim=1, keepdim=True)
    return origins + (distance + HEAD_RADIUS * torch.tanh(raw)) * directions


def solid_colors(views: View, stride: int) -> Float[Tensor, "v 3 h w"]:
    """Return the head's own colours in blocks of pixels, without the white behind it."""
    coverage = functional.avg_pool2d(views.alpha, stride)
    seen = functional.avg_pool2d(views.image, stride)
    return (seen - 1 + coverage) / coverage.clamp(min=FOREGROUND)


def kept(views: View, config: ModelConfig) -> Bool[Tensor, "v h w"]:
    """Tell which blocks of pixels make a Gaussian; the Gaussians are in this order."""
    coverage = functional.avg_pool2d(views.alpha, config.stride)[:, 0]
    return coverage >= FOREGROUND if config.foreground_only else torch.ones_like(coverage).bool()


def _alike(camera: Camera) -> Float[Tensor, "v"]:
    """Return how many views look at the head from where each does, itself among them; 1 to v."""
    directions = functional.normalize(camera.centers, dim=-1)
    angles = torch.acos((directions @ directions.mT).clamp(-1, 1))
    angles.fill_diagonal_(0)  # not exactly, by rounding
    return torch.exp(-((angles / ALIKE) ** 2)).sum(-1)


def _rows(x: Float[Tensor, "v c h w"], keep: Bool[Tensor, "v h w"]) -> Float[Tensor, "n c"]:
    return x.permute(0, 2, 3, 1)[keep]


def _quaternions(R: Float[Tensor, "v 3 3"]) -> Float[Tensor, "v 4"]:
    """Return wxyz quaternions of rotations, without a gradient, which cameras do not need."""
    if R.device.type != "cpu":
        return _quaternions_there(R.detach())
    from scipy.spatial.transform import Rotation

    xyzw = Rotation.from_matrix(R.detach().double().numpy()).as_quat()
    return torch.from_numpy(xyzw)[:, [3, 0, 1, 2]].to(R)


def _quaternions_there(R: Float[Tensor, "v 3 3"]) -> Float[Tensor, "v 4"]:
    """Return the same on another device, without waiting for it.

    A rotation's quaternion q is known up to its sign from q q^T, whose entries are sums of the
    matrix's; its largest column is taken, as dividing by a small number loses digits.
    """
    a, b, c = R[:, 0].unbind(-1), R[:, 1].unbind(-1), R[:, 2].unbind(-1)
    x, y, z = c[1] - b[2], a[2] - c[0], b[0] - a[1]
    xy, xz, yz = a[1] + b[0], a[2] + c[0], b[2] + c[1]
    rows = [
        torch.stack([1 + a[0] + b[1] + c[2], x, y, z], -1),
        torch.stack([x, 1 + a[0] - b[1] - c[2], xy, xz], -1),
        torch.stack([y, xy, 1 - a[0] + b[1] - c[2], yz], -1),
        torch.stack([z, xz, yz, 1 - a[0] - b[1] + c[2]], -1),
    ]
    outer = torch.stack(rows, 1)
    largest = outer.diagonal(dim1=1, dim2=2).argmax(1)
    q = outer.gather(1, largest[:, None, None].expand(-1, 1, 4))[:, 0]
    return functional.normalize(q, dim=1)


def _multiply(a: Float[Tensor, "v 4 #h #w"], b: Float[Tensor, "v 4 h w"]) -> Tensor:
    """Return the Hamilton product of wxyz quaternions along dimension 1."""
    aw, ax, ay, az = a.unbind(1)
    bw, bx, by, bz = b.unbind(1)
    return torch.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        dim=1,
    )
