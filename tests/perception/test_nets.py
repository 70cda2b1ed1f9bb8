"""Perceptual networks, with random weights in the files' published shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from pipeline.core.errors import FormatError, InputError, MissingWeightsError
from pipeline.perception.lpips import Lpips, load_lpips
from pipeline.perception.mobilenet import MobileNetV2
from pipeline.perception.perceptual import load_perceptual
from pipeline.perception.vgg import AlexNet, Vgg16
from pipeline.system import weights
from pipeline.system.files import digest

# Of torchvision's files, read once: the index and shape of each convolution.
VGG_SHAPES = {
    0: (64, 3), 2: (64, 64), 5: (128, 64), 7: (128, 128), 10: (256, 128), 12: (256, 256),
    14: (256, 256), 17: (512, 256), 19: (512, 512), 21: (512, 512), 24: (512, 512),
    26: (512, 512), 28: (512, 512),
}  # fmt: skip


def test_vgg_has_the_names_and_shapes_of_torchvisions_file():
    net = Vgg16()
    found = {k: tuple(v.shape) for k, v in net.state_dict().items() if v.ndim == 4}
    assert found == {f"features.{i}.weight": (*s, 3, 3) for i, s in VGG_SHAPES.items()}
    assert net.taps == [3, 8, 15, 22, 29]


def test_features_are_those_after_the_stages_last_relus():
    torch.manual_seed(0)
    net, x = Vgg16(), torch.rand(1, 3, 32, 32)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = (x - mean[:, None, None]) / std[:, None, None]
    relu = nn.functional.relu
    one = relu(net.features[2](relu(net.features[0](y))))
    two = nn.functional.max_pool2d(one, 2)
    two = relu(net.features[7](relu(net.features[5](two))))
    found = net(x)
    torch.testing.assert_close(found[0], one)
    torch.testing.assert_close(found[1], two)
    assert [f.shape[1] for f in found] == [64, 128, 256, 512, 512]
    assert [f.shape[1] for f in AlexNet()(torch.rand(1, 3, 64, 64))] == list(AlexNet.channels)


def test_lpips_is_the_published_sum_worked_out_pixel_by_pixel():
    torch.manual_seed(0)
    net = Lpips(AlexNet()).eval()
    with torch.no_grad():
        for head in net.heads:
            head.weight.abs_()
    a, b = torch.rand(2, 2, 3, 64, 64)
    want = torch.zeros(2)
    for head, fa, fb in zip(net.heads, net.trunk(a), net.trunk(b)):
        weight = head.weight[0, :, 0, 0]
        for v in range(2):
            rows, columns = fa.shape[-2:]
            for y in range(rows):
                for x in range(columns):
                    p, q = fa[v, :, y, x], fb[v, :, y, x]
                    gap = p / (p.norm() + 1e-10) - q / (q.norm() + 1e-10)
                    want[v] += (weight * gap**2).sum().detach() / (rows * columns)
    torch.testing.assert_close(net(a, b), want, rtol=1e-4, atol=1e-6)
    assert net(a, a).abs().max() == 0


def published(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Let the registry know a stand-in's hash."""
    known = replace(weights.get(name), sha256=digest(path))
    monkeypatch.setitem(weights.WEIGHTS, name, known)


def test_lpips_reads_the_published_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(MissingWeightsError, match=r"alexnet-owt-7be5be79\.pth"):
        load_lpips("alex")
    torch.manual_seed(0)
    trunk = AlexNet()
    state = {**trunk.state_dict(), "classifier.1.weight": torch.zeros(1)}
    torch.save(state, tmp_path / weights.get("alexnet").file)
    heads = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate(trunk.channels)}
    torch.save(heads, tmp_path / weights.get("lpips_alex").file)
    with pytest.raises(FormatError, match=r"alexnet-owt-7be5be79\.pth as published"):
        load_lpips("alex")
    for name in ("alexnet", "lpips_alex"):
        published(monkeypatch, name, tmp_path / weights.get(name).file)
    net = load_lpips("alex")
    assert torch.equal(net.heads[2].weight, heads["lin2.model.1.weight"])
    a, b = torch.rand(2, 1, 3, 64, 64)
    assert 0 < net(a, (a + 0.05 * b).clamp(0, 1)) < net(a, b)
    torch.save({"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / "lpips_alex.pth")
    published(monkeypatch, "lpips_alex", tmp_path / "lpips_alex.pth")
    with pytest.raises(FormatError, match="linear heads"):
        load_lpips("alex")


@pytest.mark.parametrize("make", [Vgg16, MobileNetV2])
def test_the_perceptual_distance_is_of_whichever_network_the_file_holds(tmp_path, make):
    torch.manual_seed(0)
    path = tmp_path / "net.pth"
    torch.save(make().state_dict(), path)
    distance = load_perceptual(path, "cpu")
    a, b = torch.rand(2, 1, 3, 64, 64)
    b.requires_grad_()
    assert distance(a, a) == 0
    distance(b, a).backward()
    assert b.grad is not None and b.grad.abs().sum() > 0


def test_files_that_hold_something_else_are_refused(tmp_path: Path):
    path = tmp_path / "net.pth"
    with pytest.raises(InputError, match=r"net\.pth does not exist"):
        load_perceptual(path, "cpu")
    for content in ({"a": torch.zeros(1)}, [1, 2], {"features.28.weight": torch.zeros(2)}):
        torch.save(content, path)
        with pytest.raises(FormatError, match=r"net\.pth does not hold"):
            load_perceptual(path, "cpu")
