"""Kill a command at random times, run it to its end, and compare with a run that was left alone.

Example:  python tools/kill.py --job train --kills 50 --json kills.json

Each folder of results gets a few kills (SIGKILL; SIGTERM one time of four) before the last run.
Its files must then be those of the undisturbed run, byte for byte, and no others; what SIGTERM
ended must have said so, with exit code 143, and left nothing half-made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

from pipeline.faces.layouts import ARKIT_NAMES
from pipeline.shards.writer import write_shard
from tests.captures import ava
from tests.captures.studio import over, shoot
from tests.conftest import toy_capture
from tests.fuzzing.targets import TARGETS

ROOT = Path(__file__).parents[1]
UNIMPORTANT = (".lock", ".lock.owner", "tensorboard", "log.jsonl")
"""Names that tell of the runs themselves: who had the folder, when, and how long steps took."""
HALF_MADE = (".part", ".unfinished", ".owner")


@dataclass(frozen=True)
class Job:
    """A command that is killed."""

    prepare: Callable[[Path], object]
    """Writes what it reads into a folder."""
    commands: Callable[[Path, Path], list[list[str]]]
    """On that folder, and one for results: what is run, each after the other."""


def _shards(root: Path) -> None:
    (root / "shards").mkdir()
    for name in ("anna", "bert"):
        write_shard(root / "shards" / f"{name}.h5", toy_capture(name), {"by": "kill"})


def _captures(root: Path) -> None:
    (root / "raw").mkdir()
    ava.write(root / "raw", shoot(width=128, height=190))
    (root / "t.obj").write_text("".join(f"f {i} {i + 1} {i + 2}\n" for i in range(1, 3000, 3)))


def _photographs(root: Path) -> None:
    picture = over(shoot(width=256, height=393, supersample=2).frames[0][0])
    Image.fromarray(picture).save(root / "a.png")


def _avatars(root: Path) -> None:
    TARGETS["avatar-guided"].make(root)
    (root / "a.avatar").rename(root / "exact.avatar")
    TARGETS["avatar-baked"].make(root)
    codes = np.zeros((40, 52), np.float32)
    codes[:, 24] = np.linspace(0, 1, 40)
    np.savez(root / "s.npz", weights=codes, names=list(ARKIT_NAMES), fps=25)


def _prep(root: Path, out: Path) -> list[list[str]]:
    return [
        ["prep", "ava256", f"{root}/raw", "-o", str(out), "--size", "128", "--detector", "none",
         "--no-codes", "--workers", "1"],
    ]  # fmt: skip


def _cache(root: Path, out: Path) -> list[list[str]]:
    cache = ["vggt-cache", str(out), "--backend", "mesh", "--topology", f"{root}/t.obj"]
    return [*_prep(root, out), [*cache, "--device", "cpu", "--workers", "1"]]


JOBS = {
    "train": Job(
        _shards,
        lambda root, out: [
            ["train", f"{root}/shards", "-o", f"{out}/run", "--preset", "tiny", "--steps", "8",
             "--every", "2", "--device", "cpu", "--precision", "float32", "--workers", "0"]
        ],
    ),
    "prep": Job(_captures, _prep),
    "vggt-cache": Job(_captures, _cache),
    "synthetic": Job(
        lambda root: None,
        lambda root, out: [
            ["prep", "synthetic", str(out), "--identities", "3", "--expressions", "2", "--views",
             "2", "--size", "64", "--workers", "1"]
        ],
    ),
    "avatar": Job(
        _photographs, lambda root, out: [["avatar", f"{root}/a.png", "-o", f"{out}/me.avatar"]]
    ),
    "render": Job(
        _avatars,
        lambda root, out: [
            ["render", f"{root}/exact.avatar", "--expr", f"{root}/s.npz", "-o", f"{out}/me.mp4"],
            ["render", f"{root}/a.avatar", "--expr", f"{root}/s.npz", "-o", f"{out}/frames"],
        ],
    ),
    "bake": Job(
        _avatars,
        lambda root, out: [
            ["bake", f"{root}/exact.avatar", "-o", f"{out}/b.avatar", "--tolerance", "30dB"]
        ],
    ),
    "web": Job(
        _avatars,
        lambda root, out: [
            ["export", "web", f"{root}/a.avatar", "--expr", f"{root}/s.npz", "-o", f"{out}/site"]
        ],
    ),
}  # fmt: skip


def main() -> int:
    """Measure; the exit code is 1 if a folder differs, or a stopped run said something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=sorted(JOBS), required=True)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rng, job = random.Random(options.seed), JOBS[options.job]
    kills = {"SIGKILL": 0, "SIGTERM": 0}
    folders = finished = 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fastgha-kill-") as place:
        root, whole = Path(place) / "root", Path(place) / "whole"
        root.mkdir()
        job.prepare(root)
        for command in job.commands(root, whole):
            _finish(command)  # warms the caches of disks and compiled code
        truth = dict(_digests(whole))
        again = Path(place) / "again"
        seconds = [_finish(command) for command in job.commands(root, again)]
        if dict(_digests(again)) != truth:
            wrong.append("two undisturbed runs differ")
        while sum(kills.values()) < options.kills:
            out = Path(place) / f"out-{folders}"
            folders += 1
            for command, takes in zip(job.commands(root, out), seconds, strict=True):
                for _ in range(rng.randrange(1, 4)):
                    sent = signal.SIGTERM if rng.random() < 0.25 else signal.SIGKILL
                    told = _kill(command, rng.uniform(0.3, 1.05) * takes, sent)
                    if told is None:
                        finished += 1
                        if (out / "frames").exists() and "frames" in command[-1]:
                            break  # a finished folder of frames is not written over
                        continue
                    kills[sent.name] += 1
                    wrong += [f"folder {folders - 1}: {fault}" for fault in told]
                    if sent == signal.SIGTERM and told == [] and (left := _half_made(out)):
                        wrong.append(f"folder {folders - 1}: SIGTERM left {', '.join(left)}")
                if "frames" not in command[-1] or not _whole(out / "frames"):
                    _finish(command)
            found = dict(_digests(out))
            for name in sorted({*found, *truth}):
                if found.get(name) != truth.get(name):
                    wrong.append(f"folder {folders - 1}: {name} differs")
    facts = {
        "job": options.job,
        "seed": options.seed,
        "kills": kills,
        "runs_that_ended_before_their_kill": finished,
        "folders": folders,
        "wrong": wrong,
        "seconds_of_a_whole_run": round(sum(seconds), 2),
    }
    print(json.dumps(facts))
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1))
    return 1 if wrong else 0


