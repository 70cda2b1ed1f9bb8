"""Training in two processes of this machine, started as torchrun starts them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = ["--preset", "tiny", "--workers", "0", "--device", "cpu", "--precision", "float32"]


def start(shards: Path, run: Path, *more: str) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "fastgha_cli", "train", str(shards), "-o", str(run)]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [*command, *OPTIONS, *more],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip


def alone(shards: Path, run: Path, *more: str) -> str:
    command = [sys.executable, "-m", "fastgha_cli", "train", str(shards), "-o", str(run)]
    done = subprocess.run([*command, *OPTIONS, *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def curve(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def worst(a: list[dict[str, float]], b: list[dict[str, float]]) -> float:
    assert [line["step"] for line in a] == [line["step"] for line in b]
    terms = ("rgb", "ssim", "silhouette", "depth")
    return max(abs(x[k] - y[k]) / x[k] for x, y in zip(a, b) for k in terms)


def test_two_processes_and_then_one_follow_the_curve_of_one(shards: Path, tmp_path: Path):
    few = ["--set", "sizes=[32]", "--set", "steps=[8]"]
    alone(shards, tmp_path / "one", *few, "--set", "batch=2")
    pair = start(shards, tmp_path / "two", *few, "--steps", "5")
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    assert "waiting" in said[0] and "Training" not in said[1]
    assert worst(curve(tmp_path / "one")[:5], curve(tmp_path / "two")) < 1e-5
    again = alone(shards, tmp_path / "two", *few)
    assert "2 samples a step, as it began" in again
    assert worst(curve(tmp_path / "one"), curve(tmp_path / "two")) < 1e-5


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_run_with_an_error(shards: Path, tmp_path: Path, how):
    long = ["--set", "sizes=[32]", "--set", "steps=[100000]", "--set", "run.timeout=5"]
    first, second = start(shards, tmp_path / "run", *long)
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path / "run" / "log.jsonl").exists() or not curve(tmp_path / "run"):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        second.send_signal(how)
        said, _ = first.communicate(timeout=60)
        assert first.returncode == 1
        assert "lost another process of the run" in said
        assert "goes on from the last checkpoint" in said and "Traceback" not in said
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_more_processes_than_samples_are_refused(shards: Path, tmp_path: Path):
    few = ["--set", "sizes=[32]", "--set", "steps=[4]"]
    alone(shards, tmp_path / "run", *few, "--steps", "2")
    pair = start(shards, tmp_path / "run", *few)
    said = [process.communicate(timeout=120)[0] for process in pair]
    assert {process.returncode for process in pair} == {1}
    assert "2 processes cannot share 1 samples" in said[0]
