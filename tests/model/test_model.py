from dataclasses import astuple, replace

import numpy as np
import pytest
import torch

from pipeline.core.config import override
from pipeline.core.errors import ConfigError, ShapeError
from pipeline.core.geometry import project
from pipeline.core.types import Gaussians
from pipeline.faces.layouts import ARKIT, MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.model.activate import HEAD_RADIUS, CanonicalHead, activate
from pipeline.model.config import ModelConfig
from pipeline.model.deform import Deformation
from pipeline.model.fastgha import FastGHA
from tests.conftest import blob_views, plain


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    return FastGHA(plain(), precision="float32").eval().requires_grad_(False)


@pytest.mark.parametrize("views", [1, 2, 4, 6])
@pytest.mark.parametrize("size", [48, 64])
def test_any_number_of_views_and_any_multiple_of_16_makes_a_head(model, views, size):
    head = model.reconstruct(blob_views(views, size))
    alpha = blob_views(views, size).alpha
    blocks = torch.nn.functional.avg_pool2d(alpha, 2) >= 0.02
    assert len(head.gaussians) == int(blocks.sum())
    assert head.features.shape == (len(head.gaussians), 32)


def test_a_split_position_makes_a_gaussian_for_each_of_its_pixels():
    views = blob_views(2, 64)
    config = override(plain(), ["decoder.split=2", "foreground_only=false"])
    split = FastGHA(config, precision="float32").eval().requires_grad_(False)
    split.decoder.conv_out.weight.zero_()
    means, colors = (
        x.reshape(2, 64, 64, 3) for x in astuple(split.reconstruct(views).gaussians)[::4]
    )
    # colours as they are in the pictures, and each at its own pixel
    seen = views.image.permute(0, 2, 3, 1).clamp(0.02, 0.98)
    torch.testing.assert_close(colors, seen, atol=1e-5, rtol=0)
    at, _ = project(views.camera, means.reshape(2, -1, 3))
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
    grid = torch.stack([x, y], -1).reshape(-1, 2).expand(2, -1, -1)
    torch.testing.assert_close(at, grid, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    "changes", [["decoder.split=3"], ["decoder.widths=[8,8,8,8]", "decoder.split=2"]]
)
def test_a_split_that_does_not_fit_is_refused(changes):
    with pytest.raises(ConfigError, match="split"):
        override(plain(), changes)


@pytest.mark.parametrize(("views", "size"), [(7, 64), (0, 64), (2, 40)])
def test_views_that_do_not_fit_are_refused(model, views, size):
    with pytest.raises(ShapeError):
        model.reconstruct(blob_views(max(views, 1), size)[:views])


def test_the_order_of_the_views_does_not_matter(model):
    views = blob_views(3, 64)
    a = model.reconstruct(views).gaussians
    b = model.reconstruct(views[[2, 0, 1]]).gaussians
    n = [
        int((torch.nn.functional.avg_pool2d(views[i : i + 1].alpha, 2) >= 0.02).sum())
        for i in range(3)
    ]
    torch.testing.assert_close(b.means[n[2] :], a.means[: n[0] + n[1]], atol=1e-5, rtol=1e-4)


def test_views_look_at_each_other(model):
    views = blob_views(2, 64)
    other = replace(views, image=torch.stack([views.image[0], 1 - views.image[1]]))
    n = len(model.reconstruct(views).gaussians) // 2
    a, b = model.reconstruct(views).features[:n], model.reconstruct(other).features[:n]
    assert not torch.allclose(a, b)


@pytest.mark.parametrize("position", ["ray_depth", "xyz"])
def test_raw_zeros_are_a_plausible_head(position):
    config = override(plain(), [f"position={position}"])
    views = blob_views(2, 64)
    g = activate(torch.zeros(2, config.channels, 32, 32), views, config).gaussians
    assert (g.means.norm(dim=1) < HEAD_RADIUS).all()
    torch.testing.assert_close(g.opacities, torch.full_like(g.opacities, 0.5))
    torch.testing.assert_close(g.quats.norm(dim=1), torch.ones(len(g)))
    # about half a block of two pixels, 1 m away with a focal length of 2.4 x 64
    torch.testing.assert_close(
        g.scales.mean(), torch.tensor(0.6 * 2 / (2.4 * 64)), rtol=0.05, atol=0
    )
    skin = torch.tensor([0.8, 0.4, 0.3])
    assert (g.colors - skin).abs().median() < 1e-3


def test_a_depth_moves_a_gaussian_along_the_ray_of_its_pixel():
    config = plain()
    views = blob_views(1, 64)
    raw = torch.randn(1, 44, 32, 32, generator=torch.Generator().manual_seed(1))
    means = activate(raw, views, config).gaussians.means
    pixels, depths = project(views.camera, means[None])
    kept = (torch.nn.functional.avg_pool2d(views.alpha, 2)[0, 0] >= 0.02).nonzero()
    centers = (kept.flip(1) + 0.5) * 2.0
    torch.testing.assert_close(pixels[0], centers, atol=1e-2, rtol=0)
    assert ((depths - 1.0).abs() < HEAD_RADIUS).all()


