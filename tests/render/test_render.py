"""Drawing Gaussians: the backends agree with the plain reference, and that with mathematics."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pipeline.core.errors import BackendError, ShapeError
from pipeline.core.types import Camera, Gaussians
from pipeline.render import available_backends, render, render_sets
from pipeline.render.golden import check_backend, golden_scene
from tests.render.scenes import SCENES, cameras, cloud, draw, ordinary

ONE = cameras(8, 8)[0]

FLIP = 2.1 / 255
"""What one Gaussian too much or too little at its edge can change, with values below 1."""


def flips(difference):
    """How many numbers of a picture may differ because a threshold was met by rounding."""
    return max(6, 1e-3 * difference.numel())


def assert_alike(scene, antialiased=False, loose=1e-3):
    """The cpu backend in 32 bit draws what the reference draws in 64, but for a few flips."""
    got, got_grads = draw(scene, "cpu", antialiased=antialiased)
    want, want_grads = draw(scene, "reference", torch.float64, antialiased)
    for name in ("color", "alpha"):
        difference = (getattr(got, name) - getattr(want, name)).abs()
        assert difference.max() <= FLIP, name
        assert (difference > 1e-4).sum() <= flips(difference), name
    # where little covers, the mean depth rests on few digits of alpha
    error = ((got.depth - want.depth) * want.alpha).abs()
    assert (error > 1e-4).sum() <= flips(error)
    for name, wanted in want_grads.items():
        assert torch.isfinite(got_grads[name]).all(), name
        scale = wanted.abs().max().clamp(min=1e-12)
        error = (got_grads[name] - wanted).abs() / scale
        assert error.max() <= loose, (name, float(error.max()))


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_the_cpu_draws_and_differentiates_what_the_reference_does(scene):
    assert_alike(scene())


@pytest.mark.parametrize("scene", [SCENES[0], SCENES[3], SCENES[9]], ids=lambda s: s.__name__)
def test_the_cpu_lowers_opacity_against_aliasing_as_the_reference_does(scene):
    assert_alike(scene(), antialiased=True)


@pytest.mark.parametrize("channels", [1, 2, 4, 19, 20, 64])
def test_any_number_of_channels_can_be_drawn(channels):
    assert_alike((cloud(120, channels), cameras(35, 20)))


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes_agree(seed):
    assert_alike((cloud(250, seed=seed + 10), cameras(31 + 7 * seed, 44 - 9 * seed)))


@pytest.mark.parametrize("antialiased", [False, True])
def test_the_reference_has_the_derivatives_of_its_own_values(antialiased):
    gaussians = cloud(6, seed=3).to(torch.float64)
    # wide and weak: no pixel is near a threshold
    gaussians = replace(
        gaussians, scales=gaussians.scales + 0.15, opacities=0.2 + 0.3 * gaussians.opacities
    )
    camera = cameras(5, 4).to(torch.float64)
    weights = [torch.randn(2, 4, 5, c, dtype=torch.float64) for c in (3, 1, 1)]

    def loss(means, quats, scales, opacities, colors, E, background):
        # not through Camera: it refuses matrices that are not rigid
        moved = object.__new__(Camera)
        for name, value in (
            ("world_to_camera", E), ("K", camera.K), ("width", 5), ("height", 4),
        ):  # fmt: skip
            object.__setattr__(moved, name, value)
        drawn = render(
            Gaussians(means, quats, scales, opacities, colors),
            moved,
            background=background,
            backend="reference",
            antialiased=antialiased,
        )
        return sum((w * p).sum() for w, p in zip(weights, (drawn.color, drawn.alpha, drawn.depth)))

    inputs = [
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
        gaussians.colors, camera.world_to_camera, torch.rand(3, dtype=torch.float64),
    ]  # fmt: skip
    assert torch.autograd.gradcheck(loss, [t.clone().requires_grad_() for t in inputs])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_one_gaussian_has_the_alpha_of_its_formula(backend):
    gaussians = Gaussians(
        torch.zeros(1, 3),
        torch.tensor([[2.0, 0, 0, 0]]),
        torch.tensor([[0.05, 0.02, 0.01]]),
        torch.tensor([0.8]),
        torch.tensor([[0.5, 0.25, 1.0]]),
    )
    E = torch.eye(4)
    E[2, 3] = 1.0
    K = torch.tensor([[100.0, 0, 10.5], [0, 100, 10.5], [0, 0, 1]])
    drawn = render(gaussians, Camera(E, K, 21, 21), background=torch.ones(3), backend=backend)
    x = torch.arange(21) - 10.0
    sigma = 0.5 * (x[None] ** 2 / 25.3 + x[:, None] ** 2 / 4.3)
    alpha = 0.8 * torch.exp(-sigma)
    alpha[alpha < 1 / 255] = 0
    assert torch.allclose(drawn.alpha[..., 0], alpha, atol=1e-6)
    assert torch.allclose(
        drawn.color, alpha[..., None] * gaussians.colors[0] + 1 - alpha[..., None], atol=1e-6
    )
    assert torch.allclose(drawn.depth[10], torch.ones(21, 1), atol=1e-5)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_opaque_stack_stops_before_it_lets_through_a_ten_thousandth(backend):
    n = 10
    gaussians = Gaussians(
        torch.stack([torch.zeros(n), torch.zeros(n), torch.linspace(0.1, -0.1, n)], -1),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n, 1),
        torch.full((n, 3), 0.5),
        torch.ones(n),
        torch.eye(n)[:, :5],
    )
    E = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    E[2, 3] = 1.0
    K = torch.tensor([[100.0, 0, 0.5], [0, 100, 0.5], [0, 0, 1]])
    drawn = render(gaussians, Camera(E, K, 1, 1), backend=backend)
    # .999 each: after the first .001 is left; a second would leave 1e-6, which is too little
    assert drawn.color[0, 0].tolist() == pytest.approx([0.999, 0, 0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_an_empty_scene_is_background(backend):
    scene = (cloud(0), cameras(19, 17))
    drawn, grads = draw(scene, backend)
    assert torch.equal(drawn.color, torch.linspace(0.2, 0.9, 3).expand(2, 17, 19, 3))
    assert (drawn.alpha == 0).all() and (drawn.depth == 0).all()
    assert grads["means"].shape == (0, 3) and (grads["world_to_camera"] == 0).all()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_the_order_of_the_gaussians_does_not_matter(backend):
    gaussians, camera = ordinary()
    shuffled = gaussians[torch.randperm(len(gaussians))]
    first, second = (render(g, camera, backend=backend) for g in (gaussians, shuffled))
    assert torch.allclose(first.color, second.color, atol=1e-6)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_equal_depths_are_drawn_in_their_order(backend):
    base = cloud(40)
    twins = Gaussians(
        *(torch.cat([t, t]) for t in (base.means, base.quats, base.scales, base.opacities)),
        torch.cat([torch.ones(40, 1), torch.zeros(40, 1)]),
    )
    back = Gaussians(twins.means, twins.quats, twins.scales, twins.opacities, twins.colors.flip(0))
    first, second = (render(g, cameras(30, 30), backend=backend).color for g in (twins, back))
    assert first.sum() > 1.05 * second.sum()


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_one_camera_gives_pictures_without_a_leading_dimension(backend):
    gaussians, camera = ordinary()
    alone = render(gaussians, camera[1], backend=backend)
    assert alone.color.shape == (37, 53, 3) and alone.depth.shape == (37, 53, 1)
    assert torch.equal(alone.color, render(gaussians, camera, backend=backend).color[1])


def test_the_golden_scene_is_drawn_as_ever():
    for backend in ("reference", "cpu"):
        assert check_backend(backend) <= 1e-3


def test_the_golden_scene_notices_a_wrong_picture(monkeypatch):
    gaussians, camera, background = golden_scene()
    wrong = replace(gaussians, quats=gaussians.quats.roll(1, -1))
    monkeypatch.setattr("pipeline.render.golden.golden_scene", lambda: (wrong, camera, background))
    assert check_backend("cpu") > 0.05


def test_auto_takes_the_cpu_for_tensors_there():
    gaussians, camera = ordinary()
    assert torch.equal(
        render(gaussians, camera).color, render(gaussians, camera, backend="cpu").color
    )


def test_each_backend_is_ready_or_says_why_not():
    states = available_backends()
    assert set(states) == {"reference", "cpu", "gsplat"}
    assert states["reference"] == states["cpu"] == "ready"
    assert all(states.values())


def test_what_does_not_fit_is_refused():
    gaussians, camera = ordinary()
    with pytest.raises(ShapeError, match="background"):
        render(gaussians, camera, background=torch.ones(4))
    with pytest.raises(ShapeError, match="1 to 64"):
        render(cloud(4, 65), camera)
    with pytest.raises(ShapeError, match="different types"):
        render(gaussians.to(torch.float64), camera)
    with pytest.raises(BackendError, match="no render backend 'vulkan'"):
        render(gaussians, camera, backend="vulkan")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_what_lies_behind_a_finished_pixel_has_no_gradient(backend):
    # Twenty-five in the left pixel alone: the last of them finishes it without being drawn. The
    # faint one behind is drawn in the next pixels, and would be there too if that were forgotten.
    n = 25
    z = 1.0 + 0.001 * torch.arange(n + 1)
    gaussians = Gaussians(
        torch.stack([-0.0083 * z, torch.zeros(n + 1), z - 1.0], -1),
        torch.tensor([[1.0, 0, 0, 0]]).repeat(n + 1, 1),
        torch.tensor([1e-5] * n + [9.0])[:, None].repeat(1, 3),
        torch.tensor([1.0] * n + [0.02]),
        torch.rand(n + 1, 3).requires_grad_(),
    )
    E = torch.eye(4)
    E[2, 3] = 1.0
    K = torch.tensor([[100.0, 0, 0.5], [0, 100, 0.5], [0, 0, 1]])
    color = render(gaussians, Camera(E, K, 4, 1), backend=backend).color
    assert color[0, 1:].min() > 0
    color[0, 0].sum().backward()
    assert (gaussians.colors.grad[: n - 1] > 0).all()
    assert (gaussians.colors.grad[n - 1 :] == 0).all()


def test_sets_are_drawn_each_with_its_cameras_and_pass_their_gradients_on():
    sets = [cloud(50, seed=1), cloud(80, seed=2)]
    row = cameras(24, 16)
    rows = Camera(row.world_to_camera.expand(2, 2, 4, 4), row.K.expand(2, 2, 3, 3), 24, 16)
    for camera in (row, rows):
        leaves = [one.means.clone().requires_grad_() for one in sets]
        drawn = render_sets(
            [replace(one, means=leaf) for one, leaf in zip(sets, leaves)],
            camera, background=torch.ones(3),
        )  # fmt: skip
        assert drawn.depth.shape == (*camera.K.shape[:-2], 16, 24, 1)
        drawn.color.sum().backward()
        for i, (one, leaf) in enumerate(zip(sets, leaves)):
            means = one.means.clone().requires_grad_()
            alone = render(replace(one, means=means), camera[i], background=torch.ones(3))
            alone.color.sum().backward()
            assert torch.equal(drawn.color[i], alone.color) and torch.equal(leaf.grad, means.grad)


def test_sets_without_their_cameras_are_refused():
    for sets, camera in (([], cameras(8, 8)), ([cloud(3)], cameras(8, 8)), ([cloud(3)], ONE)):
        with pytest.raises(ShapeError, match="each; got"):
            render_sets(sets, camera)
