"""Shards carry their split, checkpoints the people they saw; held-out people are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.model.checkpoint import load
from pipeline.shards.reader import Shard
from pipeline.shards.sampling import ResolutionSchedule, Samples, SamplingConfig, load_samples
from pipeline.shards.writer import write_shard
from pipeline.train import folder
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig
from pipeline.train.loop import train
from pipeline.train.presets import recipe
from tests.conftest import toy_capture

CONFIG = replace(recipe("tiny"), sizes=(32,), steps=(1,))
RUN = RunConfig(workers=0, precision="float32")


def test_held_out_people_are_refused_or_written_down(shards: Path, tmp_path: Path):
    held = tmp_path / "held"
    write_shard(held / "carl.h5", replace(toy_capture("carl"), split="test"), {})
    with pytest.raises(ConfigError, match=r"1 of 3 people are held out.*carl.*--allow-test"):
        train([shards, held], tmp_path / "run", CONFIG, RUN)
    assert not (tmp_path / "run").exists()
    allowed = train([shards, held], tmp_path / "run", CONFIG, RUN, allow_test=True)
    seen = load(allowed.checkpoint)
    assert seen.people == {"anna", "bert", "carl"} and seen.held_out == {"carl"}
    # What another run saw, a run that begins with its weights has seen as well.
    origin = Origin(allowed.checkpoint)
    tuned = load(train(shards, tmp_path / "tuned", CONFIG, RUN, origin=origin).checkpoint)
    assert tuned.people == seen.people and tuned.held_out == {"carl"}


def test_shards_of_before_tell_their_split_by_their_settings(tmp_path: Path):
    for i, (said, split) in enumerate({"test": "test", "train": "train", "all": ""}.items()):
        path = tmp_path / f"{i}.h5"
        write_shard(path, toy_capture("anna"), {"stage": "synthetic", "config": {"split": said}})
        with Shard(path) as shard:
            assert (shard.split, shard.dataset) == (split, "synthetic")
            assert shard.header().split == split


def test_a_person_of_several_shards_is_drawn_as_often_as_others(tmp_path: Path):
    for name, subject in (("a-1", "anna"), ("a-2", "anna"), ("a-3", "anna"), ("b", "bert")):
        write_shard(tmp_path / f"{name}.h5", replace(toy_capture(name), subject=subject), {})
    chosen = folder.find(tmp_path, CONFIG)
    assert chosen.people == ("anna", "bert")
    assert [path.stem for path in chosen.shards[0]] == ["a-1", "a-2", "a-3", "b"]
    sampling = SamplingConfig(inputs=1, min_inputs=1, targets=2)
    samples = Samples(chosen.groups, sampling, ResolutionSchedule((16,), (200,)), 0)
    drawn = [sample.subject for sample in load_samples(samples, 0, 0)]
    assert drawn.count("bert") == pytest.approx(100, abs=25)
    assert {path.stem for path in samples._open} == {"a-1", "a-2", "a-3", "b"}
