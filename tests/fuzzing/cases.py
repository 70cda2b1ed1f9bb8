"""Cases of fuzzing: one damaged file each, read within limits of time and memory.

A case is fixed by seed, number and target. Cases run in a child process, which a crash, a hang or
a want of memory ends; the next child goes on after it.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import FastGHAError
from tests.fuzzing.damage import damage
from tests.fuzzing.targets import TARGETS

SECONDS, WAIT = 10, 120
"""Of the processor, and of the clock, that a case may take; they take milliseconds."""
MEMORY = 3 * 2**30
"""Bytes of address space that a child may take more than it begins with."""


@dataclass(frozen=True)
class Case:
    """What came of a case."""

    seed: int
    number: int
    target: str
    what: str
    """File and damage."""
    outcome: str
    """refused, read, or how it failed."""
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether a user would have seen anything but two lines."""
        return self.outcome not in ("refused", "read")

    @property
    def line(self) -> str:
        """The command that does it again."""
        return (
            f"python tools/fuzz.py --seed {self.seed} --target {self.target} --only {self.number}"
        )


class Hang(BaseException):
    """A case takes too long."""


def numbered(count: int, target: str | None) -> list[tuple[int, str]]:
    """Return the cases of a run: numbers and targets, each target as often as its share."""
    turns = [name for name, one in TARGETS.items() for _ in range(one.share)]
    # Spread, so that a short run sees every target.
    turns.sort(key=lambda name: zlib.crc32(name.encode()))
    order = np.random.default_rng(0).permutation(len(turns))
    names = [turns[i] for i in order] if target is None else [target]
    return [(i, names[i % len(names)]) for i in range(count)]


def run(seed: int, cases: Sequence[tuple[int, str]]) -> Iterator[Case]:
    """Run cases; yields each as it ends."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fastgha-fuzz-") as place:
        for name in {name for _, name in cases}:
            (Path(place) / name).mkdir()
            TARGETS[name].make(Path(place) / name)
            # Also warms what is compiled when it is first called.
            _read_whole(name, Path(place))
        left = list(cases)
        while left:
            done = 0
            for case in _child(seed, left, Path(place)):
                done += 1
                yield case
            left = left[done:]


def one(seed: int, number: int, name: str, place: Path) -> Case:
    """Damage a copy of a whole file and use it."""
    rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
    with tempfile.TemporaryDirectory(dir=place) as folder:
        root, trap = Path(folder) / "root", Path(folder) / "sprung"
        shutil.copytree(place / name, root, copy_function=os.link)
        what = damage(root, rng, trap)
        outcome, detail = _use(name, root)
        if trap.exists():
            outcome, detail = "executed", "code in a file was executed"
    return Case(seed, number, name, what, outcome, detail)


def _use(name: str, root: Path) -> tuple[str, str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAIT)
            try:
                found = TARGETS[name].use(root)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
                signal.setitimer(signal.ITIMER_REAL, 0)
    except FastGHAError as error:
        short = len(error.problem) < 10 or len(error.remedy) < 4
        return ("unclear", repr(error)) if short or len(str(error)) > 2000 else ("refused", "")
    except OSError as error:  # becomes two lines in one place
        return ("refused", "") if error.errno else ("traceback", _last(error))
    except Hang:
        return "hang", f"over {SECONDS} s of the processor, or {WAIT} s"
    except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
        return "traceback", _last(error)
    return ("refused", "") if isinstance(found, dict) and found.get("refused") else ("read", "")


def _last(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    at = [f for f in frames if "/pipeline/" in f.filename] or list(frames)
    return f"{type(error).__name__}: {str(error)[:200]} ({at[-1].filename}:{at[-1].lineno})"


def _read_whole(name: str, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        shutil.copytree(place / name, Path(folder) / "root")
        try:
            TARGETS[name].use(Path(folder) / "root")
        except FastGHAError:
            if name not in ("flame", "work"):  # whole, but never of use
                raise


def _child(seed: int, cases: Sequence[tuple[int, str]], place: Path) -> Iterator[Case]:
    """Run cases in a child until they or it end; what ended it is the last case."""
    reading, writing = Pipe(duplex=False)
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        try:
            reading.close()
            _limit()
            for number, name in cases:
                writing.send(one(seed, number, name, place))
            os._exit(0)
        except BaseException:  # noqa: BLE001  of the fuzzer itself
            traceback.print_exc()
        finally:
            os._exit(1)
    writing.close()
    seen = 0
    try:
        while seen < len(cases) and reading.poll(3 * WAIT):
            case: Case = reading.recv()
            seen += 1
            yield case
        if seen < len(cases):  # in code that no signal interrupts
            os.kill(process, signal.SIGKILL)
    except EOFError:
        pass
    finally:
        reading.close()
    _, status = os.waitpid(process, 0)
    if seen < len(cases):
        number, name = cases[seen]
        ended = os.waitstatus_to_exitcode(status)
        yield Case(seed, number, name, "not told", "crash", f"the process ended with {ended}")


def _limit() -> None:
    def late(number: int, frame: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    signal.signal(signal.SIGPROF, late)
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
