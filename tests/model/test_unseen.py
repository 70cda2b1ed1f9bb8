"""Gaussians of the sides that no picture shows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch.nn import functional

from pipeline.core.errors import ConfigError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera, View
from pipeline.faces.flame import Flame
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import PARTS, REGIONS, FlameHead, head_model
from pipeline.faces.layouts import FLAME2020, MAKEHUMAN, arkit_to_code
from pipeline.model.activate import CanonicalHead
from pipeline.model.fastgha import FastGHA
from pipeline.model.unseen import over_skin
from pipeline.render import render
from pipeline.synthetic.subject import Subject
from pipeline.train.presets import tiny
from tests.faces.flames import numbers
from tests.prep.test_synthetic import weights

SIZE = 256


def camera(*yaws: float) -> Camera:
    yaw = torch.tensor(yaws).deg2rad()
    E = look_at(torch.stack([yaw.sin(), 0 * yaw, yaw.cos()], 1), torch.zeros(len(yaws), 3))
    f = SIZE / 0.4
    K = torch.tensor([[f, 0, SIZE / 2], [0, f, SIZE / 2], [0, 0, 1]])
    return Camera(E, K.expand(len(yaws), -1, -1), SIZE, SIZE)


def pictures(*yaws: float) -> tuple[View, TrackedMesh]:
    subject, there = Subject.sample(5), camera(*yaws)
    frames = [subject.render(weights(), there[i]) for i in range(len(yaws))]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, np.stack([f.vertices for f in frames]))
    return View(image, alpha, there), mesh


@pytest.fixture(scope="module")
def front() -> tuple[View, TrackedMesh]:
    return pictures(0.0)


def made(*, unseen: bool = True) -> FastGHA:
    torch.manual_seed(0)
    model = FastGHA(replace(tiny(), image_size=SIZE, unseen=unseen))
    model.deformation.set_layout(MAKEHUMAN)
    return model


def filled(model: FastGHA, views: View, mesh: TrackedMesh) -> tuple[CanonicalHead, CanonicalHead]:
    """Return the Gaussians of the pixels, and those of what they do not show."""
    guide = model.guide(mesh, views.camera)
    head, pixels = model.reconstruct(views, guide), len(made(unseen=False).reconstruct(views, guide)
                                                        .features)  # fmt: skip
    return head[:pixels], head[pixels:]


def test_a_flame_head_has_cells_too():
    raw = {key: torch.from_numpy(value.astype(np.float32)) for key, value in numbers().items()}
    shapes = raw["shapedirs"]
    head = FlameHead(
        Flame("2020", raw["v_template"], raw["f"].long(), shapes[..., :300], shapes[..., 300:],
              raw["posedirs"], raw["J_regressor"], raw["weights"]),
        FLAME2020,
    )  # fmt: skip
    cells = head.cells
    assert len(cells.of_vertex) == head.controls
    mean = head.model.template.numpy()
    at = np.einsum("ck,ckx->cx", cells.shares, mean[cells.corners])
    np.testing.assert_allclose(at, cells.places, atol=1e-5)


def test_cells_cover_the_skin_evenly_and_leave_out_lids_and_mouth():
    head = head_model(MAKEHUMAN)
    cells = head.cells
    assert 3000 < len(cells.places) < 9000
    near = KDTree(cells.places).query(cells.places, k=2)[0][:, 1]
    assert np.median(near) > 0.003
    mean = np.einsum("ck,ckx->cx", cells.shares, head.rest(torch.from_numpy(
        np.asarray(head._mean))).numpy()[cells.corners])  # pyright: ignore  # fmt: skip
    np.testing.assert_allclose(mean, cells.places, atol=1e-5)
    assert not np.isin(cells.vertices, head.interior.vertices).any()
    assert len(np.unique(cells.regions)) == REGIONS
    np.testing.assert_allclose(np.linalg.norm(cells.normals, axis=1), 1, atol=1e-5)
    outwards = ((cells.places - cells.places.mean(0)) * cells.normals).sum(1) > 0
    assert outwards.mean() > 0.9
    # What pictures cut off, and eye sockets and mouth, would only be in the way.
    assert cells.places[:, 1].min() > -0.15
    eyes = head.interior.places[head.interior.parts == PARTS.index("eyes")]
    for side in (-1, 1):
        eye = eyes[eyes[:, 0] * side > 0]
        low, high = eye.min(0), eye.max(0)
        high[2] = (low[2] + high[2]) / 2
        assert not ((cells.places > low) & (cells.places < high)).all(1).any()
    # The back of the head and both ears are there.
    for place in ([0, 0.02, -0.17], [0.09, -0.02, -0.09], [-0.09, -0.02, -0.09]):
        assert np.linalg.norm(cells.places - place, axis=1).min() < 0.03


@torch.no_grad()
def test_one_picture_is_filled_at_the_back_and_many_hardly(front: tuple[View, TrackedMesh]):
    model = made()
    _, more = filled(model, *front)
    assert more.rig is not None
    head = front[1].neutral[front[1].neutral[:, 1] > -0.05, 2]
    back, tip = float(np.quantile(head, 0.2)), float(head.max()) - 0.02
    places = more.rig.places
    assert 1500 < len(places) < 7000
    assert (places[:, 2] < back).sum() > 800
    assert (places[:, 2] > tip).sum() < 30  # of the nose
    _, less = filled(model, *pictures(0.0, 60.0, 120.0, 180.0, 240.0, 300.0))
    assert len(less.features) < 0.5 * len(more.features)


@torch.no_grad()
def test_the_pixels_gaussians_are_as_without(front: tuple[View, TrackedMesh]):
    model, plain = made(), made(unseen=False)
    guide = plain.guide(front[1], front[0].camera)
    without = plain.reconstruct(front[0], guide).gaussians
    pixels, _ = filled(model, *front)
    for name, value in vars(without).items():
        torch.testing.assert_close(vars(pixels.gaussians)[name], value)


@torch.no_grad()
def test_a_side_takes_the_colours_of_the_other_one():
    """A picture from the left, where only the ear and what is around it is blue."""
    views, mesh = pictures(70.0)
    model = made()
    guide = model.guide(mesh, views.camera)
    assert guide is not None
    beside = functional.interpolate((guide.canonical[:, :1] > 0.05).float(), (SIZE, SIZE))
    blue = torch.tensor([0.1, 0.1, 0.9])[:, None, None]
    solid = beside * (views.alpha > 0.9)
    painted = replace(views, image=torch.lerp(views.image, blue.expand_as(views.image), solid))
    _, more = filled(model, painted, mesh)
    assert more.rig is not None
    x, y, _ = more.rig.places.unbind(1)
    ear, front = (x < -0.06) & (y.abs() < 0.04), (x > -0.035) & (x < -0.01) & (y.abs() < 0.04)
    assert min(ear.sum(), front.sum()) > 20
    bluer = more.gaussians.colors[:, 2] - more.gaussians.colors[:, 0]
    assert bluer[ear].median() > bluer[front].median() + 0.1


@torch.no_grad()
def test_a_head_seen_from_behind_is_filled_where_it_was_not(front: tuple[View, TrackedMesh]):
    """From the side there is more of a head than without; from the front it stays."""
    model, plain = made(), made(unseen=False)
    assert model.unseen is not None
    model.unseen.out.bias[15] = 4.0  # opaque
    guide = plain.guide(front[1], front[0].camera)
    covered: dict[float, list[torch.Tensor]] = {0.0: [], 110.0: []}
    for net in (plain, model):
        gaussians = net.reconstruct(front[0], guide).gaussians
        for yaw, found in covered.items():
            found.append(render(gaussians, camera(yaw)).alpha[0, ..., 0])
    above = slice(0, SIZE // 2)  # the neck's end is a matter of training
    gained = {
        yaw: float((b - a)[above].clamp(min=0).sum() / a[above].sum())
        for yaw, (a, b) in covered.items()
    }
    assert gained[110.0] > 0.3
    assert gained[0.0] < 0.2


@torch.no_grad()
def test_heights_are_over_the_skin_as_far_as_pictures_allow(front: tuple[View, TrackedMesh]):
    model = made()
    assert model.unseen is not None
    _, bald = filled(model, *front)
    model.unseen.out.bias[0] = 1.0
    _, hairy = filled(model, *front)
    assert bald.rig is not None and hairy.rig is not None
    assert 100 < len(hairy.features) < len(bald.features)
    back = hairy.rig.places[:, 2] < torch.quantile(hairy.rig.places[:, 2], 0.2)
    backwards = (hairy.rig.places - hairy.gaussians.means)[back, 2]
    assert abs(backwards.median() - over_skin(torch.ones(1, 1)).item()) < 0.004
    # None is where the picture shows nothing.
    views = front[0]
    pixels, _ = project(views.camera, hairy.gaussians.means)
    x, y = pixels[0].floor().long().clamp(0, SIZE - 1).unbind(1)
    around = functional.max_pool2d(views.alpha, 3, stride=1, padding=1)[0, 0]
    assert (around[y, x] > 0).all()
    # They lie flat on the surface.
    w, i, j, k = hairy.gaussians.quats[back].unbind(1)
    third = torch.stack([2 * (i * k + w * j), 2 * (j * k - w * i), 1 - 2 * (i * i + j * j)], 1)
    assert third[:, 2].abs().median() > 0.8
    assert (hairy.gaussians.scales[:, 2] < 0.5 * hairy.gaussians.scales[:, 0]).all()


@torch.no_grad()
def test_they_go_with_the_jaw(front: tuple[View, TrackedMesh]):
    _, more = filled(made(), *front)
    assert more.rig is not None
    moved = more.rig.displacement(arkit_to_code(weights(jawOpen=1.0)).values)
    x, y, z = more.rig.places.unbind(1)
    under = (x.abs() < 0.03) & (y < -0.08) & (y > -0.12) & (z > -0.03)
    assert under.sum() > 20 and moved[under, 1].mean() < -0.003
    assert moved[z < -0.1].abs().max() < 0.004


def test_every_weight_learns_and_the_pixels_are_left_alone(front: tuple[View, TrackedMesh]):
    views, mesh = front
    model = made()
    assert model.unseen is not None
    torch.nn.init.normal_(model.unseen.out.weight, std=0.1)
    head = model.reconstruct(views, model.guide(mesh, views.camera))
    gaussians = model.animate(model.prepare(head), arkit_to_code(weights()).values)
    render(gaussians, camera(100.0), background=torch.ones(3)).color.square().sum().backward()
    for name, parameter in model.unseen.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_model_without_a_mesh_has_none():
    with pytest.raises(ConfigError, match="unseen needs a mesh"):
        replace(tiny(), guide="none", unseen=True)
