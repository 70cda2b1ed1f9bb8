"""How the process holds on to memory."""

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # <malloc.h>


def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of giving it back to the kernel.

    A training step frees and asks for the same large blocks thousands of times. Each time the
    kernel would hand out fresh pages filled with zeros: half of the processor's time on small
    pictures. Where the C library is another one, nothing happens.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, -1)
