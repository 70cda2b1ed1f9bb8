"""`fastgha prep check` sees what is wrong with shards."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
from PIL import Image

from pipeline.prep import check
from pipeline.shards.writer import write_shard
from tests.conftest import toy_capture


def made(folder: Path, **changes: object) -> check.Check:
    folder.mkdir()
    capture = replace(toy_capture("anna"), **changes)
    write_shard(folder / "anna.h5", capture, {"made by": "the tests"})
    return check.run(folder)[0]


def test_whole_shards_pass_and_get_a_page(shards: Path, tmp_path: Path):
    for file in shards.glob("*.h5"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "reports").mkdir()
    report = {"dropped_timesteps": {"SEN 000001": "no <head> pose"}}
    (tmp_path / "reports" / "anna.json").write_text(json.dumps(report))
    command = [sys.executable, "-m", "fastgha_cli", "prep", "check", str(tmp_path)]
    done = subprocess.run([*command, "--json", str(tmp_path / "c.json")], capture_output=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "c.json").read_text())["shards"]
    assert [one["problems"] for one in found] == [[], []]
    assert found[0]["facts"]["landmarks on the head"] == 1
    assert "no &lt;head&gt; pose" in (tmp_path / "qa" / "anna.html").read_text()
    with Image.open(tmp_path / "qa" / "anna.png") as picture:
        assert picture.size == (3 * check.SIDE, check.ROWS * check.SIDE)


def test_landmarks_beside_the_head_are_a_problem(tmp_path: Path):
    aside = np.full((4, 68, 3), 0.3, np.float32)
    found = made(tmp_path / "a", landmarks=aside)
    assert any("0% of the landmarks" in problem for problem in found.problems)


def test_a_changed_byte_is_a_problem(tmp_path: Path):
    made(tmp_path / "a")
    with h5py.File(tmp_path / "a" / "anna.h5", "r+") as file:
        file["code"][0, 0] = 0.123  # pyright: ignore
    assert any("content" in problem for problem in check.run(tmp_path / "a")[0].problems)


def test_a_jaw_that_shuts_the_mouth_is_a_problem(tmp_path: Path):
    angle = np.linspace(0, 0.3, 4)
    code = np.zeros((4, 120), np.float32)
    code[:, 100:106] = [1, 0, 0, 0, 1, 0]
    code[:, 104], code[:, 105] = np.cos(angle), -np.sin(angle)
    points = np.zeros((4, 68, 3), np.float32)
    points[:, 62, 1] = 0.1 * angle
    good = made(tmp_path / "good", code=code, landmarks=points)
    assert not [p for p in good.problems if "jaw" in p]
    assert good.facts["jaw of the code against the lips' opening"] == 1
    bad = made(tmp_path / "bad", code=code, landmarks=points[::-1].copy())
    assert [p for p in bad.problems if "jaw" in p]


def test_a_dry_run_of_the_point_maps_counts_and_writes_nothing(tmp_path: Path):
    write_shard(tmp_path / "anna.h5", toy_capture("anna"), {"made by": "the tests"})
    command = [sys.executable, "-m", "fastgha_cli", "vggt-cache", str(tmp_path), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.startswith("1 shards, 4 timesteps left, 16 pictures"), done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["anna.h5"]
