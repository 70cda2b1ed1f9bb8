"""Records of benches: kept, compared, shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.bench.record import Change, Figure, compare, new_record, page, read_record
from pipeline.bench.suite import BENCHES
from pipeline.core.errors import ConfigError, FormatError
from pipeline.model.fastgha import FastGHA
from pipeline.train import checkpoint as checkpoints
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT
from tools.performance_page import BEGIN, PAGE, with_figures

FIGURES = {
    "render/cpu/forward": Figure(10.0, "ms", 1.0),
    "render/cpu/backward": Figure(30.0, "ms", 12.0),
    "avatar/baked/64 px": Figure(200.0, "1/s"),
}
BEFORE = new_record(FIGURES, {"web": "There is no Chromium here."}, quick=False)


def after(**values: float):
    figures = dict(BEFORE.figures)
    for name, value in values.items():
        key = next(k for k in figures if name in k)
        figures[key] = replace(figures[key], value=value)
    return replace(BEFORE, figures=figures)


def slower(record) -> list[str]:
    return [change.name for change in compare(BEFORE, record) if change.counts]


def test_only_what_is_beyond_tolerance_and_noise_counts():
    assert slower(after()) == []
    assert slower(after(forward=10.9)) == []
    assert slower(after(forward=11.2)) == ["render/cpu/forward"]
    assert slower(after(backward=41)) == [], "its repetitions are 12 ms apart"
    assert slower(after(backward=43)) == ["render/cpu/backward"]
    assert slower(after(forward=5.0)) == []


def test_fewer_frames_a_second_are_worse_and_more_are_not():
    assert slower(after(baked=170)) == ["avatar/baked/64 px"]
    assert slower(after(baked=400)) == []
    assert Change("x", Figure(200, "1/s"), Figure(100, "1/s")).worse == pytest.approx(0.5)


def test_records_of_other_machines_and_quick_ones_are_refused():
    other = replace(BEFORE, machine={**BEFORE.machine, "cpu": "another"})
    with pytest.raises(ConfigError, match="different machines: cpu is .* and 'another'"):
        compare(BEFORE, other)
    with pytest.raises(ConfigError, match="quick"):
        compare(BEFORE, replace(BEFORE, quick=True))


def test_a_record_is_read_as_it_was_written_and_names_machine_and_commit(tmp_path: Path):
    BEFORE.save(tmp_path / "x.json")
    assert read_record(tmp_path / "x.json") == BEFORE
    values = json.loads((tmp_path / "x.json").read_text())
    assert values["machine"]["cpu"] and values["machine"]["platform"]
    assert len(values["commit"].rstrip("+")) in (0, 12)
    for wrong in ({"version": 2}, {"figures": [1]}, {"figures": {"a": {"value": "x"}}}):
        (tmp_path / "y.json").write_text(json.dumps(values | wrong))
        with pytest.raises(FormatError):
            read_record(tmp_path / "y.json")


def test_the_comparison_says_what_got_slower_and_ends_with_1(tmp_path: Path):
    BEFORE.save(tmp_path / "a.json")
    after(forward=20.0).save(tmp_path / "b.json")
    words = ["bench", "compare", str(tmp_path / "a.json")]
    same = CliRunner().invoke(app, [*words, str(tmp_path / "a.json")])
    worse = CliRunner().invoke(app, [*words, str(tmp_path / "b.json")])
    assert (same.exit_code, worse.exit_code) == (0, 1)
    assert "slower" in worse.output and "-100 %" in worse.output


def test_the_page_has_a_table_for_each_bench_and_what_was_left_out():
    text = page(BEFORE)
    assert "### render" in text and "| cpu, forward | 10 ms | 1 |" in text
    assert "- web: There is no Chromium here." in text
    whole = with_figures(PAGE.read_text(encoding="utf-8"), BEFORE)
    assert text in whole and with_figures(whole, BEFORE) == whole
    assert whole.split(BEGIN)[0] == PAGE.read_text(encoding="utf-8").split(BEGIN)[0]


def test_everything_is_measured_or_says_why_not(tmp_path: Path):
    torch.manual_seed(0)
    path = tmp_path / "step-00000001.safetensors"
    checkpoints.save(path, FastGHA(tiny(), "float32"), None, {"layout": LAYOUT, "step": 1})
    words = ["bench", "all", "--quick", "--model", str(path), "-o", str(tmp_path / "b.json")]
    done = CliRunner().invoke(app, words)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    record = read_record(tmp_path / "b.json")
    measured = {name.partition("/")[0] for name in record.figures}
    assert measured | set(record.skipped) == set(BENCHES) and record.quick
    assert {"render", "model", "train", "avatar", "track"} <= measured
    assert all(figure.value > 0 for figure in record.figures.values())
