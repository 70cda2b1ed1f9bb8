"""Locks: one process at a time works in a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.core.errors import StaleOutputError
from pipeline.system.files import explain

LOCK = ".lock"
OWNER = ".lock.owner"
"""Names the process that holds the lock: a locked file cannot be read on every system."""


@contextlib.contextmanager
def locked(out: Path) -> Generator[None]:
    """Keep a folder for this process.

    The system drops the lock with the process, so that of a dead one holds nobody up.

    Raises:
        StaleOutputError: If another process works there, naming it.
        InputError: If the folder cannot be written to.
    """
    owner = out / OWNER
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock = FileLock(out / LOCK, blocking=False)
        lock.acquire()
    except Timeout as error:
        raise StaleOutputError(
            f"Process {_read(owner) or 'of somebody'} is working in {out}.",
            "Wait for it or stop it, or choose another folder.",
        ) from error
    except OSError as error:
        raise explain(error, f"Cannot write to {out}") from error
    try:
        owner.write_text(str(os.getpid()), encoding="ascii")
        yield
    finally:
        owner.unlink(missing_ok=True)
        lock.release()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
