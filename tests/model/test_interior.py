"""Gaussians where pictures see nothing: behind the lips and the lids."""

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
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import PARTS, head_model
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.render.triangles import draw_triangles
from pipeline.synthetic.subject import Subject
from pipeline.train.presets import tiny
from tests.conftest import dome
from tests.prep.test_synthetic import weights

SIZE = 128


@pytest.fixture(scope="module")
def shut() -> tuple[View, TrackedMesh, Subject]:
    """Three pictures of a person who never opens the mouth."""
    subject = Subject.sample(5)
    camera = dome(3, SIZE, seed=2)
    frames = [subject.render(weights(), camera[i]) for i in range(3)]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, np.stack([f.vertices for f in frames]))
    return View(image, alpha, camera), mesh, subject


def made(interior: bool) -> FastGHA:
    torch.manual_seed(0)
    model = FastGHA(replace(tiny(), image_size=SIZE, interior=interior))
    model.deformation.set_layout(MAKEHUMAN)
    return model


def test_the_interior_is_all_that_a_shut_mouth_hides():
    head = head_model(MAKEHUMAN)
    inner = head.interior
    assert len(inner.vertices) == len(inner.parts) == len(inner.places) == len(set(inner.vertices))
    counts = dict(zip(PARTS, np.bincount(inner.parts).tolist(), strict=True))
    assert min(counts.values()) > 200 and sum(counts.values()) < 4000
    skin = inner.places[(inner.parts == PARTS.index("skin")) & ~inner.lids]
    teeth = inner.places[inner.parts == PARTS.index("teeth")]
    assert skin[:, 2].max() <= teeth[:, 2].max()  # nothing of the lips' outside


def test_the_interior_begins_with_the_colours_of_what_it_is():
    inner = head_model(MAKEHUMAN).interior
    eyes, teeth, tongue = (inner.parts == PARTS.index(p) for p in ("eyes", "teeth", "tongue"))
    assert inner.colors.shape == inner.places.shape
    assert inner.colors.min() >= 0 and inner.colors.max() <= 1
    # The pupils are the foremost points of the eyeballs; the whites lie at their sides.
    left = eyes & (inner.places[:, 0] > 0)
    depth = inner.places[left, 2]
    pupil, white = depth > depth.max() - 0.0005, depth < depth.max() - 0.005
    brightness = inner.colors.mean(1)
    assert brightness[left][pupil].mean() < 0.5 * brightness[left][white].mean()
    # What lies deep is black; the rest is white of teeth, red of tongue.
    for part, redness in ((teeth, 0.1), (tongue, 0.25)):
        lit = inner.colors[part & (brightness > np.percentile(brightness[part], 90))]
        assert lit.mean() > 0.25
        assert abs((lit[:, 0] - lit[:, 1]).mean() - redness) < 0.1


def test_lids_cover_what_shows_of_open_eyes_once_they_are_shut():
    head = head_model(MAKEHUMAN)
    inner, neutral = head.interior, Subject.sample(0).head.neutral
    code = arkit_to_code(weights(eyeBlinkLeft=1.0, eyeBlinkRight=1.0))
    rest = head.surface(neutral, neutral)
    shut = head.surface(head.posed(neutral, code), neutral)
    eyes = inner.vertices[inner.parts == PARTS.index("eyes")]
    K = torch.tensor([[2400.0, 0, 256], [0, 2400, 256], [0, 0, 1]])
    E = look_at(torch.tensor([0.0, 0.0, 1.0]), torch.zeros(3))
    drawn = draw_triangles(rest, head.faces, Camera(E, K, 512, 512)).triangle
    shown = np.intersect1d(head.faces[np.unique(drawn[drawn >= 0])], eyes)
    lid = inner.vertices[inner.lids]
    distance, nearest = KDTree(shut[lid][:, :2]).query(shut[shown][:, :2])
    assert len(shown) > 50
    assert distance.max() < 0.0025  # no farther than a Gaussian reaches
    assert (shut[lid][nearest, 2] > shut[shown, 2]).all()
    assert np.linalg.norm(shut - rest, axis=1)[lid].min() > 0.002


@torch.no_grad()
@pytest.mark.parametrize("tone", [0.25, 0.8])
def test_lids_begin_in_the_colour_of_the_persons_skin(
    shut: tuple[View, TrackedMesh, Subject], tone: float
):
    views, mesh, _ = shut
    views = replace(views, image=torch.full_like(views.image, tone))
    model = made(True)
    head = model.reconstruct(views, model.guide(mesh, views.camera))
    inner = head_model(MAKEHUMAN).interior
    colors = head.gaussians.colors[-len(inner.vertices) :][torch.from_numpy(inner.lids)]
    assert (colors - tone).abs().max() < 0.1


@torch.no_grad()
def test_irises_have_the_colour_that_pictures_show(shut: tuple[View, TrackedMesh, Subject]):
    views, mesh, _ = shut
    model = made(True)
    guide = model.guide(mesh, views.camera)
    inner = head_model(MAKEHUMAN).interior
    iris, whites = inner.shades[1], inner.shades[2]
    colors: list[torch.Tensor] = []
    for blue in (0.3, 0.7):
        image = views.image.clone()
        block = torch.isin(guide.vertex, torch.from_numpy(iris.shown).long())[:, None]
        shown = functional.interpolate(block.float(), image.shape[-2:]).expand_as(image) > 0
        image[shown] = 0.2
        image[:, 2][shown[:, 2]] = blue
        head = model.reconstruct(replace(views, image=image), guide)
        inside = head.gaussians.colors[-len(inner.vertices) :]
        colors.append(inside[torch.from_numpy(iris.own)].median(0).values)
        assert inside[torch.from_numpy(whites.own)].median() > 0.4
    assert colors[1][2] - colors[0][2] > 0.3
    assert (colors[1] - torch.tensor([0.2, 0.2, 0.7])).abs().max() < 0.05


