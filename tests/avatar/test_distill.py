"""A few Gaussians that look like the many."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.avatar.distill import DistillConfig, distill
from pipeline.avatar.fidelity import sample_codes
from pipeline.avatar.lighten import lighten
from pipeline.core.errors import ConfigError
from pipeline.core.types import ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.baked import Baked
from pipeline.model.fastgha import FastGHA
from pipeline.synthetic.subject import Subject
from pipeline.train.presets import tiny
from tests.conftest import blob_views, dome, plain
from tests.prep.test_synthetic import weights

CONFIG = DistillConfig(gaussians=900, rank=16, codes=140, expressions=8, seconds=5.0, size=64)


@pytest.fixture(scope="module")
def exact() -> Avatar:
    """A guided avatar of two pictures; the mesh moves it."""
    subject, camera = Subject.sample(5), dome(2, 64, seed=2)
    frames = [subject.render(weights(), camera[i]) for i in range(2)]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, np.stack([f.vertices for f in frames]))
    torch.manual_seed(0)
    model = FastGHA(replace(tiny(), interior=True), "float32").eval().requires_grad_(False)
    model.deformation.set_layout(MAKEHUMAN)
    return Avatar.create(model, View(image, alpha, camera), MAKEHUMAN, {"by": "the tests"}, mesh)


def _error(a: Avatar, b: Avatar) -> float:
    cameras, codes = orbit(4, 64, 30.0), sample_codes(MAKEHUMAN, 4, 99)
    pairs = [
        [avatar.render(ExpressionCode(code, MAKEHUMAN), cameras[i]).color for avatar in (a, b)]
        for i, code in enumerate(codes)
    ]
    return float(torch.stack([(x - y).square().mean() for x, y in pairs]).mean())


def test_few_gaussians_look_like_the_many_once_fitted(exact: Avatar, tmp_path: Path):
    merged, _ = distill(exact, replace(CONFIG, seconds=0.0))
    fitted, report = distill(exact, CONFIG)
    assert len(exact.canonical) > 2 * 900 >= 2 * len(fitted.canonical)
    assert isinstance(fitted.deformation, Baked)
    assert report.best.judged > report.looks[0].judged + 2
    assert _error(fitted, exact) < 0.7 * _error(merged, exact)
    fitted.save(tmp_path / "few.avatar")
    assert _error(Avatar.load(tmp_path / "few.avatar"), fitted) < 1e-4


def test_it_moves_as_the_exact_one_does(exact: Avatar):
    fitted, _ = distill(exact, CONFIG)
    camera = orbit(1, 64)[0]
    shut = ExpressionCode(sample_codes(MAKEHUMAN, 1, 5)[0], MAKEHUMAN)
    errors: list[float] = []
    for drawn in (fitted.render(shut, camera), fitted.draw(fitted.canonical, camera)):
        errors.append(float((drawn.color - exact.render(shut, camera).color).square().mean()))
    assert errors[0] < errors[1]


def test_what_is_baked_or_hangs_on_no_mesh_is_refused(exact: Avatar):
    fitted, _ = distill(exact, replace(CONFIG, seconds=0.0))
    with pytest.raises(ConfigError, match="baked already"):
        distill(fitted, CONFIG)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    bare = Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})
    with pytest.raises(ConfigError, match="no mesh"):
        distill(bare, CONFIG)


def test_an_avatar_is_made_light_by_what_it_allows(exact: Avatar):
    few = lighten(exact, replace(CONFIG, seconds=0.0))
    assert len(few.canonical) <= CONFIG.gaussians and isinstance(few.deformation, Baked)
    assert lighten(few) is few
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    bare = Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})
    pruned = lighten(bare)
    assert isinstance(pruned.deformation, Baked)
    assert _error(pruned, bare) < 1e-3
