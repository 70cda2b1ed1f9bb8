"""The paper's tables and figures, from Python and through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError
from pipeline.evaluate.experiments import Ground, Request, choose_protocol, compare_methods, run
from pipeline.model.fastgha import FastGHA
from pipeline.system.progress import no_bars
from pipeline.train.checkpoint import save
from tests.conftest import LAYOUT
from tests.evaluate.toys import TOY


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgha_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_table_of_variants_is_trained_and_measured(shards: Path, tmp_path: Path, monkeypatch):
    from pipeline.train import variants
    from pipeline.train.config import RunConfig

    short = variants.Scale("tiny", (32,), (2,), 2)
    monkeypatch.setitem(variants.SCALES, "tiny", short)
    said: list[str] = []
    for table in (5, 6):
        variants.train_table(
            table, shards, tmp_path / "runs", "tiny", 1, RunConfig(workers=0), announce=said.append
        )
    assert [s for s in said if "left out" in s] and said.count("full, seed 0") == 2
    few = ["--shards", shards, "--runs", tmp_path / "runs", "--size", 32, "--inputs", 2]
    few += ["--targets", 6]
    seen = cli("eval", "--table", 5, *few)
    assert seen.returncode == 1 and "trained on 2 of the 2 people: anna, bert" in seen.stderr
    few.append("--allow-seen")
    done = cli("eval", "--table", 5, *few, "-o", tmp_path / "out", "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert "features-64" in done.stdout and "not measured: no-dino" in done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert [row["method"] for row in found["results"]] == ["full", "features-16", "features-64"]
    assert {"table.csv", "table.tex", "report.html", "sheet.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    pair = cli("eval", "--figure", 11, *few)
    assert pair.returncode == 0 and "not measured: no-colour-offsets" in pair.stderr
    nothing = cli("eval", "--table", 3, "--shards", shards, "--runs", tmp_path)
    assert nothing.returncode == 1 and "fastgha train SHARDS" in nothing.stderr
    unclear = cli("eval", "--table", 4, "--shards", shards)
    assert unclear.returncode == 1 and "no table 4" in unclear.stderr


def test_an_experiment_runs_from_python_and_writes_what_the_command_writes(
    shards: Path, tmp_path: Path, model: FastGHA
):
    checkpoint = tmp_path / "tiny.safetensors"
    save(checkpoint, model, None, {"layout": LAYOUT, "step": 0})
    titles: list[str] = []

    def bars(title: str):
        titles.append(title)
        return no_bars(title)

    ground = Ground(shards, TOY, out=tmp_path / "out")
    report = compare_methods(ground, checkpoint, name="mine", bars=bars)
    methods = ("mine", "nearest input view", "mean head", "white image")
    assert titles == ["Choosing the pictures", *(f"Measuring {name}" for name in methods)]
    assert report.title == "Protocol toy" and len(report.tables[0].rows) == 4
    assert [row["method"] for row in report.values["baselines"]] == list(methods[1:])
    assert report.pictures[0][1] == tmp_path / "out" / "sheet.png"
    assert report.write(tmp_path / "out").read_text().count("data:image/png") == 1
    assert (tmp_path / "out" / "table.csv").read_text() == report.tables[0].csv().replace("\r", "")
    # The same pictures of another method go into the same table.
    kept = tmp_path / "mine.json"
    kept.write_text(json.dumps(report.values))
    again = compare_methods(Ground(shards, TOY), checkpoint, name="again", earlier=(kept,))
    assert [row[0] for row in again.tables[0].rows][:2] == ["again", "mine"]
    assert again.pictures == ()


def test_a_request_without_shards_or_of_no_experiment_is_refused(shards: Path):
    with pytest.raises(ConfigError, match="No shards were given"):
        run(Request())
    with pytest.raises(ConfigError, match="no figure 13"):
        run(Request(shards, figure=13))
    with pytest.raises(ConfigError, match="no table 4"):
        run(Request(shards, table=4))
    with pytest.raises(ConfigError, match="compares several models"):
        run(Request(shards, table=6))
    with pytest.raises(ConfigError, match="has no name"):
        compare_methods(Ground(shards, TOY), predictions=shards)


def test_a_table_has_its_protocol_and_a_changed_one_says_so():
    assert choose_protocol(None).name == choose_protocol(None, 3).name == "synthetic-mixed"
    assert choose_protocol(None, 1).name == "synthetic-same"
    assert choose_protocol("ava256-same", 6).name == "ava256-same"
    changed = choose_protocol(None, 6, size=64, targets=9)
    assert (changed.name, changed.size, changed.targets) == ("synthetic-one, changed", 64, 9)
