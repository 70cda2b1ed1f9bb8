"""Choosing where to compute."""

import logging
import os

import torch

from pipeline.core.errors import ConfigError
from pipeline.render import available_backends

log = logging.getLogger("fastgha")
READY = "ready"
MOST_WORKERS = 16


def choose(name: str, *, draws: bool = True) -> str:
    """Return the device for a name, before anything is loaded for it.

    `auto` is CUDA where there is one and heads can be drawn on it, else the CPU.

    Args:
        name: auto, cpu, cuda (or cuda:1, ...) or mps.
        draws: Whether heads will be drawn there, for which CUDA needs gsplat.

    Raises:
        ConfigError: If the name is unknown, there is no such device here, or gsplat cannot run.
    """
    kind = name.partition(":")[0]
    if kind not in ("auto", "cpu", "cuda", "mps"):
        raise ConfigError(f"There is no device {name!r}.", "Choose auto, cpu, cuda or mps.")
    state = available_backends()["gsplat"] if draws else READY
    if name == "auto":
        if torch.cuda.is_available() and state == READY:
            return "cuda"
        if torch.cuda.is_available():
            log.warning("The GPU is not used: %s.", state)
        return "cpu"
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                "CUDA is not usable here.", "Leave out --device, or install a CUDA build of torch."
            )
        if state != READY:
            raise ConfigError(f"Heads cannot be drawn on CUDA: {state}.", "Or choose --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("There is no Apple GPU here.", "Leave out --device.")
    return name


def loader_workers(device: str) -> int:
    """Return how many processes shall read ahead: what one CPU step needs, or what feeds a GPU."""
    if torch.device(device).type == "cpu":
        return 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min((os.cpu_count() or 2) // processes - 1, MOST_WORKERS))
