"""`fastgha avatar` of a video."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from fastgha_cli.app import app, main
from pipeline.avatar import create
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fit import FitConfig
from pipeline.avatar.video import Footage
from pipeline.io.video import write_mp4
from pipeline.model.baked import Baked
from tests.avatar.conftest import footage  # noqa: F401


def fastgha(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgha_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture
def film(tmp_path: Path) -> Path:
    frames = (np.full((160, 160, 3), 10 * i, np.uint8) for i in range(24))
    write_mp4(tmp_path / "me.mp4", frames, 25)
    return tmp_path / "me.mp4"


def test_a_video_without_a_face_is_two_lines(film: Path, tmp_path: Path):
    done = fastgha("avatar", film, "--refine", "1", "-o", tmp_path / "me.avatar")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = done.stderr.strip().splitlines()
    assert said[-2].startswith("error: No frame of me.mp4 shows a face")
    assert said[-1].strip().startswith("try: ")
    assert not (tmp_path / "me.avatar").exists()


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (["me.mp4", "front.jpg"], 1, "2 files were given, one of them a video"),
        (["me.mp4", "--face", "1"], 1, "--cameras and --face are for photographs"),
        (["me.mp4", "--refine", "-1"], 2, "--refine"),
        (["lost.mp4"], 1, "lost.mp4 does not exist"),
        (["me.mp4", "--also", "lost.jpg"], 1, "lost.jpg"),
    ],
)
def test_what_does_not_go_together_is_refused(
    film: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    problem: str,
):
    monkeypatch.chdir(film.parent)
    monkeypatch.setattr(sys, "argv", ["fastgha", "avatar", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == code and "Traceback" not in said
    assert problem in said


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, footage: Footage) -> None:  # noqa: F811
    """Let every video be the synthetic person's, without any network of perception."""
    monkeypatch.setattr(create, "read_footage", lambda *args, **how: footage)
    monkeypatch.setattr(create, "HeadTracker", lambda: None)
    monkeypatch.setattr(create, "get_matting", lambda name: lambda: None)
    detector = SimpleNamespace(make=lambda: None)
    monkeypatch.setattr(create, "get_detector", lambda name: detector)
    monkeypatch.setattr(
        create, "FitConfig", lambda seconds: FitConfig(seconds, sizes=(64,), shares=(1.0,))
    )


def test_a_video_becomes_a_light_avatar(known: None, tmp_path: Path):
    out, sheet = tmp_path / "me.avatar", tmp_path / "sheet.png"
    words = ["avatar", "me.mp4", "--refine", "1", "-o", str(out), "--sheet", str(sheet)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert "held-back frames" in done.output and str(out) in done.output
    made = Avatar.load(out)
    assert isinstance(made.deformation, Baked) and made.made["video_frames"] == 30
    assert sheet.is_file() and out.stat().st_size < 4e6


def test_without_time_it_is_what_the_network_makes(known: None, tmp_path: Path):
    out = tmp_path / "me.avatar"
    done = CliRunner().invoke(app, ["avatar", "me.mp4", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert not isinstance(Avatar.load(out).deformation, Baked)


def test_ctrl_c_keeps_the_best_so_far(known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fit = create.fit

    def stopped(*args, tell: Callable[..., None], **how):
        seen: list[object] = []

        def look(found, now) -> None:
            tell(found, now)
            seen.append(found)
            if len(seen) == 2:
                raise KeyboardInterrupt

        return fit(*args, tell=look, **how)

    monkeypatch.setattr(create, "fit", stopped)
    out = tmp_path / "me.avatar"
    done = CliRunner().invoke(app, ["avatar", "me.mp4", "--refine", "60", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "Stopped: the best so far is kept." in done.output
    assert isinstance(Avatar.load(out).deformation, Baked)
