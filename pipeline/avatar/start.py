"""Light avatars to begin a fit from: of what the network made, or of the bare tracked mesh.

Letters: N Gaussians of the network, n of the light avatar, s codes, r shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fidelity import sample_codes
from pipeline.avatar.prune import blending, select
from pipeline.avatar.video import Footage
from pipeline.core.arrays import nearest_true
from pipeline.core.geometry import project
from pipeline.core.types import ExpressionCode, Gaussians
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import EYELIDS, JAW, neutral_code
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked
from pipeline.render.reference import rotation_matrices
from pipeline.render.triangles import draw_triangles

RIDGE = 1e-2
PLACE_UNIT = 0.03
"""Metres of a Gaussian's motion that count like its colour going from black to white."""
SHOWN_AT = 256
"""Pixels of the pictures in which it is seen what is hidden."""
CODES = 96
"""Of the video, at most, under which shapes are found."""
FILLS = 0.4
"""Least standard deviation along a merged Gaussian's two longer axes, over its cube's side: smaller
ones leave holes between them."""
HIDDEN = 0.05
"""Share of a cube's colour and place that hidden Gaussians have."""
EDGE = 0.6
"""Standard deviation of a bare mesh's Gaussian, over the mean edge at its vertex."""


@dataclass(frozen=True)
class LightConfig:
    """Sizes of a light avatar."""

    gaussians: int = 15_000
    """At most; neighbours are merged until there are no more."""
    rank: int = 12
    """Shapes."""
    codes: int = 96
    """Sampled ones, beside those of the video, under which shapes are found."""
    seed: int = 0


@torch.no_grad()
def light(avatar: Avatar, footage: Footage, config: LightConfig = LightConfig()) -> Avatar:
    """Return a light form of what a network made, under the codes of a video.

    Gaussians that lie in one small cube, at rest and with mouth open and eyes shut, become one.
    Offsets under the video's codes and sampled ones have principal components: the shapes.
    """
    still = avatar.canonical
    opened = avatar.animate(_wide_open(avatar.layout)).means
    merged, heaviest = _lightened(still, opened, config.gaussians, _shown(avatar, footage))
    few = select(avatar, heaviest)
    codes = _codes(footage, config)
    offsets = torch.empty(len(codes), len(heaviest), 6)
    for i, code in enumerate(codes):
        moved = few.animate(ExpressionCode(code, avatar.layout))
        offsets[i, :, :3] = moved.means - few.canonical.means
        offsets[i, :, 3:] = moved.colors - few.canonical.colors
    return _baked(merged, offsets, codes, config.rank, avatar.layout, avatar.made)


@torch.no_grad()
def bare_mesh(footage: Footage, config: LightConfig = LightConfig()) -> Avatar:
    """Return the tracked mesh alone as an avatar: a Gaussian at each vertex of its surface.

    Colours are those of the first input frame, where it sees the vertex, else of the nearest that
    it sees.
    """
    model = head_model(footage.codes.layout)
    rest = model.surface(footage.neutral, footage.neutral)
    faces = model.faces.astype(np.int64)
    edge = np.linalg.norm(rest[faces] - rest[np.roll(faces, 1, 1)], axis=-1)
    total, count = np.zeros(len(rest)), np.zeros(len(rest))
    np.add.at(total, faces, edge)
    np.add.at(count, faces, 1)
    size = EDGE * torch.from_numpy(total / np.maximum(count, 1)).float().clamp(2e-4, 0.01)
    n = len(rest)
    still = Gaussians(
        torch.from_numpy(rest),
        torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        size[:, None].repeat(1, 3),
        torch.full((n,), 0.9),
        _vertex_colors(footage, footage.inputs[0]),
    )
    neutral, layout = torch.from_numpy(footage.neutral), footage.codes.layout
    opened = still.means + model.displacement(neutral, _wide_open(layout).values)
    merged, heaviest = _lightened(still, opened, config.gaussians)
    codes = _codes(footage, config)
    offsets = torch.zeros(len(codes), len(heaviest), 6)
    for i, code in enumerate(codes):
        offsets[i, :, :3] = model.displacement(neutral, code)[heaviest]
    facts = {"image_size": footage.pixels.shape[-1]}
    return _baked(merged, offsets, codes, config.rank, footage.codes.layout, facts)


def _shown(avatar: Avatar, footage: Footage) -> Float[Tensor, "N"]:
    """Return how many pixels of the input frames each Gaussian makes."""
    side = min(SHOWN_AT, footage.pixels.shape[-1])
    cameras = footage.cameras.resized(side, side)
    total = torch.zeros(len(avatar.canonical))
    for row in footage.inputs:
        total += blending(avatar.animate(footage.codes[row]), cameras[row])
    return total


def _codes(footage: Footage, config: LightConfig) -> Float[Tensor, "s 120"]:
    rows = np.linspace(0, len(footage.supervise) - 1, min(CODES, len(footage.supervise)))
    chosen = [footage.supervise[i] for i in rows.round().astype(int).tolist()]
    sampled = sample_codes(footage.codes.layout, config.codes, config.seed)
    return torch.cat([footage.codes.values[chosen], sampled])


def _wide_open(layout: str) -> ExpressionCode:
    """Return a code that parts what belongs apart: lips and lids."""
    values = neutral_code(layout).values.clone()
    angle = torch.tensor(20.0).deg2rad()
    cos, sin = angle.cos(), angle.sin()
    values[JAW] = torch.tensor([1.0, 0, 0, 0, cos, -sin])
    values[EYELIDS] = 1.0
    return ExpressionCode(values, layout)


