"""Where the networks of preparation run: those that are made within `networks_on`."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_DEVICE: ContextVar[str] = ContextVar("_DEVICE", default="cpu")


@contextmanager
def networks_on(device: str) -> Generator[None]:
    """Let networks that are made in this block run on a device, if they can."""
    token = _DEVICE.set(device)
    try:
        yield
    finally:
        _DEVICE.reset(token)


def network_device() -> str:
    """Return where a network that is made now shall run."""
    return _DEVICE.get()


def onnx_providers() -> list[str]:
    """Return where onnxruntime shall run a network, the first that it has."""
    import onnxruntime  # noqa: PLC0415

    kind = network_device().partition(":")[0]
    wanted = {"cuda": "CUDAExecutionProvider", "mps": "CoreMLExecutionProvider"}.get(kind, "")
    there = onnxruntime.get_available_providers()
    return [name for name in (wanted, "CPUExecutionProvider") if name in there]
