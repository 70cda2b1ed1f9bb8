"""Kill commands at random times, run them to their end, and compare with runs left alone.

Example:  python tools/kill.py --job train prep --kills 50 --json kills.json

Each folder of results gets a few kills (SIGKILL; SIGTERM one time of four) before the last run.
Its files must then be those of the undisturbed run, byte for byte, and no others; what SIGTERM
ended must have said so, with exit code 143, and left nothing half-made. The undisturbed run is a
process of its own; those that are killed are forks of one that has imported their modules.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import multiprocessing
import os
import pkgutil
import random
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image

import pipeline
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
    resumes: bool = False
    """Whether a run goes on where the last one was killed."""


def _shards(root: Path) -> None:
    (root / "shards").mkdir()
    for name in ("anna", "bert"):
        write_shard(root / "shards" / f"{name}.h5", toy_capture(name), {"by": "kill"})


def _captures(root: Path) -> None:
    (root / "raw").mkdir()
    ava.write(root / "raw", shoot(width=128, height=196))
    faces = "".join(f"f {i} {i + 1} {i + 2}\n" for i in range(1, 3000, 3))
    (root / "t.obj").write_text("v 0 0 0\n" * 3000 + faces)


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
        resumes=True,
    ),
    "prep": Job(_captures, _prep, resumes=True),
    "vggt-cache": Job(_captures, _cache, resumes=True),
    "synthetic": Job(
        lambda root: None,
        lambda root, out: [
            ["prep", "synthetic", str(out), "--identities", "3", "--expressions", "2", "--views",
             "2", "--size", "64", "--workers", "1"]
        ],
        resumes=True,
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


class Nursery:
    """Forks commands from a process that has imported what they import.

    From its first line on a command does what it always does; only the seconds in which Python
    reads modules are not spent again for each kill.
    """

    def __init__(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self.process = os.fork()
        if self.process == 0:
            self._pipe.close()
            _serve(theirs)  # in the fork of a command, ends as the command does
            os._exit(0)
        theirs.close()

    def start(self, command: list[str], said: Path) -> int:
        """Start a command whose stderr goes to a file; return its process number."""
        self._pipe.send((command, str(said)))
        number: int = self._pipe.recv()
        return number

    def ended(self, seconds: float | None) -> bool:
        """Wait for the command; say whether it has ended. Until `code` its number stays its own."""
        return self._pipe.poll(seconds)

    def code(self) -> int:
        """Return the exit code of the command once it has ended; minus a signal's number."""
        self._pipe.recv()
        self._pipe.send("reap")
        return os.waitstatus_to_exitcode(self._pipe.recv())

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        os.waitpid(self.process, 0)


def _serve(pipe: Connection) -> None:
    for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
        with contextlib.suppress(ImportError):  # of what is not installed
            importlib.import_module(module.name)
    while True:
        try:
            command, said = pipe.recv()
        except EOFError:
            return
        number = os.fork()
        if number == 0:
            pipe.close()
            for stream, place in ((0, os.devnull), (1, os.devnull), (2, said)):
                opened = os.open(place, os.O_RDWR | os.O_CREAT)
                os.dup2(opened, stream)
                os.close(opened)
            sys.argv = ["fastgha", *command]
            runpy.run_module("fastgha_cli", run_name="__main__", alter_sys=True)
            sys.exit()
        pipe.send(number)
        os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)
        pipe.send("ended")
        pipe.recv()
        pipe.send(os.waitpid(number, 0)[1])


