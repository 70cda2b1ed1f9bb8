"""The examples run as they stand."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from pipeline.avatar.avatar import Avatar
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.fastgha import FastGHA
from tests.conftest import blob_views, plain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def avatar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(model.deformation.out.weight, std=0.005)
    path = tmp_path / "head.avatar"
    Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {}).save(path)
    return path


def run(monkeypatch: pytest.MonkeyPatch, name: str, *words: Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", ["draw", "faces"])
def test_pictures(avatar: Path, tmp_path: Path, monkeypatch, name: str):
    run(monkeypatch, name, avatar, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (256, 256) and picture.convert("L").getextrema()[0] < 200


def test_a_video_of_two(avatar: Path, tmp_path: Path, monkeypatch):
    import av

    run(monkeypatch, "video", avatar, avatar, tmp_path / "x.mp4")
    with av.open(str(tmp_path / "x.mp4")) as film:
        assert (film.streams.video[0].width, film.streams.video[0].height) == (256, 128)


def test_a_light_avatar(avatar: Path, tmp_path: Path, monkeypatch, capsys):
    run(monkeypatch, "light", avatar, tmp_path / "light.avatar")
    light, exact = Avatar.load(tmp_path / "light.avatar"), Avatar.load(avatar)
    assert len(light.canonical) < len(exact.canonical) and "now" in capsys.readouterr().out


def test_splats_of_some_frames(avatar: Path, tmp_path: Path, monkeypatch):
    run(monkeypatch, "splats", avatar, tmp_path)
    assert len(list(tmp_path.glob("frame_*.ply"))) == 5


def test_every_example_is_run_here():
    assert {p.stem for p in (ROOT / "examples").glob("*.py")} == {
        "draw", "faces", "light", "splats", "video",
    }  # fmt: skip
