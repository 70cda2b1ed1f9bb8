"""Refining an avatar on its own pictures."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.prune import select
from pipeline.avatar.refine import RefineConfig, held_back, refine
from pipeline.avatar.refine import error as picture_error
from pipeline.core.errors import ConfigError, ShapeError
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import MAKEHUMAN, neutral_code
from pipeline.model.deform import Deformation
from pipeline.model.fastgha import FastGHA
from tests.conftest import blob_views, plain

CONFIG = RefineConfig(seconds=60, max_steps=20)


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.4)
    return Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})


def codes(count: int) -> ExpressionCode:
    return ExpressionCode(neutral_code(MAKEHUMAN).values.repeat(count, 1), MAKEHUMAN)


def error(avatar: Avatar, seed: int) -> float:
    unseen = blob_views(3, 64, seed)
    drawn = [avatar.render(codes(1)[0], unseen.camera[i]).color for i in range(3)]
    truth = unseen.image.permute(0, 2, 3, 1)
    return float((torch.stack(drawn) - truth).abs().mean())


def test_it_helps_pictures_that_were_not_given(avatar: Avatar, tmp_path: Path):
    views = blob_views(2, 64)
    refined, report = refine(avatar, views, codes(2), CONFIG)
    assert report.steps == 20
    assert picture_error(refined, views, codes(2)) < picture_error(avatar, views, codes(2))
    assert error(refined, 7) < error(avatar, 7)
    refined.save(tmp_path / "r.avatar")
    again = Avatar.load(tmp_path / "r.avatar", "float32")
    code = codes(1)[0]
    for name, value in vars(refined.animate(code)).items():
        torch.testing.assert_close(getattr(again.animate(code), name), value)


def test_the_deformation_moves_refined_gaussians_as_it_did(avatar: Avatar):
    refined, _ = refine(avatar, blob_views(2, 64), codes(2), replace(CONFIG, max_steps=10))
    code = codes(1)[0]
    code.values[:8] += 0.5
    old = avatar.animate(code).means - avatar.canonical.means
    new = refined.animate(code).means - refined.canonical.means
    torch.testing.assert_close(new, old, atol=1e-6, rtol=0)
    few = select(refined, torch.arange(50))
    assert torch.equal(few.canonical.means, refined.canonical.means[:50])


@torch.no_grad()
def test_it_works_where_gradients_are_off(avatar: Avatar):
    refined, _ = refine(avatar, blob_views(2, 64), codes(2), replace(CONFIG, max_steps=10))
    assert not torch.equal(refined.canonical.means, avatar.canonical.means)
    assert not refined.canonical.means.requires_grad


def test_a_picture_held_back_tells_whether_it_helps():
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    views, rows = blob_views(3, 64), list[list[int]]()

    def make(chosen: list[int]) -> Avatar:
        rows.append(chosen)
        return Avatar.create(model, views[chosen], MAKEHUMAN, {})

    held, was, now = held_back(make, views, codes(3), CONFIG)
    assert rows == [[i for i in range(3) if i != held]]
    alone = views[[held]]
    assert was == pytest.approx(picture_error(make(rows[0]), alone, codes(1)))
    assert now < was
    worse = replace(CONFIG, means_lr=0.05, hold=0.0)
    assert held_back(make, views, codes(3), worse)[2] > was


def test_no_time_changes_nothing(avatar: Avatar):
    same, report = refine(avatar, blob_views(2, 64), codes(2), replace(CONFIG, seconds=0))
    assert report.steps == 0
    assert torch.equal(same.canonical.means, avatar.canonical.means)


def test_what_cannot_be_refined_is_refused(avatar: Avatar):
    with pytest.raises(ShapeError, match="2 pictures, 1 codes"):
        refine(avatar, blob_views(2, 64), codes(1), CONFIG)
    deformation = deepcopy(avatar.deformation)
    assert isinstance(deformation, Deformation)
    deformation.out.weight.data *= 0.1  # calm enough to be baked
    light, _ = bake(
        replace(avatar, deformation=deformation),
        BakeConfig(tolerance_db=3, codes=40, held_out=2, size=48),
    )
    with pytest.raises(ConfigError, match="Refine first"):
        refine(light, blob_views(2, 64), codes(2), CONFIG)
