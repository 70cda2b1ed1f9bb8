"""Files: written whole or not at all, required, digested."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.core.errors import InputError

LONGEST = 200
"""Bytes of a name from a file: file systems take 255, and endings are added."""
PART = re.compile(r"\..+\.([1-9][0-9]{0,9})\.part")
"""Names of files that `write_whole` has not finished, with the number of the process."""


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a neighbour, then rename: a file that exists is a file that is complete.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    # The process's number: a worker that outlives a killed run for a moment writes its own.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise InputError(
            f"Cannot write {path}: {error.strerror or error}.", remedy(path.parent)
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def is_name(name: str) -> bool:
    """Return whether a text can name something in a folder, and nothing elsewhere."""
    return (
        0 < len(name.encode("utf-8", "replace")) <= LONGEST
        and name not in (".", "..")
        and name.isprintable()
        and not any(letter in name for letter in "/\\")
    )


def inside(folder: Path, *names: str) -> Path:
    """Join names that come from files to a folder, one level each.

    Raises:
        InputError: If a name would lead elsewhere.
    """
    for name in names:
        if not is_name(name):
            raise InputError(
                f"{name[:80]!r} cannot be a file's name in {folder}.",
                "Name people, captures and timesteps without / and \\, in a line of at most "
                f"{LONGEST} bytes.",
            )
    return folder.joinpath(*names)


def sweep(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder of ours and below it.

    Only for a folder that is known to be ours, and that this process keeps from others.
    """
    for part in folder.rglob(".*.part"):
        found = PART.fullmatch(part.name)
        if found and part.is_file() and not _writes(int(found[1])):
            with contextlib.suppress(OSError):
                part.unlink()


def require_file(path: Path, what: str) -> Path:
    """Return the path back if there is a file.

    Raises:
        InputError: If there is none, or it is a folder.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {kind}.", f"Give the path of {what}.")
    return path


def digest(path: Path, kind: str = "sha256") -> str:
    """Return a hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def remedy(folder: Path) -> str:
    """Return what to do about a folder that cannot be written to."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "Choose a folder that can be written to."
    return (
        f"Free some space ({free / 1e6:.0f} MB are left) or choose another folder."
        if free < 100e6
        else "Choose a folder that can be written to."
    )


def _writes(process: int) -> bool:
    """Return whether another process may still be at work; this one begins only now."""
    if process == os.getpid() or sys.platform == "win32":  # which deletes no file that is open
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, and is somebody else's
        return True
    return True
