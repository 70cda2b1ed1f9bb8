"""Which step size each weight is trained with."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.model.checkpoint import load
from pipeline.model.fastgha import FastGHA
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.loop import train
from pipeline.train.optimizer import Optimizer
from pipeline.train.presets import recipe, tiny
from tests.conftest import LAYOUT

CONFIG = replace(recipe("tiny"), sizes=(32,), steps=(6,))
RUN = RunConfig(workers=0, precision="float32")


def test_the_deformation_has_its_own_step_size_and_every_weight_has_one():
    model = FastGHA(tiny(), "float32")
    model.deformation.set_layout(LAYOUT)
    optimizer = Optimizer(model, TrainConfig(lr=0.25, deform_lr=0.5))
    sizes = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert [g["base_lr"] for g in optimizer.param_groups] == [
        g["lr"] for g in optimizer.param_groups
    ]
    for name, parameter in model.named_parameters():
        assert sizes[id(parameter)] == (0.5 if name.startswith("deformation.") else 0.25), name
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(sizes)


def test_a_run_takes_steps_of_the_schedules_size(shards: Path, tmp_path: Path):
    config = replace(CONFIG, schedule="cosine", warmup=3, lr=1e-4, deform_lr=1e-3)
    train(shards, tmp_path, config, RUN)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    wanted = [1e-4 * config.lr_factor(step) for step in range(6)]
    assert len(set(wanted)) == 6 and [line["lr"] for line in lines] == pytest.approx(wanted)


def test_no_weight_changes_while_the_schedule_is_at_zero(shards: Path, tmp_path: Path):
    config = replace(CONFIG, steps=(2,), peaks=(0.0,))
    before, after = (
        load(train(shards, tmp_path / str(end), config, RUN, until=end).checkpoint).tensors
        for end in (0, 2)
    )
    assert any(name.startswith("model.deformation.") for name in before)
    for name, value in before.items():
        if name.startswith("model."):
            assert torch.equal(after[name], value), name
