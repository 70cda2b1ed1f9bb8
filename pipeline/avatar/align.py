"""Better cameras for the pictures of an avatar: what a tracker left over, taken from the pictures.

Each picture is drawn from the Gaussians of the others, under its own expression: its own would hide
any error of its camera, for they lie on its rays. The camera is turned and shifted until the two
agree, as far as the tracker's known errors make likely.

Letters: v pictures, n Gaussians.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.core.types import Camera, ExpressionCode, Gaussians, View
from pipeline.faces.guide import TrackedMesh
from pipeline.losses import ssim
from pipeline.model.activate import CanonicalHead, kept
from pipeline.model.fastgha import FastGHA
from pipeline.render import render

FACE = (0.0, -0.02, 0.08)
"""Middle of the face, head frame, metres: cameras are turned about it."""


@dataclass(frozen=True)
class AlignConfig:
    """How cameras are aligned."""

    rounds: int = 2
    """Times the model makes the head again with the better cameras."""
    steps: int = 24
    """For each picture, in each round."""
    degrees: float = 3.0
    """Standard deviation of the tracker's error about each axis."""
    shift_mm: float = 4.0
    """The same of the place of the face, along each axis."""
    size: int = 128
    """Pixels of the pictures that are compared, if they are not smaller."""
    lr: float = 0.15
    """Of a step, in standard deviations."""
    prior: float = 0.002
    """Weight of the squared number of standard deviations, beside the L1 of colour."""
    gain: float = 0.01
    """Share by which the error must fall for the new cameras to be taken."""


@dataclass(frozen=True)
class AlignReport:
    """How it went."""

    before: float
    """Error of the pictures drawn from the others, each made without it: L1 and 1 - SSIM."""
    after: float
    degrees: tuple[float, ...]
    """How far each camera was turned."""
    shift_mm: tuple[float, ...]


def align(
    model: FastGHA,
    views: View,
    codes: ExpressionCode,
    mesh: TrackedMesh,
    config: AlignConfig = AlignConfig(),
) -> tuple[View, AlignReport]:
    """Turn and shift the cameras of pictures so that each is what the others say.

    Args:
        model: A guided model.
        views: Two pictures or more; a single one is given back as it is.
        codes: Their expressions [v, 120].
        mesh: As tracked in them; it stays in the head frame, and so moves in the picture.
        config: How.

    Returns:
        The views, with better cameras if the pictures say so, and what was done.
    """
    still = (0.0,) * len(views)
    if len(views) < 2:
        return views, AlignReport(0.0, 0.0, still, still)
    before = least = error(model, views, codes, mesh, config)
    best, best_moves = views, torch.zeros(len(views), 6)
    now, moves = views, torch.zeros(len(views), 6)
    for _ in range(config.rounds):
        head = _head(model, now, mesh)
        source = _sources(head, now, model)
        for i in range(len(views)):
            others = model.animate(model.prepare(head[source != i]), codes.values[i])
            # From the tracker's camera on: the prior is about that one.
            moves[i] = _fitted(others, views[i : i + 1], moves[i], config)
        moves = moves - moves.mean(0)  # what all share is the head's own place, which is free
        now = replace(views, camera=_moved(views.camera, moves, config))
        found = error(model, now, codes, mesh, config)
        if found < least * (1 - config.gain):
            least, best, best_moves = found, now, moves.clone()
    degrees = best_moves[:, :3].norm(dim=1) * config.degrees
    shifts = best_moves[:, 3:].norm(dim=1) * config.shift_mm
    return best, AlignReport(before, least, tuple(degrees.tolist()), tuple(shifts.tolist()))


@torch.no_grad()
def error(
    model: FastGHA,
    views: View,
    codes: ExpressionCode,
    mesh: TrackedMesh,
    config: AlignConfig = AlignConfig(),
) -> float:
    """Return how far pictures are from what a head made of the other pictures looks like."""
    total = 0.0
    for i in range(len(views)):
        rest = [j for j in range(len(views)) if j != i]
        head = _head(model, views[rest], mesh[rest])
        drawn = model.animate(model.prepare(head), codes.values[i])
        total += float(_difference(drawn, _smaller(views[i : i + 1], config)))
    return total / len(views)


@torch.no_grad()
def _head(model: FastGHA, views: View, mesh: TrackedMesh) -> CanonicalHead:
    return model.reconstruct(views, model.guide(mesh, views.camera))


def _sources(head: CanonicalHead, views: View, model: FastGHA) -> Tensor:
    """Return which picture each Gaussian was made of; -1 for those of no picture."""
    seen = torch.nonzero(kept(views, model.config))[:, 0]
    inner = torch.full((len(head.gaussians) - len(seen),), -1)
    return torch.cat([seen, inner])


@torch.enable_grad()
def _fitted(
    gaussians: Gaussians, view: View, start: Float[Tensor, "6"], config: AlignConfig
) -> Float[Tensor, "6"]:
    """Return the camera's move, in standard deviations, that makes Gaussians look most like it."""
    view = _smaller(view, config)
    gaussians = Gaussians(*(value.detach() for value in vars(gaussians).values()))
    move = start.clone().requires_grad_(True)
    adam = torch.optim.Adam([move], lr=config.lr)
    for step in range(config.steps):
        for group in adam.param_groups:
            group["lr"] = config.lr * (1 - step / config.steps)
        loss = _difference(_carried(gaussians, move, config), view)
        loss = loss + config.prior * move.square().sum()
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
    return move.detach()


def _difference(gaussians: Gaussians, view: View) -> Float[Tensor, ""]:
    drawn = render(gaussians, view.camera[0], background=torch.ones(3))
    picture = drawn.color.permute(2, 0, 1)[None]
    return (picture - view.image).abs().mean() + 0.2 * (1 - ssim(picture, view.image))


def _smaller(view: View, config: AlignConfig) -> View:
    factor = max(view.camera.width // config.size, 1)
    if factor == 1:
        return view
    camera = view.camera.resized(view.camera.width // factor, view.camera.height // factor)
    image, alpha = (functional.avg_pool2d(x, factor) for x in (view.image, view.alpha))
    return View(image, alpha, camera)


def _carried(gaussians: Gaussians, move: Float[Tensor, "6"], config: AlignConfig) -> Gaussians:
    """Return Gaussians as a moved camera sees them, in the frame of the camera before."""
    quat, M = _rigid(move, config)
    w, x, y, z = gaussians.quats.unbind(-1)
    a, b, c, d = quat
    quats = torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=-1,
    )
    return replace(gaussians, means=gaussians.means @ M[:3, :3].mT + M[:3, 3], quats=quats)


def _moved(camera: Camera, moves: Float[Tensor, "v 6"], config: AlignConfig) -> Camera:
    M = torch.stack([_rigid(move, config)[1] for move in moves])
    return replace(camera, world_to_camera=camera.world_to_camera @ M)


def _rigid(move: Float[Tensor, "6"], config: AlignConfig) -> tuple[Tensor, Float[Tensor, "4 4"]]:
    """Return a rotation (wxyz), and the motion about the face that it is part of."""
    half = move[:3] * (torch.pi / 180 * config.degrees / 2)
    quat = functional.normalize(torch.cat([torch.ones(1), half]), dim=0)
    w, x, y, z = quat
    R = torch.stack(
        [
            torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
            torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
            torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
        ]
    )
    face = torch.tensor(FACE)
    t = face - R @ face + move[3:] * (config.shift_mm / 1e3)
    bottom = torch.tensor([[0.0, 0.0, 0.0, 1.0]])
    return quat, torch.cat([torch.cat([R, t[:, None]], dim=1), bottom])
