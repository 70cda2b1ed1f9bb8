"""What torchvision's classification networks have in common: their normalisation, their files."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import FormatError
from pipeline.system.files import require_file

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Net = TypeVar("Net", bound=nn.Module)


def imagenet(x: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 3 h w"]:
    """Bring RGB in [0, 1] to the mean and spread that the networks were trained with."""
    mean, std = (torch.tensor(c).to(x)[:, None, None] for c in (MEAN, STD))
    return (x - mean) / std


def read_state(path: Path, what: str) -> dict[str, Tensor]:
    """Read a state dict, executing nothing in it.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not a state dict.
    """
    require_file(path, what)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # noqa: BLE001  a foreign file can fail in any way
        raise FormatError(f"{path} does not hold {what}.", "Get the file again.") from error
    if not isinstance(state, dict):
        raise FormatError(f"{path} does not hold {what}.", "Get the file again.")
    return state


def fill(net: Net, state: dict[str, Tensor], path: Path, what: str) -> Net:
    """Put the weights that a network knows into it and freeze it; others are passed over.

    Raises:
        FormatError: If one is missing or has another shape.
    """
    try:
        net.load_state_dict({name: state[name] for name in net.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise FormatError(
            f"{path} does not hold {what}.", "Give the file as its publisher names it."
        ) from error
    return net.eval().requires_grad_(False)
