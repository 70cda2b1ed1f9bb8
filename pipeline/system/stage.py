"""What all stages share: claim a folder, write whole files, run items in parallel, report."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

from pipeline.core.config import to_dict
from pipeline.core.errors import InputError, StaleOutputError, WorkerError

Progress = Callable[[int, int], None]
"""Called with how many items are done and how many there are."""

STAMP = "stage.json"
LOCK = ".lock"

Item = TypeVar("Item")


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


@dataclass
class StageReport:
    """What a stage did."""

    out: Path
    done: int = 0
    skipped: int = 0
    """Items that an earlier run had finished."""
    dropped: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    """Items left out, with the reason."""


def claim(out: Path, config: object, *, made: str, upstream: str = "", overwrite: bool) -> None:
    """Stamp a folder with how its files are made, or refuse one made in another way.

    With `overwrite`, files that match `made` are deleted first; the stamp and the files can
    therefore never disagree, even after a crash. A folder without a stamp is not ours: nothing
    in it is trusted or deleted.

    Args:
        out: Folder of the results; made if it is not there.
        config: Settings that fix the results.
        made: Glob of the results' names.
        upstream: Digest of what the results are made from.
        overwrite: Delete results of other settings instead of refusing.

    Raises:
        StaleOutputError: If the folder holds results of other settings, or of nobody.
    """
    wanted = json.dumps({"config": to_dict(config), "from": upstream}, sort_keys=True, indent=1)
    stamp = out / STAMP
    if out.exists() and not out.is_dir():
        raise StaleOutputError(f"{out} is a file.", "Choose a folder.")
    if not stamp.exists() and any(out.glob(made)):
        raise StaleOutputError(
            f"{out} holds {made} files that no stage made.", "Choose an empty folder."
        )
    if stamp.exists() and stamp.read_text() != wanted:
        if not overwrite:
            raise StaleOutputError(
                f"{out} was made with other settings or inputs (see {stamp}).",
                "Choose another folder, or pass --overwrite to make it again.",
            )
        stamp.unlink()
    if overwrite:
        for old in out.glob(made):
            old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_whole(stamp, lambda part: part.write_text(wanted))


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
            f"Cannot write {path}: {error.strerror or error}.", _remedy(path.parent)
        ) from error
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(out: Path) -> Generator[None]:
    """Keep a folder for this process; sweep what killed runs left half-written in it.

    The system drops the lock with the process, so that of a dead one holds nobody up.

    Raises:
        StaleOutputError: If another process works there, naming it.
        InputError: If the folder cannot be written to.
    """
    import fcntl  # noqa: PLC0415  only on systems that have it is anything locked

    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / LOCK).open("a+")
    except OSError as error:
        raise InputError(f"Cannot write to {out}: {error.strerror}.", _remedy(out)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise StaleOutputError(
                f"Process {file.read().strip() or 'of somebody'} is working in {out}.",
                "Wait for it or stop it, or choose another folder.",
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for part in out.rglob(".*.part"):
            part.unlink(missing_ok=True)
        yield


def digest(path: Path) -> str:
    """Give the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Workers:
    """One process (this) or several spawned ones that call `work` for items; kept between calls.

    Spawned, not forked: a fork inherits the threads' locks of numba and torch, and hangs. Each
    process gets `work` once, so what it loads when first called is loaded once.
    """

    def __init__(self, work: Callable[[Any], Any], count: int) -> None:
        self._work = work
        self._pool = (
            ProcessPoolExecutor(
                count,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin_worker,
                initargs=(work,),
            )
            if count > 1
            else None
        )

    def run(self, items: Sequence[Any], progress: Progress = silent) -> None:
        """Call `work` for each item.

        Raises:
            FastGHAError: The first error of any item; items not yet started are left out.
        """
        if self._pool is None or len(items) <= 1:
            for i, item in enumerate(items):
                self._work(item)
                progress(i + 1, len(items))
            return
        try:
            futures = [self._pool.submit(_call_work, item) for item in items]
            for i, future in enumerate(as_completed(futures)):
                future.result()
                progress(i + 1, len(items))
        except BrokenProcessPool as error:
            raise WorkerError(
                "A worker process was killed, probably for want of memory.",
                "Run the same command again with fewer --workers; it goes on where it was.",
            ) from error
        except BaseException:
            self._pool.shutdown(cancel_futures=True)
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()


def run_items(
    items: Sequence[Item], work: Callable[[Item], Any], workers: int, progress: Progress = silent
) -> None:
    """Call `work` for each item, as `Workers` does.

    Raises:
        FastGHAError: The first error of any item.
    """
    with Workers(work, min(workers, len(items))) as pool:
        pool.run(items, progress)


_worker: list[Callable[[Any], Any]] = []
"""The work of this worker process: a pool hands items only."""


def _begin_worker(work: Callable[[Any], Any]) -> None:
    _worker[:] = [work]
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()


def _die_with(sentinel: int) -> None:
    """End this process when its parent is gone: killed, it could not tell its workers."""
    wait([sentinel])
    os._exit(1)


def _call_work(item: Any) -> None:
    _worker[0](item)


def require_file(path: Path, what: str) -> Path:
    """Give the path back if there is a file.

    Raises:
        InputError: If there is none, or it is a folder.
    """
    if not path.is_file():
        kind = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"{path} {kind}.", f"Give the path of {what}.")
    return path


def _remedy(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return "Choose a folder that can be written to."
    return (
        f"Free some space ({free / 1e6:.0f} MB are left) or choose another folder."
        if free < 100e6
        else "Choose a folder that can be written to."
    )
