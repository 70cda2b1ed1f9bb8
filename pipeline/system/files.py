"""Files: written whole or not at all, required, digested."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import FormatError, InputError
from pipeline.system.host import lives

LONGEST = 200
"""Bytes of a name from a file: file systems take 255, and endings are added."""
PART = re.compile(r"\..+\.([1-9][0-9]{0,9})\.part")
"""Names of files that `write_whole` has not finished, with the number of the process."""
SMALL = 2**28
"""Bytes of the largest file that is read as text at once: stamps, results, lists of frames."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when a disk or a quota is full."""
_REMEDIES = {
    **dict.fromkeys(FULL, "Free some space, run again."),
    errno.EROFS: "The disk can only be read: choose a folder on another.",
    errno.EACCES: "Let this program read and write there, or choose another place.",
    errno.EPERM: "Let this program read and write there, or choose another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOENT: "Check the name.",
    errno.ENOTDIR: "Check the name: something on the way to it is a file.",
    errno.EISDIR: "Give a file; this is a folder.",
    errno.ELOOP: "Links lead round in a circle: give the file itself.",
    errno.EMFILE: "Allow more open files (ulimit -n), or take fewer --workers.",
    errno.ENFILE: "Close other programs: the machine has too many open files.",
    errno.ENOMEM: "Close other programs, or take fewer --workers.",
    errno.EIO: "The disk or the network failed: copy the file elsewhere.",
    errno.ESTALE: "The disk or the network failed: run again.",
    errno.ENOTEMPTY: "Choose an empty folder.",
    errno.EBUSY: "Wait for the program that uses it.",
    errno.ENODEV: "Give an ordinary file.",
    errno.ENXIO: "Give an ordinary file.",
    errno.EADDRINUSE: "Another program listens there: choose another --port.",
}


def explain(error: OSError, what: str = "") -> InputError:
    """Return what the system refused as an error for users: what, why, and what to do.

    Args:
        error: From the system.
        what: What was tried, such as `Cannot write me.avatar`; the file's name if not given.
    """
    if not what and error.errno in (*FULL, errno.EROFS):
        what = f"Cannot write {error.filename or 'a log or a cache of compiled code'}"
    elif not what:
        what = f"Cannot use {error.filename}" if error.filename else "The system refused something"
    why = error.strerror or str(error) or type(error).__name__
    told = _REMEDIES.get(error.errno or 0, "Check the place, or choose another.")
    if error.errno in FULL and isinstance(error.filename, str | bytes):
        told = _free(Path(os.fsdecode(error.filename)).parent)
    return InputError(f"{what}: {why}.", told)


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a neighbour, then rename: a file that exists is a file that is complete.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    write_folder(path.parent, {path.name: write})


