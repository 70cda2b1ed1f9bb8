"""A training as a user asks for it, before it begins."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.core.errors import ConfigError
from pipeline.train.processes import idle_gpus, launch_line, speaks
from pipeline.train.report import TrainReport
from pipeline.train.request import Request, prepare


def test_what_is_asked_changes_the_preset_and_how_it_is_carried_out():
    request = Request(
        "tiny", inputs=1, mixture=(1.0, 2.5), changes=("lr=0.5", "run.patience=7"),
        device="cpu", workers=3, every=9,
    )  # fmt: skip
    config, run = request.settings()
    assert (config.sampling.inputs, config.sampling.min_inputs) == (1, 1)
    assert config.sampling.mixture == (1.0, 2.5) and config.lr == 0.5
    assert (run.patience, run.workers, run.device) == (7, 3, "cpu")
    assert run.checkpoint_every == run.picture_every == 9


def test_a_training_is_prepared_and_says_what_is_off(tmp_path: Path):
    said: list[str] = []
    made = prepare(Request("tiny", device="cpu"), said.append)
    assert made.origin is None and made.perceptual is None
    assert said == ["The perceptual term is off: no network was given (--perceptual NAME)."]
    said.clear()
    prepare(Request("tiny", device="cpu", changes=("loss.perceptual=0",)), said.append)
    assert said == []
    with pytest.raises(ConfigError, match="--anew leaves out parts of --from"):
        prepare(Request("tiny", device="cpu", anew=("decoder",)))
    weights = tmp_path / "first.safetensors"
    weights.touch()
    begun = prepare(Request("tiny", device="cpu", origin=weights, anew=("decoder",)))
    assert begun.origin is not None
    assert (begun.origin.checkpoint, begun.origin.anew) == (weights, ("decoder",))


def test_the_line_that_starts_several_processes_asks_for_no_more_of_them():
    line = "torchrun --nproc-per-node 2 -m fastgha_cli train 'a b' -o run"
    for words in (
        ["train", "a b", "--processes", "2", "-o", "run"],
        ["train", "a b", "-o", "run", "--processes=2"],
        ["train", "a b", "-o", "run"],
    ):
        assert launch_line(2, words) == line


def test_only_the_first_process_speaks_and_only_one_alone_hears_of_other_gpus(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert speaks()
    assert "--nproc-per-node 4" in idle_gpus("cuda", ["train"]) and not idle_gpus("cpu", ["train"])
    monkeypatch.setenv("RANK", "1")
    assert not speaks() and not idle_gpus("cuda", ["train"])
    monkeypatch.setenv("RANK", "0")
    assert speaks()
    monkeypatch.delenv("RANK")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert not idle_gpus("cuda", ["train"])


def test_a_report_says_how_fast_it_was_and_what_stopped_it(tmp_path: Path):
    seconds = {"forward": 3.0, "backward": 1.0}
    done = TrainReport(tmp_path, 10, "", tmp_path, 8, 2, 2, seconds)
    assert done.exit_code == 0
    assert done.remarks(1) == ["8 steps of 500 ms, 4.00 samples/s: forward 75%, backward 25%"]
    assert done.remarks(3)[0].startswith("This run has 2 samples a step, as it began; 2 processes")
    stopped = TrainReport(tmp_path, 10, "SIGTERM", tmp_path, 0, 1, 1)
    assert stopped.exit_code == 128 + 15
    assert stopped.remarks(1) == ["Stopped by SIGTERM at step 10; the same command goes on."]


def test_a_table_takes_what_fits_all_its_models_and_refuses_the_rest(shards: Path, tmp_path: Path):
    from pipeline.train import variants
    from pipeline.train.config import RunConfig

    with pytest.raises(ConfigError, match=r"takes no --preset or --from.*Leave them out"):
        variants.refuse_choices(5, preset="tiny", inputs=None, origin=tmp_path, anew=[])
    variants.refuse_choices(5, preset=None, inputs=None, origin=None, anew=[])
    reports = variants.train_table(
        5, shards, tmp_path, "tiny", 1, RunConfig(workers=0, precision="float32"),
        changes=("lr=0.5", "sizes=[32]"), until=1,
    )  # fmt: skip
    assert [report.step for report in reports] == [1, 1, 1]
    settings = json.loads((tmp_path / "full" / "seed-0" / "run.json").read_text())["settings"]
    assert (settings["seed"], settings["lr"]) == (0, 0.5) and settings["sizes"] == [32]