def _start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "fastgha_cli", *command], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def _finish(command: list[str]) -> float:
    """Run a command to its end; return the seconds it took."""
    start = time.monotonic()
    process = _start(command)
    _, said = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return time.monotonic() - start


def _kill(command: list[str], after: float, sent: signal.Signals) -> list[str] | None:
    """Kill a command; return what was wrong with how it ended, or None if it ended before."""
    process = _start(command)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    else:
        process.communicate()
        return None
    _, said = process.communicate()
    if sent == signal.SIGKILL:
        return []
    # Before the program has read its own first lines, the system ends it.
    if process.returncode == -signal.SIGTERM and not said:
        return []
    if process.returncode == 0:  # it had just finished
        return []
    fault = f"SIGTERM ended it with {process.returncode}: {said.strip()[-300:]}"
    stopped = process.returncode == 128 + signal.SIGTERM and "Stopped by SIGTERM" in said
    return [] if stopped else [fault]


def _digests(out: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(out.rglob("*")):
        inner = path.relative_to(out)
        if path.is_file() and not any(part in UNIMPORTANT for part in inner.parts):
            yield str(inner), hashlib.sha256(path.read_bytes()).hexdigest()


def _half_made(out: Path) -> list[str]:
    return [str(path.relative_to(out)) for path in out.rglob(".*") if path.suffix in HALF_MADE
            or path.name in HALF_MADE]  # fmt: skip


def _whole(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir()) and not (folder / ".unfinished").exists()


if __name__ == "__main__":
    sys.exit(main())
