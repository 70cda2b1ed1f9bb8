"""A look at raw data before the work."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.captures.ava256 import MESHES, Ava256Capture
from pipeline.captures.capture import Timestep
from pipeline.captures.registry import open_capture
from pipeline.perception import detectors
from pipeline.perception.detectors import DetectorEntry, register_detector
from pipeline.perception.landmarks import MESH_HEAD
from pipeline.prep import probe
from pipeline.prep.plan import PrepConfig, plan_all
from tests.captures import ava, nersemble
from tests.captures.studio import WALL, shoot
from tests.prep import toys

SIZE = {"width": 192, "height": 294, "span": 0.42}


def test_a_probe_says_what_is_met_and_what_all_would_take_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(detectors, "DETECTORS", dict(detectors.DETECTORS))
    knows = partial(toys.StudioDetector, *SIZE.values(), WALL)
    register_detector("studio", DetectorEntry(knows, MESH_HEAD))
    monkeypatch.setattr(probe, "LIMIT", 1e6)  # also where the machine is busy
    raw = tmp_path / "raw"
    ava.write(raw, shoot(**SIZE))
    ava.write(raw, shoot(**SIZE), "20230309--1352--XYZ999")
    words = ["prep", "ava256", str(raw), "-o", str(tmp_path / "out"), "--detector", "studio"]
    words += ["--face", "makehuman", "--size", "64", "--workers", "1", "--probe"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]
    lines = done.stdout.splitlines()
    assert lines[0] == f"{ava.NAME}: colours ava256-srgb-v1"
    said = "\n".join(lines)
    assert "codes: our own fit of fastgha120/makehuman-hm08/1 in 3 views" in said
    assert "image/cam401999.zip: not a whole zip archive" in said
    assert "4 of 4 timesteps can be packed" in said
    assert "1 times: there is no picture" in said
    assert lines[-1].startswith("all: about 2 captures, 24 pictures, ")
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    met = probe.probe(raw, config)
    assert met.reprojection < 0.5 and met.miss < 0.02 and met.seconds > 0 and met.bytes > 1000


def test_what_the_data_set_is_known_to_lack_is_not_unexpected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held = Ava256Capture(ava.write(tmp_path, shoot(height=147), "20230309--1352--AEY864"))
    held.timesteps = tuple(Timestep("EXP", i) for i in range(5022))
    lost = {"image/cam1.zip": 5, "head_pose/head_pose.zip": 30, MESHES: 21}

    def gaps(**more: int) -> list[str]:
        every = {**lost, **{name.replace("_", "/", 1): n for name, n in more.items()}}
        table = {name: (f"{n} of 5022", n / 5022) for name, n in every.items()}
        monkeypatch.setattr(Ava256Capture, "_lost", lambda self: table)
        return list(held.unexpected())

    assert gaps() == []  # 5,001 meshes of 5,022 rows: counted by others
    lost[MESHES] = 22
    assert gaps() == [MESHES]
    held.subject = "BDF920"
    assert gaps() == []
    lost |= {"image/cam1.zip": 30, MESHES: 60}
    assert gaps() == ["image/cam1.zip", MESHES]


def test_frame_counts_of_a_sequences_videos_are_compared_before_work(tmp_path: Path):
    raw = nersemble.write_v1(tmp_path, shoot())
    short = raw / nersemble.SEQUENCES[0] / f"cam_{nersemble.SERIALS[1]}.mp4"
    nersemble.video(short, [nersemble.over(row[1]) for row in shoot().frames[:3]])
    said: list[str] = []
    config = PrepConfig("nersemble", cameras=0, face="makehuman")
    plan_all(raw, config, said.append)
    assert any(nersemble.SERIALS[1] in line and "3 frames, another camera has 4" in line
               for line in said)  # fmt: skip
    facts = open_capture("nersemble", raw).facts
    assert facts["cameras"] == "3 of 3 calibrated"
