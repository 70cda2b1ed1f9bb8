"""The bench of the fit to a video."""

from __future__ import annotations

import math
from itertools import count
from pathlib import Path

import pytest
import torch

from pipeline.avatar.fit import FitConfig
from pipeline.avatar.start import bare_mesh
from pipeline.bench import refine
from pipeline.bench.refine import Clock, Scene
from pipeline.model.fastgha import FastGHA
from pipeline.train.checkpoint import save
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT


@pytest.fixture(scope="module")
def scene() -> Scene:
    return refine.synthetic(seconds=3.0, size=48, fps=8.0)


def test_every_start_is_measured_on_its_way(scene: Scene, tmp_path: Path):
    torch.manual_seed(0)
    checkpoint = tmp_path / "tiny.safetensors"
    save(checkpoint, FastGHA(tiny(), "float32"), None, {"layout": LAYOUT, "step": 0})
    seconds = count()
    rows = refine.bench(
        scene, model=checkpoint, config=FitConfig(60, sizes=(48,), shares=(1.0,), looks=0.1),
        seconds=lambda: float(next(seconds)),
    )  # fmt: skip
    starts = [row["start"] for row in rows]
    assert starts[0] == "nearest input frame"
    assert starts.count("network, kept") == starts.count("bare mesh, kept") == 1
    bare = [row for row in rows if row["start"].startswith("bare mesh")]
    assert len(bare) >= 4 and bare[0]["seconds"] < 10 < 50 < bare[-2]["seconds"]
    assert bare[-1]["psnr"] > bare[0]["psnr"] + 1
    assert bare[-1]["aligned"] >= bare[-1]["psnr"] - 1
    assert all(math.isfinite(row["beyond"]) for row in bare)
    assert all(0 < row["file_mb"] < 4 and row["fps"] > 0 for row in bare)
    assert "Gaussians" in refine.show(rows, "x").columns


def test_views_beyond_are_beyond(scene: Scene):
    filmed = scene.footage.cameras.centers
    assert scene.beyond is not None
    beyond = scene.beyond.camera.centers
    yaw, far = (torch.atan2(c[:, 0], c[:, 2]).rad2deg().abs() for c in (filmed, beyond))
    assert float(far.min()) > float(yaw.max()) + 25


def test_alignment_finds_the_pose_alone(scene: Scene):
    avatar = bare_mesh(scene.footage)
    found = refine.aligned(avatar, scene.footage, count=2)
    assert found > refine.measure(avatar, scene)["psnr"] - 1 and math.isfinite(found)


def test_measuring_takes_no_time():
    now = [0.0]
    clock = Clock(lambda: now[0])

    def work() -> None:
        now[0] += 5

    clock.leave_out(work)
    now[0] += 2
    assert clock() == 2
