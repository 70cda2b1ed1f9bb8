"""All that differs between Linux, macOS and Windows; no other module asks which one it runs on."""

from __future__ import annotations

import _thread
import ctypes
import hashlib
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

STOPPED = ("SIGTERM", "SIGINT")
"""Signals that ask a program to stop; Windows knows both, and sends the second alone."""
AGAIN_S = 0.02
"""Until a signal is told again whose error was dropped: what dropped it has returned by then."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


@contextmanager
def signals(names: Sequence[str], came: Callable[[str], object]) -> Generator[None]:
    """Call a function with a signal's name in place of what the system would do.

    In a thread that is not the main one nothing changes: signals do not arrive there.

    Args:
        names: Of signals, from `STOPPED`.
        came: May raise; what runs is then left by that error. Where a library's callback or a
            finalizer drops the error, `came` is called again, until it gets through.
    """
    raised: dict[int, BaseException] = {}
    ignore = sys.unraisablehook

    def handle(number: int, _: object) -> None:
        try:
            came(signal.Signals(number).name)
        except BaseException as error:
            raised[number] = error
            raise

    def dropped(what: sys.UnraisableHookArgs) -> None:
        again = [number for number, error in raised.items() if error is what.exc_value]
        for number in again:
            timer = threading.Timer(AGAIN_S, _thread.interrupt_main, [number])
            timer.daemon = True
            timer.start()
        if not again:
            ignore(what)

    try:
        before = {n: signal.signal(n, handle) for n in (signal.Signals[name] for name in names)}
    except ValueError:
        before = {}
    if before:
        sys.unraisablehook = dropped
    try:
        yield
    finally:
        if before:
            sys.unraisablehook = ignore
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_code(name: str) -> int:
    """Return what a program ends with that a signal stopped, as shells count."""
    return 128 + signal.Signals[name].value


def lives(process: int) -> bool:
    """Return whether a process may be at work.

    On Windows false, as to ask would end it; files that it has open cannot be deleted there.
    """
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it lives, and is somebody else's
        return True
    return True


def link(source: Path, target: Path) -> None:
    """Let a second name stand for a file; a copy where links are not allowed."""
    try:
        target.symlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def cpu_name() -> str:
    """Return the processor's name, as exact as the system knows it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def free_share(threads: int, seconds: float = 0.5) -> float:
    """Return which share of so many cores this process gets, 0 to 1; below 0.9 others are busy.

    Takes its time: for so long each thread computes as fast as it can.
    """

    def compute(_: int) -> float:
        start, used, data = time.perf_counter(), time.thread_time(), bytes(1 << 23)
        while time.perf_counter() - start < seconds:
            hashlib.sha256(data)  # which leaves Python to the other threads
        return (time.thread_time() - used) / (time.perf_counter() - start)

    with ThreadPoolExecutor(threads) as pool:
        return min(1.0, sum(pool.map(compute, range(threads))) / threads)


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back to the kernel.

    A training step frees and asks for the same large blocks thousands of times. Each time the
    kernel would hand out fresh pages filled with zeros: half of the processor's time on small
    pictures. Where the C library is another one, nothing happens.
    """
    if sys.platform != "linux":
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)


if sys.platform == "win32":
    from ctypes import wintypes

    class _Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = (
            ("cb", wintypes.DWORD),
            ("page_faults", wintypes.DWORD),
            ("peak_working_set", ctypes.c_size_t),
            ("others", ctypes.c_size_t * 7),
        )

    def peak_bytes() -> float:
        """Return the most memory that this process has held."""
        counters = _Counters(cb=ctypes.sizeof(_Counters))
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        kernel.K32GetProcessMemoryInfo.argtypes = (
            wintypes.HANDLE, ctypes.POINTER(_Counters), wintypes.DWORD,
        )  # fmt: skip
        kernel.K32GetProcessMemoryInfo(
            kernel.GetCurrentProcess(), ctypes.byref(counters), counters.cb
        )
        return counters.peak_working_set
else:
    import resource

    def peak_bytes() -> float:
        """Return the most memory that this process has held."""
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most * (1 if sys.platform == "darwin" else 1000)
