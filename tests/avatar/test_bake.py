"""Light avatars: pruned, baked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.camera_path import orbit
from pipeline.avatar.fidelity import loss_db, sample_codes
from pipeline.avatar.prune import contributions, prune, select
from pipeline.core.errors import ConfigError
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import FLAME2023, JAW, MAKEHUMAN, matrix_from_rot6d
from pipeline.model.baked import Baked, BakedConfig
from pipeline.model.deform import Deformation
from pipeline.model.fastgha import FastGHA
from tests.conftest import blob_views, plain

CONFIG = BakeConfig(tolerance_db=0.5, codes=160, held_out=4, size=48)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    """An avatar of random weights that answers a little to the code."""
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.03)
    torch.nn.init.zeros_(model.deformation.out.bias)
    return Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})


def code_of(avatar: Avatar, seed: int) -> ExpressionCode:
    return ExpressionCode(sample_codes(avatar.layout, 1, seed)[0], avatar.layout)


def test_a_baked_avatar_moves_as_the_exact_one_and_survives_its_file(
    avatar: Avatar, tmp_path: Path
):
    light, report = bake(avatar, CONFIG)
    assert isinstance(light.deformation, Baked) and report.loss_db <= 0.5
    assert report.rank == light.deformation.config.rank and report.gaussians == len(light.canonical)
    code, camera = code_of(avatar, 99), orbit(1, 48)[0]
    exact, drawn = avatar.render(code, camera).color, light.render(code, camera).color
    still = avatar.draw(avatar.canonical, camera).color
    assert (drawn - exact).abs().mean() < 0.8 * (still - exact).abs().mean()
    light.save(tmp_path / "light.avatar")
    again = Avatar.load(tmp_path / "light.avatar")
    torch.testing.assert_close(again.render(code, camera).color, drawn, atol=5e-3, rtol=0)
    with pytest.raises(ConfigError, match="baked already"):
        bake(light, CONFIG)


def test_gaussians_that_no_code_moves_stay_exactly_where_they_are(avatar: Avatar):
    class Half(Deformation):
        def forward(self, prepared, code):
            moved, still = super().forward(prepared, code), prepared.head.gaussians
            left = still.means[:, :1] < 0
            return replace(
                moved,
                means=torch.where(left, moved.means, still.means),
                colors=torch.where(left, moved.colors, still.colors),
            )

    part = Half(avatar.head.features.shape[1], avatar.deformation.config)
    part.load_state_dict(avatar.deformation.state_dict())
    half = Avatar(avatar.head, part.requires_grad_(False), avatar.layout, {})
    light, report = bake(half, CONFIG)
    count = int((avatar.canonical.means[:, 0] < 0).sum())
    assert 0 < report.moving <= count
    moved = light.animate(code_of(avatar, 5))
    assert torch.equal(moved.means[report.moving :], light.canonical.means[report.moving :])
    assert torch.equal(moved.colors[report.moving :], light.canonical.colors[report.moving :])


def test_an_impossible_tolerance_says_what_is_possible(avatar: Avatar, monkeypatch):
    monkeypatch.setattr("pipeline.avatar.bake.RANKS", (4,))
    with pytest.raises(ConfigError, match=r"No rank up to .* loses"):
        bake(avatar, replace(CONFIG, tolerance_db=1e-9))


def test_a_linear_deformation_is_baked_exactly():
    torch.manual_seed(0)
    shapes, mapping = torch.randn(4, 30, 6), torch.randn(120, 4)
    codes = torch.randn(200, 120)
    net = Baked.of(Baked.fit(codes, codes @ mapping, 0, 1e-6), shapes, torch.zeros(30, 6))
    code = torch.randn(120)
    want = torch.einsum("r,rmk->mk", code @ mapping, shapes)
    torch.testing.assert_close(net.offsets(code), want, atol=1e-2, rtol=1e-3)
    curved = Baked.fit(codes, torch.tanh(codes @ mapping), 64, 1e-3)
    straight = Baked.fit(codes, torch.tanh(codes @ mapping), 0, 1e-3)
    wanted = torch.tanh(codes @ mapping)
    assert (curved.weights(codes) - wanted).norm() < (straight.weights(codes) - wanted).norm()


def test_hidden_gaussians_make_nothing_of_the_pictures_and_go_first(avatar: Avatar):
    hidden = replace(avatar.canonical, opacities=avatar.canonical.opacities.clone())
    hidden.opacities[::2] = 1e-4
    faint = Avatar(replace(avatar.head, gaussians=hidden), avatar.deformation, avatar.layout, {})
    weight = contributions(faint, 48, 2)
    assert float(weight[::2].max()) < 0.01 * float(weight[1::2].mean())
    light, curve = prune(faint, tolerance_db=0.05, shares=(1.0, 0.5, 0.1), size=48)
    assert [kept.share for kept in curve] == [1.0, 0.5, 0.1]
    assert curve[0].psnr == 100 and curve[1].psnr > 50 > curve[2].psnr
    assert len(light.canonical) == len(faint.canonical) // 2
    assert curve[1].loss_db == pytest.approx(loss_db(curve[1].psnr))
    net = Baked(BakedConfig(4, 0, 0))
    with pytest.raises(ConfigError, match="Prune before baking"):
        select(Avatar(avatar.head, net, avatar.layout, {}), torch.tensor([0]))


def test_sampled_codes_are_rotations_in_both_kinds_of_layout():
    for layout in (MAKEHUMAN, FLAME2023):
        codes = sample_codes(layout, 20, 0)
        assert codes.shape == (20, 120) and codes.std(0).max() > 0.05
        R = matrix_from_rot6d(codes[:, JAW])
        torch.testing.assert_close(R @ R.mT, torch.eye(3).expand(20, 3, 3), atol=1e-4, rtol=0)


def test_the_command_prunes_and_bakes(avatar: Avatar, tmp_path: Path):
    from tests.cli.test_cli import fastgha

    avatar.save(tmp_path / "me.avatar")
    done = fastgha(
        "bake", tmp_path / "me.avatar", "-o", tmp_path / "fast.avatar", "--tolerance", "1.5dB",
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "shapes; on held-out expressions" in done.stderr
    assert isinstance(Avatar.load(tmp_path / "fast.avatar").deformation, Baked)
    wrong = fastgha("prune", tmp_path / "me.avatar", "-o", tmp_path / "x", "--tolerance", "much")
    assert wrong.returncode == 1 and "not a number of decibels" in wrong.stderr
