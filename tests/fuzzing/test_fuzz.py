"""Damaged files of every kind end in two lines or a whole result; each run takes a new seed."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COUNT = 2000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of memory and time need a fork")
def test_damaged_files_are_refused_or_read_and_nothing_else():
    seed = secrets.randbelow(2**31)
    command = [sys.executable, str(ROOT / "tools" / "fuzz.py"), "--seed", str(seed)]
    done = subprocess.run([*command, "--count", str(COUNT)], capture_output=True, text=True)
    sys.stdout.write(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    assert f"{COUNT} cases, --seed {seed}" in done.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="limits of memory and time need a fork")
@pytest.mark.parametrize(
    ("fault", "outcome"),
    [("raise KeyError('x')", "traceback"), ("os.kill(os.getpid(), 9)", "crash"),
     ("raise InputError('x', '')", "unclear"), ("bytearray(2**40)", "traceback")],
)  # fmt: skip
def test_a_reader_that_fails_otherwise_is_found(fault: str, outcome: str):
    code = f"""
import os
from tests.fuzzing import cases, targets
from pipeline.core.errors import InputError
whole = True
def use(root):
    global whole
    if whole:
        whole = False
    else:
        {fault}
targets.TARGETS["cameras"] = targets.Target(targets.TARGETS["cameras"].make, use)
found = list(cases.run(1, cases.numbered(3, "cameras")))
assert [c.number for c in found] == [0, 1, 2], found
assert all(c.outcome == "{outcome}" and "--only" in c.line for c in found), found
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