def write_text(path: Path, text: str) -> None:
    """Write a text whole: the same bytes on every system, UTF-8 with line feeds.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8", newline="\n"))


def write_folder(folder: Path, writers: Mapping[str, Callable[[Path], object]]) -> None:
    """Write several files of a folder, all or none; the last one is there when all are.

    Raises:
        InputError: If the disk is full or the folder cannot be written to.
    """
    # Of a folder that is made for them, nothing stays if they cannot be written.
    new = next((at for at in reversed([folder, *folder.parents]) if not _exists(at)), None)
    parts = {folder / name: folder / _part(name) for name in writers}
    at = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in writers.items():
            at = folder / name
            write(parts[at])
        for at, part in parts.items():  # noqa: B007  named below
            part.replace(at)
    except BaseException as error:
        for part in parts.values():
            with contextlib.suppress(OSError, ValueError):
                part.unlink(missing_ok=True)
        if new is not None:
            _drop_empty(folder, new)
        if isinstance(error, OSError):
            raise explain(_there(error, at), f"Cannot write {at}") from error
        if isinstance(error, ValueError) and "\0" in str(at):
            raise _nameless(at) from error
        raise


def sweep_parts(path: Path) -> None:
    """Delete what killed processes left half-written of one file, by its very name."""
    start, end = _part(path.name, "/").split("/")
    with contextlib.suppress(OSError, ValueError):
        for part in path.parent.iterdir():
            number = part.name.removeprefix(start).removesuffix(end)
            mine = part.name == f"{start}{number}{end}" and number.isdecimal()
            if mine and part.is_file() and not works(int(number)):
                part.unlink()


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
        if found and part.is_file() and not works(int(found[1])):
            with contextlib.suppress(OSError):
                part.unlink()


def require_file(path: Path, what: str) -> Path:
    """Return the path back if there is a file that can be read.

    Raises:
        InputError: If there is none, it is a folder, a pipe or a device, or may not be read.
    """
    give = f"Give the path of {what}."
    try:
        mode = path.stat().st_mode
    except ValueError as error:  # no path at all
        raise _nameless(path) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist.", give) from error
    except OSError as error:
        raise explain(error, f"Cannot read {path}") from error
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder.", give)
    if not stat.S_ISREG(mode):  # of which reading may wait for ever
        raise InputError(f"{path} is a pipe or a device, not a file.", give)
    if not os.access(path, os.R_OK):
        raise explain(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path)),
                      f"Cannot read {path}")  # fmt: skip
    return path


def is_file(path: Path) -> bool:
    """Return whether there is an ordinary file that can be read."""
    try:
        require_file(path, "a file")
    except InputError:
        return False
    return True


def read_small(path: Path, what: str) -> bytes:
    """Return the content of a small file.

    Raises:
        InputError: If it is not there or cannot be read.
        FormatError: If it is absurdly large.
    """
    require_file(path, what)
    try:
        with path.open("rb") as file:
            data = file.read(SMALL + 1)
    except OSError as error:
        raise explain(error, f"Cannot read {path}") from error
    if len(data) > SMALL:
        raise FormatError(f"{path} has over {SMALL >> 20} MB.", f"Give the path of {what}.")
    return data


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object of a small file.

    Raises:
        InputError: If it is not there or cannot be read.
        FormatError: If it is not an object in JSON.
    """
    try:
        values = json.loads(read_small(path, what))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not whole JSON.", f"Give the path of {what}.") from error
    if not isinstance(values, dict):
        raise FormatError(
            f"{path} holds no object, but a {type(values).__name__}.", f"Give the path of {what}."
        )
    return {str(key): value for key, value in values.items()}


def digest(path: Path, kind: str = "sha256") -> str:
    """Return a hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def works(process: int) -> bool:
    """Return whether another process may still be at work; this one begins only now."""
    return process != os.getpid() and lives(process)


def _part(name: str, process: object = None) -> str:
    """Return the name that a file has until it is whole."""
    long = len(name.encode("utf-8", "replace")) > LONGEST
    mark = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    # The process's number: a worker that outlives a killed run for a moment writes its own.
    number = os.getpid() if process is None else process
    return f".{f'{name[:40]}-{mark}' if long else name}.{number}.part"


def _exists(path: Path) -> bool:
    return os.path.lexists(path) if "\0" not in str(path) else False


def _drop_empty(folder: Path, new: Path) -> None:
    """Remove folders that were made in vain, from the inmost one up to `new`."""
    for at in [folder, *folder.parents]:
        with contextlib.suppress(OSError, ValueError):
            at.rmdir()
        if at == new:
            return


def _there(error: OSError, path: Path) -> OSError:
    """Return the error with the file's own name in place of that of a part or none."""
    if error.errno is None:  # a library's, which has only words
        full = any(word in str(error) for word in ("No space left", "too large", "quota"))
        return OSError(errno.ENOSPC if full else None, str(error), str(path))
    return OSError(error.errno, error.strerror, str(path))


def _free(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "Free some space or choose another folder."
    return f"Free some space ({free / 1e6:.0f} MB are left) or choose another folder."


def _nameless(path: Path) -> InputError:
    return InputError(f"{str(path)!r} cannot be the name of a file.", "Give a name without \\0.")