def _lightened(
    still: Gaussians,
    opened: Float[Tensor, "N 3"],
    most: int,
    shown: Float[Tensor, "N"] | None = None,
) -> tuple[Gaussians, Int64[Tensor, "n"]]:
    """Return fewer Gaussians, and for each the one of the many that tells how it moves.

    Args:
        still: The many, at rest.
        opened: Where they are when what belongs apart is parted.
        most: How many there may be.
        shown: How many pixels each makes of some pictures: what is hidden behind others, and may
            have another colour, then counts for little.
    """
    group, cube = _merged(torch.cat([still.means, opened], 1), most)
    weight = still.opacities * still.scales.sort(1).values[:, 1:].prod(1)
    if shown is not None:
        weight = HIDDEN * weight / weight.sum() + shown / shown.sum().clamp(min=1e-9)
    order = weight.argsort()
    heaviest = torch.zeros(int(group.max()) + 1, dtype=torch.long)
    heaviest[group[order]] = order  # the last one written stays
    return _merge(still, group, weight, FILLS * cube), heaviest


def _merged(places: Float[Tensor, "N 6"], most: int) -> tuple[Int64[Tensor, "N"], float]:
    """Return which cube each Gaussian is in, and the side of the cubes, metres.

    The smallest cubes are taken of which there are no more.
    """
    low, high = 2e-4, 0.05
    found = torch.arange(len(places))
    if len(places) <= most:
        return found, 0.0
    for _ in range(14):
        middle = (low * high) ** 0.5
        cubes = (places / middle).floor().long()
        unique, group = torch.unique(cubes, dim=0, return_inverse=True)
        if len(unique) > most:
            low = middle
        else:
            high, found = middle, group
    return found, high


def _merge(
    still: Gaussians, group: Int64[Tensor, "N"], weight: Float[Tensor, "N"], least: float
) -> Gaussians:
    """Return one Gaussian for each group: with the mean place, colour and spread of its members."""
    n = int(group.max()) + 1
    weight = weight.clamp(min=1e-12)
    total = torch.zeros(n).index_add(0, group, weight)

    def mean(x: Tensor) -> Tensor:
        flat = x.flatten(1)
        out = torch.zeros(n, flat.shape[1]).index_add(0, group, flat * weight[:, None])
        return (out / total[:, None]).reshape(n, *x.shape[1:])

    means, colors = mean(still.means), mean(still.colors)
    turn = rotation_matrices(still.quats)
    spread = (turn * still.scales[:, None].square()) @ turn.mT
    off = still.means - means[group]
    values, axes = torch.linalg.eigh(mean(spread + off[:, :, None] * off[:, None]))
    values[:, 1:] = values[:, 1:].clamp(min=least**2)
    axes = axes * torch.linalg.det(axes).sign()[:, None, None]
    clear = torch.zeros(n).index_add(0, group, torch.log1p(-still.opacities.clamp(max=0.99)))
    count = torch.bincount(group, minlength=n)
    # All of them seen one behind the other would be opaque; most stand beside each other.
    opacities = 1 - (clear / count.sqrt()).exp()
    quats = Rotation.from_matrix(axes.numpy()).as_quat()[:, [3, 0, 1, 2]]
    return Gaussians(
        means, torch.from_numpy(quats).float(), values.clamp(min=1e-10).sqrt(), opacities, colors
    )


def _baked(
    still: Gaussians,
    offsets: Float[Tensor, "s n 6"],
    codes: Float[Tensor, "s 120"],
    rank: int,
    layout: str,
    made: Mapping[str, Any],
) -> Avatar:
    """Return a baked avatar whose shapes are the principal components of offsets."""
    unit = torch.tensor([PLACE_UNIT] * 3 + [1.0] * 3)
    flat = (offsets / unit).flatten(1)
    mean = flat.mean(0)
    centred = flat - mean
    rank = min(rank, len(codes) - 1)
    # The s x s matrix of products has the same components as the (6 n) x (6 n) one.
    values, left = torch.linalg.eigh(centred @ centred.T)
    strength, left = values.flip(0)[:rank].clamp(min=1e-12).sqrt(), left.flip(1)[:, :rank]
    shapes = (left.T @ centred) / strength[:, None]
    mapping = Baked.fit(codes, left * strength, 0, RIDGE)
    n = len(still)
    baked = Baked.of(mapping, shapes.reshape(rank, n, 6) * unit, mean.reshape(n, 6) * unit)
    head = CanonicalHead(still, torch.zeros(n, 0))
    return Avatar(head, baked, layout, dict(made))


def _vertex_colors(footage: Footage, row: int) -> Float[Tensor, "s 3"]:
    model = head_model(footage.codes.layout)
    camera, view = footage.cameras[row], footage.views([row])
    posed = model.surface(footage.posed[row], footage.neutral)
    drawn = draw_triangles(posed, model.faces, camera)
    seen = np.zeros(len(posed), np.bool_)
    seen[model.faces[np.unique(drawn.triangle[drawn.triangle >= 0])]] = True
    matte = view.alpha[0, 0].numpy() > 0.9
    (rows, columns), _ = nearest_true(matte)
    at, _ = project(camera, torch.from_numpy(posed))
    h, w = matte.shape
    x, y = at.long()[:, 0].clamp(0, w - 1).numpy(), at.long()[:, 1].clamp(0, h - 1).numpy()
    colors = view.image[0][:, rows[y, x], columns[y, x]].T
    if seen.any():
        _, nearest = KDTree(posed[seen]).query(posed)
        colors = colors[np.flatnonzero(seen)[nearest]]
    return colors.contiguous()
