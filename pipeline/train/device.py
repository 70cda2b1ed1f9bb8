"""Choosing where to compute."""

import torch

from pipeline.core.errors import ConfigError


def choose(name: str) -> str:
    """Return the device for a name; `auto` is CUDA where there is one.

    Raises:
        ConfigError: If the name is unknown or there is no such device here.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name != "cpu" and not name.startswith("cuda"):
        raise ConfigError(f"There is no device {name!r}.", "Choose auto, cpu or cuda.")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(
            "CUDA is not usable here.", "Leave out --device, or install a CUDA build of torch."
        )
    return name