@torch.no_grad()
def test_nothing_in_a_grey_picture_has_a_colour(shut: tuple[View, TrackedMesh, Subject]):
    views, mesh, _ = shut
    model = made(True)
    guide = model.guide(mesh, views.camera)
    k = len(head_model(MAKEHUMAN).interior.vertices)
    grey = replace(views, image=views.image.mean(1, keepdim=True).expand(-1, 3, -1, -1))
    chroma: list[float] = []
    for given in (views, grey):
        colors = model.reconstruct(given, guide).gaussians.colors[-k:]
        chroma.append(float((colors.amax(1) - colors.amin(1)).mean()))
    assert chroma[0] > 0.05
    assert chroma[1] < 0.01


@torch.no_grad()
def test_a_mouth_that_was_never_seen_open_has_teeth(shut: tuple[View, TrackedMesh, Subject]):
    views, mesh, subject = shut
    code = arkit_to_code(weights(jawOpen=1.0))
    ahead = dome(1, SIZE, seed=2)[:1]
    truth = subject.render(weights(jawOpen=1.0), ahead[0])
    marks, _ = project(ahead[0], torch.from_numpy(truth.landmarks[60:68]))
    x, y = (int(v) for v in marks.mean(0))
    errors: list[float] = []
    for interior in (False, True):
        model = made(interior)
        head = model.reconstruct(views, model.guide(mesh, views.camera))
        gaussians = model.animate(model.prepare(head), code.values)
        drawn = render(gaussians, ahead, background=torch.ones(3)).color[0]
        window = (slice(y - 4, y + 5), slice(x - 4, x + 5))
        wanted = torch.from_numpy(truth.rgb[window] / np.float32(255))
        errors.append(float((drawn[window] - wanted).abs().mean()))
    assert errors[1] < 0.75 * errors[0]


@torch.no_grad()
def test_the_inner_gaussians_come_last_and_go_with_the_mesh(
    shut: tuple[View, TrackedMesh, Subject],
):
    views, mesh, _ = shut
    plain, more = made(False), made(True)
    guide = plain.guide(mesh, views.camera)
    without, head = plain.reconstruct(views, guide), more.reconstruct(views, guide)
    inner = head_model(MAKEHUMAN).interior
    assert len(head.gaussians) == len(without.gaussians) + len(inner.vertices)
    assert head.rig is not None and without.rig is not None
    assert torch.equal(head.rig.vertex[: len(without.gaussians)], without.rig.vertex)
    moved = head.rig.displacement(arkit_to_code(weights(jawOpen=1.0)).values)
    tongue = len(without.gaussians) + np.flatnonzero(inner.parts == PARTS.index("tongue"))
    assert float(moved[torch.from_numpy(tongue), 1].mean()) < -0.005  # down with the jaw


@torch.no_grad()
def test_what_is_dark_on_a_lid_takes_the_skins_colour_as_the_eye_shuts(
    shut: tuple[View, TrackedMesh, Subject],
):
    views, mesh, _ = shut
    model = made(True)
    head = model.reconstruct(views, model.guide(mesh, views.camera))
    assert head.rig is not None
    inner = head_model(MAKEHUMAN).interior
    lid = torch.isin(head.rig.vertex, torch.from_numpy(inner.vertices[inner.lids]).long())
    seen = torch.nonzero(lid & ~head.rig.on_mesh)[:, 0]
    skin = head.gaussians.colors[lid & head.rig.on_mesh].median(0).values
    head.gaussians.colors[seen[0::2]] = 0.02  # lashes, hung on a lid by mistake
    head.gaussians.colors[seen[1::2]] = 0.98
    prepared = model.prepare(head)
    first = prepared.head.gaussians.colors
    still = model.animate(prepared, arkit_to_code(weights(jawOpen=0.5)).values).colors
    torch.testing.assert_close(still, first, atol=1e-5, rtol=0)
    moved = model.animate(
        prepared, arkit_to_code(weights(eyeBlinkLeft=1.0, eyeBlinkRight=1.0)).values
    ).colors
    dark = (moved[seen[0::2]] - skin).abs().amax(1)
    assert (dark < 0.02).float().mean() > 0.9
    torch.testing.assert_close(moved[seen[1::2]], first[seen[1::2]], atol=1e-5, rtol=0)
    others = torch.ones(len(first), dtype=torch.bool)
    others[seen] = False
    torch.testing.assert_close(moved[others], first[others], atol=1e-5, rtol=0)


def test_every_weight_of_the_interior_learns(shut: tuple[View, TrackedMesh, Subject]):
    views, mesh, _ = shut
    model = made(True)
    assert model.interior is not None
    torch.nn.init.normal_(model.interior.out.weight, std=0.1)
    head = model.reconstruct(views, model.guide(mesh, views.camera))
    gaussians = model.animate(
        model.prepare(head), arkit_to_code(weights(jawOpen=1.0, eyeLookUpLeft=1.0)).values
    )
    camera = Camera(views.camera.world_to_camera, views.camera.K, SIZE, SIZE)
    render(gaussians, camera, background=torch.ones(3)).color.square().sum().backward()
    for name, parameter in model.interior.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_model_without_a_mesh_has_no_interior():
    with pytest.raises(ConfigError, match="interior needs a mesh"):
        replace(tiny(), guide="none", interior=True)
