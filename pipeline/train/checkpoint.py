"""Checkpoints of training: written with the optimizer's state, resumed, and taken over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.core.config import to_dict
from pipeline.core.errors import FormatError, LayoutError
from pipeline.io.tensors import damaged, read_header, restore, write_tensors
from pipeline.model.checkpoint import FORMAT, VERSION, Checkpoint, load, names
from pipeline.model.fastgha import FastGHA
from pipeline.train.optimizer import Optimizer, learning

KEPT = 2
"""Checkpoints that a run keeps: the newest, and one to fall back to."""


def save(
    path: Path,
    model: FastGHA,
    optimizer: Optimizer | None,
    header: Mapping[str, Any],
    dtype: torch.dtype | None = None,
) -> None:
    """Write a checkpoint whole.

    Args:
        path: File to write.
        model: Its weights are written.
        optimizer: Its state too, if given; without it the file cannot be resumed from.
        header: Facts to keep: step, layout, settings.
        dtype: Floating type of the weights in the file; as they are if not given.
    """
    tensors = {
        f"model.{name}": value.to(dtype) if dtype else value
        for name, value in model.state_dict().items()
    }
    if optimizer is not None:
        for name, parameter in learning(model):
            for key, value in optimizer.state[parameter].items():
                tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
    facts = {"format": FORMAT, "version": VERSION, "model": to_dict(model.config), **header}
    write_tensors(path, tensors, facts)


def restore_optimizer(
    optimizer: Optimizer, model: FastGHA, checkpoint: Checkpoint, path: Path
) -> None:
    """Put the optimizer's state back.

    Raises:
        FormatError: If the checkpoint has none, or not all of it.
    """
    for name, parameter in learning(model):
        prefix = f"optimizer.{name}."
        state = {
            # In the parameter's own memory order, which the fused optimizer takes for granted.
            key.removeprefix(prefix): torch.empty_like(parameter).copy_(value)
            if value.shape == parameter.shape
            else value.to(parameter.device, parameter.dtype, copy=True)
            for key, value in checkpoint.tensors.items()
            if key.startswith(prefix) and "." not in key.removeprefix(prefix)
        }
        if not state:
            raise FormatError(
                f"{path} has no optimizer state for {name}.",
                "Resume from a checkpoint of a run, not from a shipped one.",
            )
        if {key: value.shape for key, value in state.items()} != optimizer.shapes(parameter):
            raise damaged(path, f"its optimizer state for {name} is of another kind or size")
        optimizer.state[parameter] = state


@dataclass(frozen=True)
class Origin:
    """Another run's weights, to begin with."""

    checkpoint: Path
    anew: tuple[str, ...] = ()
    """Parts of the model that begin with random weights all the same; of any depth, as
    `decoder.conv_out`."""

    def names(self, key: str) -> frozenset[str]:
        """Return the file's `people` or `held_out`: whom its weights were trained on."""
        return names(read_header(self.checkpoint, FORMAT, VERSION), key)

    def take_over(self, model: FastGHA, layout: str) -> None:
        """Put the weights into a model that will be trained on codes of a layout.

        Raises:
            ConfigError: If the model has no such part.
            LayoutError: If the deformation to take over knows codes of another layout.
            FormatError: If a weight does not fit.
        """
        model.parts(self.anew)  # refuses what it has not
        checkpoint = load(self.checkpoint)
        if "deformation" not in self.anew and checkpoint.header["layout"] != layout:
            raise LayoutError(
                f"{self.checkpoint} was trained on {checkpoint.header['layout']!r}, the shards "
                f"have {layout!r}.",
                "Start the deformation anew: --anew deformation.",
            )
        fresh = tuple(f"model.{name}." for name in self.anew)
        tensors = {k: v for k, v in checkpoint.tensors.items() if not k.startswith(fresh)}
        own = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {k: v for k, v in own.items() if k.startswith(fresh)}
        restore(model, tensors, "model.", self.checkpoint)
