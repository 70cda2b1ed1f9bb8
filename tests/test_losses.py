import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.overrides import TorchFunctionMode

from pipeline.evaluate import metrics
from pipeline.losses import LossConfig, Prediction, losses, motion, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 3, 40, 33, generator=g)
    return a, (0.8 * a + 0.2 * torch.rand(2, 3, 40, 33, generator=g))


def reference_ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    return structural_similarity(
        a.numpy(),
        b.numpy(),
        channel_axis=0,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )


def test_the_ssim_loss_is_that_of_scikit_image(pair):
    a, b = pair
    wanted = np.mean([reference_ssim(x, y) for x, y in zip(a, b)])
    assert float(ssim(a, b)) == pytest.approx(wanted, abs=1e-5)


class TenBits(TorchFunctionMode):
    """Products of matrices as a GPU makes them with TF32: their factors keep ten bits."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in ("matmul", "__matmul__", "__rmatmul__"):
            rounded = [(x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF for x in args]
            args = tuple(x + (r.view(torch.float32) - x).detach() for x, r in zip(args, rounded))
        return func(*args, **(kwargs or {}))


def test_the_ssim_loss_has_no_huge_gradient_where_products_are_rounded():
    torch.manual_seed(0)
    truth = torch.ones(2, 3, 64, 64)  # white, where rounding can make a variance negative
    truth[..., 20:44, 20:44] = torch.rand(2, 3, 24, 24)
    drawn = (truth + 0.003 * torch.randn_like(truth)).requires_grad_()
    with TenBits():
        (1 - ssim(drawn, truth)).backward()
    assert drawn.grad is not None and drawn.grad.norm() < 0.1


def test_the_metrics_are_those_of_scikit_image_one_for_each_picture(pair):
    a, b = pair
    for i in range(2):
        psnr = peak_signal_noise_ratio(b[i].numpy(), a[i].numpy(), data_range=1.0)
        assert float(metrics.psnr(a, b)[i]) == pytest.approx(psnr, abs=1e-4)
        assert float(metrics.ssim(a, b)[i]) == pytest.approx(reference_ssim(a[i], b[i]), abs=3e-3)


def flat(value: float, depth: float) -> Prediction:
    return Prediction(
        torch.full((1, 3, 16, 16), value),
        torch.full((1, 1, 16, 16), value),
        torch.full((1, 1, 16, 16), depth),
    )


def test_the_papers_weights_by_hand():
    truth = flat(0.5, 1.0)
    truth.depth[..., :8] = 0  # unknown on the left
    truth.depth[..., 8] = 0.95
    terms = losses(flat(0.7, 0.95), truth, LossConfig(), lambda a, b: torch.tensor(2.0))
    assert float(terms["rgb"]) == pytest.approx(0.2, abs=1e-6)
    assert float(terms["silhouette"]) == pytest.approx(0.2, abs=1e-6)
    # seven of eight known columns are off by 5 cm, half the unit; weight one half
    assert float(terms["depth"]) == pytest.approx(0.5 * 0.5 * 7 / 8, abs=1e-6)
    assert float(terms["perceptual"]) == pytest.approx(1.0)
    c1 = 0.01**2
    luminance = (2 * 0.7 * 0.5 + c1) / (0.7**2 + 0.5**2 + c1)
    assert float(terms["ssim"]) == pytest.approx(1 - luminance, abs=5e-4)


def test_without_a_net_there_is_no_perceptual_term():
    assert "perceptual" not in losses(flat(0.7, 1), flat(0.5, 1), LossConfig(), None)


def test_no_known_depth_is_no_loss():
    terms = losses(flat(0.7, 1.0), flat(0.5, 0.0), LossConfig(), None)
    assert float(terms["depth"]) == 0.0


def test_motion_compares_with_the_nearest_vertex_of_the_picture_a_gaussian_came_from():
    closed = torch.tensor([[0.0, 0.0, 0.1], [0.0, 0.05, 0.1]])
    lower = closed + torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.02, 0.0]])
    means = torch.tensor([[0.0, 0.001, 0.1], [0.0, 0.071, 0.1], [0.0, 0.5, 0.0]])
    # The first is still in both; the second was seen 2 cm low and must rise; the third is far.
    args = (means, torch.tensor([0, 1, 1]), torch.stack([closed, lower]), closed)
    right = torch.tensor([[0.0, 0.0, 0.0], [0.0, -0.02, 0.0], [0.3, 0.3, 0.3]])
    assert motion(right, *args) == 0
    # Off by 5 mm: half of 0.25, over two Gaussians; off by 2 cm: 2 - 0.5.
    almost = right + torch.tensor([[0.005, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert motion(almost, *args) == pytest.approx(0.125 / 2, rel=1e-4)
    still = torch.zeros(3, 3)
    assert motion(still, *args) == pytest.approx(1.5 / 2, rel=1e-4)


def test_without_a_vertex_near_motion_is_nothing():
    offsets = torch.ones(3, 3, requires_grad=True)
    far = torch.full((1, 4, 3), 5.0)
    loss = motion(offsets, torch.zeros(3, 3), torch.zeros(3, dtype=torch.long), far, far[0])
    loss.backward()
    assert loss == 0 and not offsets.grad.any()


def test_motion_of_what_is_not_a_number_is_not_a_number():
    means = torch.tensor([[0.0, float("nan"), 0.0]])
    mesh = torch.zeros(1, 4, 3)
    assert not motion(torch.zeros(1, 3), means, torch.zeros(1).long(), mesh, mesh[0]).isfinite()


def test_a_perceptual_net_of_brightness_does_not_see_hues():
    seen: list[torch.Tensor] = []

    def net(drawn: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        seen.extend([drawn, truth])
        return (drawn - truth).abs().mean()

    red = flat(0.5, 1)
    red.image[:] = torch.tensor([0.9, 0.3, 0.2])[:, None, None]
    grey = flat(float(torch.tensor([0.299, 0.587, 0.114]) @ torch.tensor([0.9, 0.3, 0.2])), 1)
    colored = losses(red, grey, LossConfig(), net)["perceptual"]
    blind = losses(red, grey, LossConfig(perceptual_of="brightness"), net)["perceptual"]
    assert float(colored) > 0.1
    assert float(blind) == pytest.approx(0.0, abs=1e-6)
    assert seen[2].shape == seen[3].shape == red.image.shape
