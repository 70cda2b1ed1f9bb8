from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.core.errors import FormatError, LayoutError, ShapeError
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import MAKEHUMAN, neutral_code
from pipeline.model.fastgha import FastGHA
from tests.conftest import blob_views, plain


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    net = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(net.deformation.out.weight, std=0.05)
    return net


@pytest.fixture(scope="module")
def avatar(model: FastGHA) -> Avatar:
    return Avatar.create(model, blob_views(3, 64), MAKEHUMAN, {"by": "the tests"})


def code(seed: int) -> ExpressionCode:
    noise = torch.randn(120, generator=torch.Generator().manual_seed(seed))
    return ExpressionCode(neutral_code(MAKEHUMAN).values + 0.3 * noise, MAKEHUMAN)


def test_a_file_gives_the_same_pictures_without_the_encoder(avatar: Avatar, tmp_path: Path):
    avatar.save(tmp_path / "x.avatar")
    loaded = Avatar.load(tmp_path / "x.avatar", "float32")
    camera = orbit(5, 64)[1]
    assert torch.equal(loaded.render(code(1), camera).color, avatar.render(code(1), camera).color)
    assert loaded.made == {"by": "the tests", "image_size": 64}
    with safe_open(tmp_path / "x.avatar", framework="pt") as file:
        assert not [k for k in file.keys() if k.startswith(("features.", "decoder"))]  # noqa: SIM118


def test_an_expression_moves_the_head_and_leaves_the_canonical_one(avatar: Avatar):
    before = avatar.canonical.means.clone()
    a, b = avatar.animate(code(1)).means, avatar.animate(code(2)).means
    assert not torch.equal(a, b)
    assert torch.equal(avatar.canonical.means, before)


def test_what_can_never_be_seen_is_left_out_and_changes_no_picture(model: FastGHA):
    views = blob_views(2, 64)
    head = model.reconstruct(views)
    avatar = Avatar.create(model, views, MAKEHUMAN, {})
    seen = (head.gaussians.opacities >= 1 / 255).sum()
    assert len(avatar.canonical) == int(seen)
    everything = Avatar(head, model.deformation, MAKEHUMAN, {}, "float32")
    camera = orbit(1, 64)[0]
    torch.testing.assert_close(
        avatar.render(code(0), camera).color, everything.render(code(0), camera).color
    )


def test_codes_of_another_layout_are_refused(avatar: Avatar):
    with pytest.raises(LayoutError, match="flame2020"):
        avatar.animate(ExpressionCode(torch.zeros(120), "fastgha120/flame2020/rot6d-rows"))
    with pytest.raises(ShapeError, match="one frame"):
        avatar.animate(ExpressionCode(torch.zeros(3, 120), MAKEHUMAN))


def test_another_version_and_a_truncated_file_are_refused(avatar: Avatar, tmp_path: Path):
    path = tmp_path / "x.avatar"
    avatar.save(path)
    data = path.read_bytes()
    (tmp_path / "cut.avatar").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match=r"cut\.avatar"):
        Avatar.load(tmp_path / "cut.avatar")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()["json"].replace('"version": 1', '"version": 7')
    save_file(load_file(path), tmp_path / "new.avatar", {"json": header})
    with pytest.raises(FormatError, match="version 7; this program reads 1"):
        Avatar.load(tmp_path / "new.avatar")


def test_the_orbit_starts_and_ends_in_front_and_reaches_both_sides():
    cameras = orbit(101, 64, degrees=40)
    x = cameras.centers[:, 0]
    assert abs(float(x[0])) < 1e-6 and abs(float(x[-1])) < 1e-5
    assert float(x.max()) == pytest.approx(0.643, abs=0.01)
    assert float(x.min()) == pytest.approx(-0.643, abs=0.01)
