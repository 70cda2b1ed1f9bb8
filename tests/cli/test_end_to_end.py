"""The whole way through the real command line, at the size of a test."""

from __future__ import annotations

import json
from pathlib import Path

import av
import numpy as np
import pytest

from pipeline.avatar.avatar import Avatar
from pipeline.io.images import read_rgb
from pipeline.shards.reader import Shard, find_shards
from tests.cli.test_cli import fastgha


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two synthetic people, and a tiny model trained on them for a few steps."""
    folder = tmp_path_factory.mktemp("run")
    made = fastgha(
        "prep", "synthetic", folder / "shards", "--identities", 2, "--expressions", 4,
        "--views", 4, "--size", 64,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    trained = fastgha(
        "train", folder / "shards", "-o", folder / "run", "--preset", "tiny", "--workers", 0,
        "--set", "steps=[20]", "--every", 20,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    return folder


def test_synthetic_shards_are_whole_and_go_on_where_they_stopped(run: Path):
    paths = find_shards(run / "shards")
    assert [p.name for p in paths] == ["train-00000.h5", "train-00001.h5"]
    for path in paths:
        with Shard(path) as shard:
            shard.verify()
            assert (shard.timesteps, shard.views, shard.width) == (4, 4, 64)
            assert shard.provenance["config"]["identities"] == 2
    first = paths[0].read_bytes()
    paths[0].unlink()
    again = fastgha(
        "prep", "synthetic", run / "shards", "--identities", 2, "--expressions", 4, "--views", 4,
        "--size", 64, "--workers", 1,
    )  # fmt: skip
    assert "1 people drawn, 1 were there already" in again.stderr
    assert paths[0].read_bytes() == first, "a person does not depend on what else is drawn"


def test_shards_of_other_settings_are_refused(run: Path):
    done = fastgha("prep", "synthetic", run / "shards", "--identities", 2, "--size", 32)
    assert done.returncode == 1
    assert "other settings" in done.stderr and "--overwrite" in done.stderr
    assert len(find_shards(run / "shards")) == 2


def test_training_leaves_a_log_pictures_and_one_checkpoint(run: Path):
    lines = [json.loads(x) for x in (run / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert {"data", "forward", "render", "backward", "optimizer"} <= lines[0]["seconds"].keys()
    assert (run / "run" / "pictures" / "step-00000020.jpg").exists()
    assert list((run / "run" / "tensorboard").iterdir())


def test_the_demo_leaves_avatar_video_sheet_and_figures(run: Path, tmp_path: Path):
    done = fastgha("demo", "-o", tmp_path / "demo", "--model", run / "run", "--size", 64)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "demo"
    assert {p.name for p in out.iterdir()} == {
        "head.avatar", "head.mp4", "contact_sheet.png", "figures.json",
    }  # fmt: skip
    figures = json.loads((out / "figures.json").read_text())
    assert f"PSNR {figures['psnr']:.2f} dB" in done.stdout
    avatar = Avatar.load(out / "head.avatar")
    assert len(avatar.canonical) == figures["gaussians"] > 500
    with av.open(str(out / "head.mp4")) as video:
        assert float(video.streams.video[0].average_rate) == 25
        frames = [f.to_ndarray(format="rgb24").astype(int) for f in video.decode(video=0)]
    assert len(frames) >= 100 and frames[0].shape == (64, 64, 3)
    assert np.abs(frames[0] - frames[len(frames) // 4]).mean() > 1, "the camera moves"
    assert read_rgb(out / "contact_sheet.png").shape[1] == 6 * 64


def test_the_shipped_model_beats_every_baseline_on_a_person_it_never_saw(tmp_path: Path):
    made = fastgha(
        "prep", "synthetic", tmp_path / "test", "--split", "test", "--identities", 3,
        "--expressions", 5, "--views", 8, "--size", 128,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    done = fastgha(
        "eval", "--shards", tmp_path / "test", "--size", 128, "--targets", 36,
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    model = found["figures"]
    for row in found["baselines"]:
        name, theirs = row["method"], row["figures"]
        assert model["PSNR"]["mean"] > theirs["PSNR"]["mean"] + 2, name
        assert model["SSIM"]["mean"] > theirs["SSIM"]["mean"], name