def main() -> int:
    """Measure; the exit code is 1 if a folder differs, or a stopped run said something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--job", choices=sorted(JOBS), nargs="+", default=list(JOBS))
    parser.add_argument("--kills", type=int, default=50, help="of each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    nursery = Nursery()
    facts: dict[str, dict[str, object]] = {}
    for name in options.job:
        for found in _measure(JOBS[name], options.kills, random.Random(options.seed), nursery):
            facts[name] = {"seed": options.seed, **found}
            if options.json:
                options.json.write_text(json.dumps(facts, indent=1))
        print(name, json.dumps(facts[name]), flush=True)
    nursery.close()
    return 1 if any(found["wrong"] for found in facts.values()) else 0


def _measure(
    job: Job, wanted: int, rng: random.Random, nursery: Nursery
) -> Iterator[dict[str, object]]:
    """Kill a job so many times; yields what is known after each folder of results."""
    kills = {"SIGKILL": 0, "SIGTERM": 0}
    folders = finished = 0
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="fastgha-kill-") as place:
        root, whole, said = (Path(place) / name for name in ("root", "whole", "said"))
        root.mkdir()
        job.prepare(root)
        for command in job.commands(root, whole):
            _alone(command)
        truth = dict(_digests(whole))
        again = Path(place) / "again"
        seconds: list[float] = []
        for command in job.commands(root, again):
            start = time.monotonic()
            wrong += filter(None, [_finish(command, nursery, said)])
            seconds.append(time.monotonic() - start)
        if dict(_digests(again)) != truth:
            wrong.append("two undisturbed runs differ")
        while sum(kills.values()) < wanted:
            out = Path(place) / f"out-{folders}"
            for command, takes in zip(job.commands(root, out), seconds, strict=True):
                whole_now = False
                tries = rng.randrange(1, 9)
                reach = min(1.05, 2 / tries) if job.resumes else 1.05
                for _ in range(tries):
                    if "frames" in command[-1] and _whole(out / "frames"):
                        whole_now = True  # a finished folder of frames is not written over
                        break
                    sent = signal.SIGTERM if rng.random() < 0.25 else signal.SIGKILL
                    after = rng.uniform(0, reach) * takes
                    # What SIGKILL left stays until a run has the folder for itself.
                    before = {*_half_made(out)}
                    early, code, told = _kill(command, after, sent, nursery, said)
                    whole_now = early and code == 0
                    if whole_now:
                        finished += 1
                        continue
                    kills[sent.name] += not early
                    fault = _fault(early, code, told, sent)
                    if code == -signal.SIGTERM and told and _over(command, out, nursery, said):
                        fault = ""  # Python was only clearing up
                    elif not fault and sent == signal.SIGTERM:
                        left = sorted({*_half_made(out)} - before)
                        fault = f"SIGTERM left {', '.join(left)}" if left else ""
                    wrong += [f"folder {folders}: {fault}"] if fault else []
                if not whole_now and not ("frames" in command[-1] and _whole(out / "frames")):
                    fault = _finish(command, nursery, said)
                    wrong += [f"folder {folders}: {fault}"] if fault else []
            found = dict(_digests(out))
            for name in sorted({*found, *truth}):
                if found.get(name) != truth.get(name):
                    wrong.append(f"folder {folders}: {name} differs")
            folders += 1
            shutil.rmtree(out)
            yield {
                "kills": kills,
                "runs_that_ended_before_their_kill": finished,
                "folders": folders,
                "wrong": wrong,
                "seconds_of_a_whole_run": round(sum(seconds), 2),
            }


def _alone(command: list[str]) -> None:
    """Run a command to its end in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fastgha_cli", *command], stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")


def _finish(command: list[str], nursery: Nursery, said: Path) -> str:
    """Run a command to its end; return how it failed, if it did."""
    said.unlink(missing_ok=True)
    nursery.start(command, said)
    nursery.ended(None)
    code = nursery.code()
    return f"it ended with {code}: {said.read_text().strip()[-300:]}" if code else ""


def _kill(
    command: list[str], after: float, sent: signal.Signals, nursery: Nursery, said: Path
) -> tuple[bool, int, str]:
    """Kill a command; return whether it ended before, its exit code, and what it said."""
    said.unlink(missing_ok=True)
    number = nursery.start(command, said)
    early = nursery.ended(after)
    if not early:
        os.kill(number, sent)
        nursery.ended(None)
    return early, nursery.code(), said.read_text() if said.exists() else ""


def _fault(early: bool, code: int, told: str, sent: signal.Signals) -> str:
    """Return what is wrong with how a command ended."""
    if early:
        fine = code == 0
    elif sent == signal.SIGKILL:
        fine = code in (0, -signal.SIGKILL)  # 0: it had just finished
    elif code == -signal.SIGTERM:  # by the system, before the program has read its first lines
        fine = not told
    else:
        stopped = code == 128 + signal.SIGTERM and "Stopped by SIGTERM" in told
        fine = code == 0 or stopped
    return "" if fine else f"{sent.name}, it ended with {code}: {told.strip()[-300:]}"


def _over(command: list[str], out: Path, nursery: Nursery, said: Path) -> bool:
    """Return whether a command had done everything: another run of it changes nothing."""
    if "frames" in command[-1]:
        return _whole(out / "frames")
    before = dict(_digests(out))
    return not _finish(command, nursery, said) and dict(_digests(out)) == before


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
