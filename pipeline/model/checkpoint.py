"""Checkpoints as they are read: one safetensors file of weights, with the settings as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from pipeline.core.config import from_dict
from pipeline.core.errors import FormatError, InputError
from pipeline.io.tensors import read_header, restore
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import FastGHA, Precision
from pipeline.system.assets import CHECKPOINT
from pipeline.system.files import require_file

FORMAT = "fastgha-checkpoint"
VERSION = 1


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds."""

    tensors: Mapping[str, Tensor]
    """`model.*`, and for resuming `optimizer.*`."""
    header: Mapping[str, Any]
    """step, layout, model (settings) and train (settings); more in shipped ones."""

    @property
    def people(self) -> frozenset[str]:
        """Whom it was trained on; empty for checkpoints of before, which do not say."""
        return names(self.header, "people")

    @property
    def held_out(self) -> frozenset[str]:
        """Those of them whom their shards call held out."""
        return names(self.header, "held_out")


def names(header: Mapping[str, Any], key: str) -> frozenset[str]:
    """Return a list of names in a header; none if it has no such list."""
    found = header.get(key)
    return frozenset(map(str, found)) if isinstance(found, list) else frozenset()


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        InputError: If there is no file.
        FormatError: If it is truncated, not a checkpoint, or of another version.
    """
    require_file(path, "a checkpoint (.safetensors)")
    header = read_header(path, FORMAT, VERSION)
    try:
        # Files from before there was a choice of decoders do not name theirs.
        header["model"]["decoder"].setdefault("kind", "conv")
        header["model"]["deform"].setdefault("color_space", "linear")
        header["step"], header["layout"] = int(header["step"]), str(header["layout"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise FormatError(f"{path} has a damaged header.", "Copy or make it again.") from error
    with safe_open(path, framework="pt") as file:
        return Checkpoint({key: file.get_tensor(key) for key in file.keys()}, header)  # noqa: SIM118


def load_model(path: Path, precision: Precision = "auto") -> tuple[FastGHA, Checkpoint]:
    """Read the model of a checkpoint, ready for use (in eval mode, no gradients)."""
    checkpoint = load(path)
    model = FastGHA(from_dict(ModelConfig, checkpoint.header["model"]), precision)
    restore(model, checkpoint.tensors, "model.", path)
    return model.eval().requires_grad_(False), checkpoint


def saved(folder: Path) -> list[Path]:
    """Return the checkpoints in a run's folder, by step."""
    return sorted(folder.glob("step-*.safetensors"))


def newest(folder: Path) -> Path | None:
    """Return the checkpoint of the highest step in a run's folder, if there is any."""
    found = saved(folder)
    return found[-1] if found else None


def resolve(path: Path) -> Path:
    """Return the checkpoint that a path means: a file, or a run's newest.

    Raises:
        InputError: If a folder holds none.
    """
    if not path.is_dir():
        return require_file(path, "a checkpoint (.safetensors) or of a run's folder")
    found = newest(path)
    if found is None:
        raise InputError(f"There is no checkpoint in {path}.", "Give the folder of a run.")
    return found


def checkpoint_path(chosen: Path | None) -> Path:
    """Return the checkpoint that the user chose (a file or a run's folder), or the shipped one.

    Raises:
        InputError: If there is none.
    """
    return resolve(chosen or CHECKPOINT)
