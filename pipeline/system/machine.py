"""The machine that something is measured on: what it is, its memory, and waiting for it."""

from __future__ import annotations

from typing import TypedDict

import torch

from pipeline.system.host import cpu_name, peak_bytes


class Machine(TypedDict):
    """What figures were measured on."""

    cpu: str
    threads: int
    gpu: str
    """Empty if there is none."""
    torch: str


def machine() -> Machine:
    """Name what figures are measured on."""
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        "torch": torch.__version__,
    }


def peak_mb(device: str | torch.device = "cpu") -> float:
    """Return the most memory that this process has held, or that it took on the CUDA device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return peak_bytes() / 1e6


def wait(device: str | torch.device) -> None:
    """Return when the device has done all that was asked of it."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
    elif torch.device(device).type == "mps":
        torch.mps.synchronize()
