"""SIGTERM ends any command with its line, its code, and nothing half-made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.faces.layouts import ARKIT_NAMES
from tests.fuzzing.targets import TARGETS


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that can be caught")
@pytest.mark.parametrize("out", ["me.mp4", "frames"])
def test_a_render_that_is_stopped_says_so_and_leaves_nothing(tmp_path: Path, out: str):
    TARGETS["avatar-baked"].make(tmp_path)
    many = np.zeros((20_000, len(ARKIT_NAMES)), np.float32)
    np.savez(tmp_path / "s.npz", weights=many, names=list(ARKIT_NAMES), fps=25)
    target = tmp_path / "out" / out
    command = [sys.executable, "-m", "fastgha_cli", "render", str(tmp_path / "a.avatar")]
    command += ["--expr", str(tmp_path / "s.npz"), "-o", str(target)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (target.parent.exists() and any(target.parent.rglob("*"))):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in said and "Traceback" not in said
    assert not target.exists() and list(target.parent.rglob("*")) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_two_lines(tmp_path: Path):
    (tmp_path / "a.avatar").write_text("x")
    (tmp_path / "a.avatar").chmod(0)
    command = [sys.executable, "-m", "fastgha_cli", "prune", str(tmp_path / "a.avatar"), "-o", "b"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1 and "Permission denied" in done.stderr
    assert "Traceback" not in done.stderr
