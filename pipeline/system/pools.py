"""The thread pools of the libraries that compute: BLAS and OpenMP."""

from __future__ import annotations

import functools
from collections.abc import Generator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_blas_thread() -> Generator[None]:
    """Let BLAS compute in the caller's thread alone.

    Its own threads cost small matrices more than they bring, and stand in the way of threads that
    call it at the same time.
    """
    with _controller().limit(limits=1, user_api="blas"):
        yield


@contextmanager
def one_thread() -> Generator[None]:
    """The same, and torch too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with one_blas_thread():
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()