def test_a_gaussian_turns_with_its_camera():
    """The same raw quaternion seen from the side is the same shape turned by the camera."""
    config = plain()
    views = blob_views(2, 64)
    g = activate(torch.zeros(2, 44, 32, 32), views, config).gaussians
    from scipy.spatial.transform import Rotation

    quat = g.quats[0].double().numpy()
    R = Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
    torch.testing.assert_close(
        torch.from_numpy(R), views.camera.world_to_camera[0, :3, :3].T.double(), atol=1e-6, rtol=0
    )


def test_the_cached_first_layer_is_exact(model):
    torch.manual_seed(1)
    deformation = Deformation(32, ModelConfig().deform)
    deformation.set_layout(MAKEHUMAN)
    torch.nn.init.normal_(deformation.out.weight, std=0.1)
    head = model.reconstruct(blob_views(2, 64))
    code = torch.randn(120)
    fast = deformation(deformation.prepare(head), code)

    inputs = deformation._inputs(head)
    gained = deformation.gain * (code - neutral_code(MAKEHUMAN).values)
    joint = torch.cat([inputs, gained.expand(len(inputs), 120)], dim=1)
    weight = torch.cat([deformation.of_gaussian.weight, deformation.of_code.weight], dim=1)
    x = torch.nn.functional.leaky_relu(joint @ weight.T + deformation.of_gaussian.bias, 0.01)
    for layer in deformation.hidden:
        x = torch.nn.functional.leaky_relu(layer(x), 0.01)
    offsets = deformation.out(x)
    torch.testing.assert_close(
        fast.means,
        head.gaussians.means + 0.06 * torch.tanh(offsets[:, :3] / 6),
        atol=1e-5,
        rtol=0,
    )
    colors = torch.sigmoid(torch.logit(head.gaussians.colors, 1e-3) + offsets[:, 3:])
    torch.testing.assert_close(fast.colors, colors, atol=1e-5, rtol=0)


def test_no_code_throws_a_gaussian_away(model):
    torch.manual_seed(2)
    deformation = Deformation(32, ModelConfig().deform)
    torch.nn.init.normal_(deformation.out.weight, std=100.0)
    head = model.reconstruct(blob_views(1, 64))
    moved = deformation(deformation.prepare(head), torch.randn(120))
    assert (moved.means - head.gaussians.means).abs().max() <= 0.06 + 1e-6


def test_a_fresh_deformation_hears_every_part_of_the_code():
    torch.manual_seed(3)
    deformation = Deformation(32, ModelConfig().deform)
    deformation.set_layout(MAKEHUMAN)
    torch.nn.init.normal_(deformation.out.weight, std=1.0)
    features = torch.randn(50, 32)
    head = CanonicalHead(
        Gaussians(
            0.1 * torch.randn(50, 3),
            torch.nn.functional.normalize(torch.randn(50, 4), dim=1),
            torch.full((50, 3), 0.002),
            torch.full((50,), 0.5),
            torch.rand(50, 3),
        ),
        features,
    )
    prepared = deformation.prepare(head)
    still = deformation(prepared, neutral_code(MAKEHUMAN).values).means
    for weights, least in (("jawOpen", 0.001), ("eyeBlinkLeft", 0.001), ("browInnerUp", 0.0003)):
        w = np.zeros(52)
        w[ARKIT[weights]] = 1.0
        moved = deformation(prepared, arkit_to_code(w).values).means
        assert (moved - still).norm(dim=1).mean() > least, weights


def test_before_training_no_expression_moves_anything(model):
    head = model.reconstruct(blob_views(1, 64))
    moved = model.animate(model.prepare(head), torch.randn(120))
    assert torch.equal(moved.means, head.gaussians.means)


def test_every_weight_learns():
    torch.manual_seed(0)
    net = FastGHA(plain(), precision="float32")
    torch.nn.init.normal_(net.deformation.out.weight, std=0.01)
    head = net.reconstruct(blob_views(2, 64))
    g = net.animate(net.prepare(head), torch.randn(120))
    (
        g.means.sum()
        + (g.colors * g.opacities[:, None]).sum()
        + g.scales.sum()
        + (g.quats**3).sum()
    ).backward()
    without = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_bfloat16_gives_nearly_the_same_head(model):
    views = blob_views(2, 64)
    half = FastGHA(plain(), precision="bfloat16").eval().requires_grad_(False)
    half.load_state_dict(model.state_dict())
    a, b = model.reconstruct(views).gaussians, half.reconstruct(views).gaussians
    assert (a.means - b.means).norm(dim=1).mean() < 5e-4
    assert (a.colors - b.colors).abs().mean() < 5e-3


def test_the_deformation_is_the_papers_if_nothing_else_is_said():
    deform = ModelConfig().deform
    assert (deform.width, deform.layers) == (256, 6)
