"""Records of benches: kept, compared, shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.apps.web import export_web
from pipeline.bench.record import Change, Figure, compare, new_record, page, read_record, show
from pipeline.bench.suite import BENCHES, Plan, measure, rounds
from pipeline.core.errors import ConfigError, FormatError, MissingWeightsError
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import CHECKPOINT
from pipeline.train import checkpoint as checkpoints
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT
from tools.performance_page import BEGIN, PAGE, RECORD, kept, with_figures

FIGURES = {
    "render/cpu/forward": Figure(10.0, "ms", 1.0),
    "render/cpu/backward": Figure(30.0, "ms", 12.0),
    "avatar/baked/64 px": Figure(200.0, "1/s"),
}
BEFORE = new_record(CHECKPOINT, quick=False).with_bench(
    FIGURES, {"web": "There is no Chromium here."}, free=0.97
)


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
    figure = {"value": "nan", "unit": "ms", "spread": 0}
    for wrong in ({"version": 2}, {"figures": [1]}, {"figures": {"a": {"value": "x"}}},
                  {"figures": {"a": figure}}, {"free": None}, {"unknown": 1}):  # fmt: skip
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


def test_the_page_of_the_documentation_is_what_the_record_beside_it_says():
    text = PAGE.read_text(encoding="utf-8")
    assert with_figures(text, kept()) == text, "run python tools/performance_page.py"
    assert RECORD.exists() or "No record has been made" in text
    assert with_figures(text, BEFORE) != text


def test_figures_of_a_busy_machine_are_marked():
    noisy = BEFORE.with_bench({}, {}, free=0.3)
    assert "**" not in page(BEFORE)
    assert "**Not of an idle machine: other programs took up to 70%" in page(noisy)
    notes = show(compare(noisy, BEFORE), noisy, BEFORE).notes
    assert [note.partition(":")[0] for note in notes] == ["slower", "before"]
    assert "**A quick run" in page(replace(BEFORE, quick=True))


def test_rounds_give_the_median_and_how_far_they_lie_apart():
    values = iter([3.0, 9.0, 4.0])
    found = rounds(3, lambda: {"x": Figure(next(values), "1/s")})
    assert found == {"x": Figure(4.0, "1/s", 6.0)}


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Benches that take no time; the names of those that ran."""
    ran: list[str] = []

    def bench(name: str) -> Callable[[Plan], Mapping[str, Figure]]:
        def run(plan: Plan) -> Mapping[str, Figure]:
            ran.append(name)
            if name == "web" and ran.count("web") == 1:
                raise KeyboardInterrupt
            if name == "prep":
                raise MissingWeightsError("There are none.", "Fetch them.")
            return {"x": Figure(len(ran), "ms")}

        return run

    for name in BENCHES:
        monkeypatch.setitem(BENCHES, name, bench(name))
    return ran


def test_a_measurement_that_was_stopped_goes_on(tmp_path: Path, work: list[str]):
    plan, out = Plan(export_web), tmp_path / "x.json"
    with pytest.raises(KeyboardInterrupt):
        measure(plan, out)
    assert work == list(BENCHES) and not out.exists()
    record = measure(plan, out)
    assert work == [*BENCHES, "web"] and read_record(out) == record
    assert set(record.benches) == set(BENCHES)
    assert record.skipped == {"prep": "There are none. Fetch them."}
    assert record.figures["render/x"].value == 1 and 0 < record.free <= 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    measure(plan, out)
    assert work[-len(BENCHES) :] == list(BENCHES), "a whole record is made anew"


@pytest.mark.parametrize("change", [{"commit": "0"}, {"model": "0"}, {"quick": True}])
def test_what_was_measured_of_something_else_is_measured_anew(
    tmp_path: Path, work: list[str], change: dict[str, object]
):
    begun = new_record(CHECKPOINT, quick=False).with_bench({"train/x": Figure(7, "ms")}, {}, 1)
    replace(begun, **change).save(tmp_path / "x.json.begun")
    assert measure(Plan(export_web), tmp_path / "x.json", ("train",)).figures["train/x"].value == 1
    begun.save(tmp_path / "x.json.begun")
    assert measure(Plan(export_web), tmp_path / "x.json", ("train",)).figures["train/x"].value == 7
    assert work == ["train"]


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
