"""`tools/train_unseen.py`: heights over hidden skin, as other cameras' pictures show them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipeline.core.geometry import look_at
from pipeline.core.types import View
from pipeline.faces.layouts import arkit_to_code
from pipeline.model.activate import kept
from pipeline.model.unseen import Hidden, Unseen, colored, find_hidden, over_skin
from pipeline.shards.sampling import Sample
from pipeline.synthetic.subject import Subject
from tests.model.test_unseen import camera, made, pictures
from tests.prep.test_synthetic import weights

TOOL = Path(__file__).parents[2] / "tools" / "train_unseen.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_unseen", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def known() -> tuple[Sample, Hidden]:
    """One frontal input, targets from both sides and behind, and what the input does not show."""
    views, mesh = pictures(0.0)
    model = made(unseen=False)
    guide = model.guide(mesh, views.camera)
    assert guide is not None
    with torch.no_grad():
        head = model.reconstruct(views, guide)
        covered = guide.coverage[:, 0][kept(views, model.config)] > 0.5
        hidden = find_hidden(head, guide, views.camera, covered)
    assert hidden is not None
    level, subject = camera(-130.0, 95.0, 170.0), Subject.sample(5)
    # From above: the rotations of level cameras are their own inverse.
    above = level.centers + torch.tensor([0.0, 0.3, 0.0])
    there = replace(level, world_to_camera=look_at(above, torch.zeros(3, 3)))
    frames = [subject.render(weights(), there[i]) for i in range(3)]
    image = torch.from_numpy(np.stack([f.rgb for f in frames])).permute(0, 3, 1, 2) / 255
    alpha = torch.from_numpy(np.stack([f.alpha for f in frames]))[:, None] / 255
    depth = torch.from_numpy(np.stack([f.depth for f in frames]))[:, None]
    none = torch.zeros(0, 3)
    sample = Sample(views, View(image, alpha, there), depth, arkit_to_code(weights()),
                    none[None], none, "x", (0,), (1, 2, 3))  # fmt: skip
    return sample, hidden


def test_heights_are_those_of_what_stands_over_the_skin(
    tool: ModuleType, known: tuple[Sample, Hidden]
):
    sample, hidden = known
    height, color = tool.truth(sample, hidden)
    shown = torch.isfinite(height)
    assert shown.float().mean() > 0.6 and torch.isfinite(color[shown]).all()
    # Nothing stands in the skin, and the neck, which has no hair, is the mesh's.
    assert (height[shown] > -0.006).float().mean() > 0.95
    neck = shown & (hidden.places[:, 1] < hidden.places[:, 1].quantile(0.15))
    assert height[neck].abs().median() < 0.002


def test_what_is_nearer_to_the_cameras_is_higher(tool: ModuleType, known: tuple[Sample, Hidden]):
    sample, hidden = known
    before, _ = tool.truth(sample, hidden)
    nearer = replace(sample, depth=torch.where(sample.depth > 0, sample.depth - 0.02, 0.0))
    after, _ = tool.truth(nearer, hidden)
    behind = hidden.normals[:, 2] < -0.8
    both = torch.isfinite(before) & torch.isfinite(after) & behind
    assert both.sum() > 100
    assert abs((after - before)[both].median().item() - 0.02) < 0.004


def test_a_roof_is_where_cameras_see_past_a_cell(tool: ModuleType, known: tuple[Sample, Hidden]):
    sample, hidden = known
    height, _ = tool.truth(sample, hidden)
    roof = tool.roofs(sample, hidden)
    shown = torch.isfinite(height)
    above = (roof - height)[shown]
    assert (above > -0.002).float().mean() > 0.9
    assert 0.002 < above.median() < 0.015
    # Below a chin, where no target looks, there are roofs too.
    assert torch.isfinite(roof[~shown]).float().mean() > 0.5
    nothing = replace(sample.targets, alpha=torch.zeros_like(sample.targets.alpha))
    lowest = tool.roofs(replace(sample, targets=nothing), hidden)
    assert (lowest <= -tool.REACH).float().mean() > 0.95
    filled = replace(sample.targets, alpha=torch.ones_like(sample.targets.alpha))
    blind = replace(sample, targets=filled, depth=torch.zeros_like(sample.depth))
    assert torch.isinf(tool.roofs(blind, hidden)).all()


def test_heights_are_learned_and_roofs_kept(tool: ModuleType, known: tuple[Sample, Hidden]):
    _, hidden = known
    back = hidden.places[:, 2] < hidden.places[:, 2].median()
    # Hair of 2 cm behind; of the rest it is known that it has no more than half a centimetre.
    height = torch.where(back, 0.02, torch.nan)
    color = torch.where(back[:, None], torch.tensor([0.2, 0.1, 0.1]), torch.nan)
    roof = torch.where(back, torch.inf, 0.005)
    torch.manual_seed(0)
    net = Unseen(made().config.gaussian_features)
    torch.nn.init.constant_(net.out.bias[:1], 1.0)  # begins 3 cm high
    tool.learn(net, [(hidden, height, color, roof)] * 3, 150)
    with torch.no_grad():
        said = net.numbers(hidden)
        high = over_skin(said.height)[:, 0]
        off = (colored(hidden, said.share, said.hue) - color)[back].abs()
    assert (high[back] - 0.02).abs().median() < 0.002
    assert (high[~back] < 0.007).float().mean() > 0.9
    assert off.mean() < 0.05
