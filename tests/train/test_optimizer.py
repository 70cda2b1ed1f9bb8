"""Muon for the matrices inside the network, Adam for the rest."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.model.fastgha import FastGHA
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.loop import train
from pipeline.train.optimizer import Optimizer
from pipeline.train.presets import recipe, tiny
from tests.conftest import LAYOUT

MUON = TrainConfig(optimizer="muon", lr=0.01, deform_lr=0.02)


def stepped(channels_last: bool) -> tuple[FastGHA, dict[str, torch.Tensor]]:
    """One step with the same gradients whatever the memory format."""
    torch.manual_seed(0)
    model = FastGHA(replace(tiny(), interior=True), "float32")
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
    model.deformation.set_layout(LAYOUT)
    optimizer = Optimizer(model, MUON)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(grad)
    optimizer.step()
    return model, {n: p.detach() - before[n] for n, p in model.named_parameters()}


def test_inner_matrices_take_orthogonal_steps_and_outer_layers_adams():
    model, steps = stepped(channels_last=False)
    inner = {"decoder.mid.0.conv1.weight": 0.01, "deformation.hidden.0.weight": 0.02}
    for name, lr in inner.items():
        step = steps[name].flatten(1)
        values = torch.linalg.svdvals(step)
        assert values.max() < 2.5 * values.min() + 1e-6  # near one: all directions learn alike
        wanted = 0.2 * max(step.shape) ** 0.5 * lr
        assert float(values.mean()) == pytest.approx(wanted, rel=0.25)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in ("decoder.conv_out.weight", "deformation.out.weight"):
            lr = 0.02 if name.startswith(("deformation.", "interior.")) else 0.01
            assert torch.allclose(steps[name].abs(), torch.full_like(steps[name], lr), rtol=1e-3)


def test_the_memory_format_of_convolutions_changes_nothing():
    _, plain = stepped(channels_last=False)
    _, last = stepped(channels_last=True)
    for name, step in plain.items():
        # Muon works in bfloat16, and sums in another order here.
        torch.testing.assert_close(last[name], step, atol=2e-4, rtol=0.05, msg=name)


def test_a_run_with_muon_that_was_stopped_goes_on_as_if_it_had_not_been(
    shards: Path, tmp_path: Path
):
    config = replace(recipe("tiny"), optimizer="muon", sizes=(32,), steps=(5,))
    run = RunConfig(workers=0, precision="float32")
    train(shards, tmp_path / "whole", config, run)
    train(shards, tmp_path / "halves", config, run, stop_after=2)
    train(shards, tmp_path / "halves", config, run)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "halves")
    ]
    assert len(logs[0]) == 5
    for a, b in zip(*logs, strict=True):
        assert a["gradient"] == b["gradient"] and a["rgb"] == b["rgb"]
