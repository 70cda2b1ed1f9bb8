"""The model that is guided by a tracked mesh."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.prune import select
from pipeline.avatar.refine import RefineConfig, refine
from pipeline.core.errors import InputError, ShapeError
from pipeline.core.geometry import rays
from pipeline.core.types import ExpressionCode, View
from pipeline.evaluate.metrics import psnr
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.model.activate import activate
from pipeline.model.checkpoint import load_model
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.synthetic.subject import Subject
from pipeline.train.checkpoint import save as save_checkpoint
from pipeline.train.presets import tiny
from tests.conftest import blob_views, dome, plain, still_mesh
from tests.prep.test_synthetic import weights

SIZE = 64


@dataclass(frozen=True)
class Taken:
    """Pictures of one person, and what a perfect tracker would say about them."""

    views: View
    mesh: TrackedMesh
    codes: ExpressionCode


@pytest.fixture(scope="module")
def taken() -> Taken:
    subject = Subject.sample(5)
    acts = [weights(jawOpen=0.7), weights(mouthSmileLeft=1.0, mouthSmileRight=1.0), weights()]
    camera = dome(3, SIZE, seed=2)
    frames = [subject.render(w, camera[i]) for i, w in enumerate(acts)]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    posed = np.stack([frame.vertices for frame in frames])
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, posed)
    return Taken(View(image, alpha, camera), mesh, arkit_to_code(np.stack(acts)))


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    return FastGHA(tiny(), "float32").eval().requires_grad_(False)


@pytest.fixture(scope="module")
def avatar(taken: Taken) -> Avatar:
    torch.manual_seed(0)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(net.deformation.out.weight, std=0.05)
    return Avatar.create(net, taken.views, MAKEHUMAN, {}, taken.mesh)


def test_raw_zeros_are_the_mesh_with_the_colours_of_the_pictures(model: FastGHA, taken: Taken):
    """The start is a likeness in each input, and of an expression that no picture shows."""
    config = model.config
    guide = model.guide(taken.mesh, taken.views.camera)
    head = activate(torch.zeros(3, config.channels, 32, 32), taken.views, config, guide)
    prepared = model.prepare(head)
    white = torch.ones(3)
    drawn = torch.stack([
        render(model.animate(prepared, code), taken.views.camera[i], background=white).color
        for i, code in enumerate(taken.codes.values)
    ])  # fmt: skip
    found = psnr(drawn.permute(0, 3, 1, 2).clamp(0, 1), taken.views.image)
    assert (found > 15.5).all()
    # on the neutral mesh
    surface = head_model(MAKEHUMAN).surface(taken.mesh.neutral, taken.mesh.neutral)
    distance = torch.cdist(head.gaussians.means, torch.from_numpy(surface)).min(1).values
    assert distance.median() < 0.003


def test_a_residual_is_across_the_picture_or_along_the_ray(model: FastGHA, taken: Taken):
    camera = taken.views.camera
    guide = model.guide(taken.mesh, camera)

    def means(raw: torch.Tensor) -> torch.Tensor:
        return activate(raw, taken.views, model.config, guide).gaussians.means

    raw = torch.zeros(3, model.config.channels, 32, 32)
    still = means(raw)
    seen = torch.nn.functional.avg_pool2d(taken.views.alpha, 2)[:, 0] >= 0.02
    owner = torch.nonzero(seen)[:, 0]
    for axis in (0, 1):
        raw.zero_()
        raw[:, axis] = 100.0
        wanted = 0.01 * camera.world_to_camera[owner, axis, :3]
        torch.testing.assert_close(means(raw) - still, wanted, atol=1e-6, rtol=0)
    raw.zero_()
    raw[:, 2] = 100.0
    # Wherever it goes along its ray, in its own picture it stays where it is.
    _, directions = rays(camera, 2)
    along = directions.permute(0, 2, 3, 1)[seen]
    ahead = (along * camera.world_to_camera[owner, 2, :3]).sum(1, keepdim=True)
    torch.testing.assert_close(means(raw) - still, 0.10 * along / ahead, atol=1e-6, rtol=0)


def test_before_training_the_head_moves_as_its_mesh(model: FastGHA, taken: Taken):
    avatar = Avatar.create(model, taken.views, MAKEHUMAN, {}, taken.mesh)
    code = taken.codes[0]
    moved = avatar.animate(code).means - avatar.canonical.means
    rig = avatar.head.rig
    assert rig is not None
    head, neutral = head_model(MAKEHUMAN), taken.mesh.neutral
    posed = head.surface(head.posed(neutral, code), neutral)
    mesh = torch.from_numpy(posed - head.surface(neutral, neutral))
    torch.testing.assert_close(moved, rig.weight[:, None] * mesh[rig.vertex], atol=1e-6, rtol=0)
    assert moved.norm(dim=1).max() > 0.02
    rest = avatar.animate(neutral_code(MAKEHUMAN))
    torch.testing.assert_close(rest.means, avatar.canonical.means, atol=1e-6, rtol=0)


def test_cameras_that_err_with_their_mesh_leave_the_start_as_it_is(model: FastGHA, taken: Taken):
    from pipeline.core.geometry import jitter

    noisy = jitter(taken.views.camera, 1.0, 5.0, np.random.default_rng(0))
    # what a tracker makes of wrong cameras: the mesh where each of them sees it
    change = torch.linalg.inv(noisy.world_to_camera) @ taken.views.camera.world_to_camera
    posed = torch.from_numpy(taken.mesh.posed) @ change[:, :3, :3].mT + change[:, None, :3, 3]
    wrong = replace(taken.mesh, posed=posed.numpy())
    heads = [
        activate(torch.zeros(3, model.config.channels, 32, 32), replace(taken.views, camera=camera),
                 model.config, model.guide(mesh, camera))
        for camera, mesh in ((taken.views.camera, taken.mesh), (noisy, wrong))
    ]  # fmt: skip
    gap = (heads[0].gaussians.means - heads[1].gaussians.means).norm(dim=1)
    assert gap.median() < 1e-4 and gap.quantile(0.9) < 0.003


@torch.no_grad()
def test_views_from_one_side_share_an_outline(model: FastGHA, taken: Taken):
    """A soft edge that is seen four times is no harder, and no wider, than one seen once."""
    ahead = taken.views.camera[:1]

    def silhouette(times: int) -> torch.Tensor:
        views = View(*(torch.cat([x[:1]] * times) for x in (taken.views.image, taken.views.alpha)),
                     taken.views.camera[[0] * times])  # fmt: skip
        head = model.reconstruct(views, model.guide(taken.mesh[[0] * times], views.camera))
        return render(head.gaussians, ahead).alpha

    once, often = silhouette(1), silhouette(4)
    assert (often - once).abs().mean() < 0.012  # 0.053 if they shared nothing
    assert abs(float(often.sum() / once.sum()) - 1) < 0.03  # 0.22


def test_what_is_wholly_opaque_from_one_side_has_a_slope(model: FastGHA, taken: Taken):
    views = View(*(torch.cat([x[:1]] * 2) for x in (taken.views.image, taken.views.alpha)),
                 taken.views.camera[[0, 0]])  # fmt: skip
    side = views.camera.width // model.config.stride
    raw = torch.full((2, model.config.channels, side, side), 40.0, requires_grad=True)
    guide = model.guide(taken.mesh[[0, 0]], views.camera)
    head = activate(raw, views, model.config, guide)
    head.gaussians.opacities.sum().backward()
    assert raw.grad is not None and raw.grad.isfinite().all()


@pytest.mark.parametrize("strength", [1.0, 30.0])
def test_no_code_makes_a_colour_that_is_none(avatar: Avatar, taken: Taken, strength: float):
    """Plain, baked and refined."""
    wild = taken.codes.values[0] + strength * torch.randn(
        120, generator=torch.Generator().manual_seed(1)
    )
    few = select(avatar, torch.arange(0, len(avatar.canonical), 4))
    baked, _ = bake(few, BakeConfig(tolerance_db=30, codes=24, held_out=2, size=32))
    config = RefineConfig(seconds=60, max_steps=5, colors_lr=0.5)
    refined, _ = refine(avatar, taken.views, taken.codes, config)
    for form in (avatar, baked, refined):
        for colors in (form.animate(ExpressionCode(wild, MAKEHUMAN)).colors, form.canonical.colors):
            assert colors.min() >= 0 and colors.max() <= 1


def test_an_old_avatars_colours_stay_within_bounds_too(taken: Taken):
    config = replace(plain(), deform=replace(plain().deform, color_space="linear"))
    net = FastGHA(config, "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(net.deformation.out.weight, std=3.0)
    avatar = Avatar.create(net, taken.views, MAKEHUMAN, {})
    colors = avatar.animate(taken.codes[0]).colors
    assert colors.min() == 0 and colors.max() == 1


def test_a_file_keeps_how_the_head_hangs_on_its_mesh(avatar: Avatar, taken: Taken, tmp_path: Path):
    avatar.save(tmp_path / "x.avatar")
    again = Avatar.load(tmp_path / "x.avatar", "float32")
    for name, value in vars(avatar.animate(taken.codes[0])).items():
        assert torch.equal(getattr(again.animate(taken.codes[0]), name), value)
    few = select(again, torch.arange(50))
    same = avatar.animate(taken.codes[0]).means[:50]
    torch.testing.assert_close(few.animate(taken.codes[0]).means, same, atol=1e-6, rtol=0)


def test_a_guide_that_is_missing_or_does_not_fit_is_refused(model: FastGHA, taken: Taken):
    with pytest.raises(InputError, match=r"guided by a tracked mesh.*fastgha prep.*no-guide"):
        model.reconstruct(taken.views)
    with pytest.raises(InputError, match="guided by a tracked mesh"):
        Avatar.create(model, taken.views, MAKEHUMAN, {})
    guide = model.guide(taken.mesh, taken.views.camera)
    with pytest.raises(ShapeError, match="need"):
        model.reconstruct(taken.views[:2], guide)
    bare = FastGHA(plain(), "float32")
    assert bare.guide(taken.mesh, taken.views.camera) is None
    with pytest.raises(InputError, match="takes no guide"):
        bare.reconstruct(taken.views, guide)


def test_every_weight_of_a_guided_model_learns():
    torch.manual_seed(0)
    net = FastGHA(tiny(), precision="float32")
    torch.nn.init.normal_(net.deformation.out.weight, std=0.01)
    views = blob_views(2, 64)
    head = net.reconstruct(views, net.guide(still_mesh(2), views.camera))
    code = arkit_to_code(weights(jawOpen=0.5)).values
    g = net.animate(net.prepare(head), code)
    (
        g.means.sum() + (g.colors * g.opacities[:, None]).sum() + g.scales.sum()
        + (g.quats**3).sum()
    ).backward()  # fmt: skip
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_a_checkpoint_from_before_guides_is_the_model_it_was(tmp_path: Path):
    torch.manual_seed(0)
    config = replace(plain(), deform=replace(plain().deform, color_space="linear"))
    net = FastGHA(config, "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(net.deformation.out.weight, std=0.5)
    save_checkpoint(tmp_path / "new.safetensors", net, None, {"step": 1, "layout": MAKEHUMAN})
    with safe_open(tmp_path / "new.safetensors", framework="pt") as file:
        header = file.metadata()["json"]
    for word in ('"guide": "none", ', '"color_space": "linear", '):
        assert word in header
        header = header.replace(word, "")
    old = tmp_path / "old.safetensors"
    save_file(load_file(tmp_path / "new.safetensors"), old, {"json": header})
    again, _ = load_model(old, "float32")
    assert again.config == config
    views, code = blob_views(2, 64), torch.randn(120)
    with torch.no_grad():
        a, b = (m.animate(m.prepare(m.reconstruct(views)), code) for m in (net, again))
    assert torch.equal(a.means, b.means) and torch.equal(a.colors, b.colors)
    assert a.colors.max() > 1  # as it was
