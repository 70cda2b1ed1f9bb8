"""Checkpoints as they are read: one safetensors file of weights, with the settings as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.core.config import short
from pipeline.core.errors import InputError
from pipeline.io import sharing
from pipeline.io.tensors import built, damaged, fact, read_header, read_tensors, restore, settings
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import FastGHA, Precision
from pipeline.system.assets import CHECKPOINT
from pipeline.system.files import require_file

FORMAT = "fastgha-checkpoint"
VERSION = 1
HUB, SHARED = "hf:", "model.safetensors"
"""How a repository of the hub is named, and the file of a model in it."""
MAX_STEP = 10**8
"""Names of checkpoints have so many digits."""


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
    model = fact(header, "model", dict, path)
    # Files from before there was a choice of decoders do not name theirs.
    fact(model, "decoder", dict, path).setdefault("kind", "conv")
    fact(model, "deform", dict, path).setdefault("color_space", "linear")
    fact(header, "layout", str, path)
    if not 0 <= fact(header, "step", int, path) < MAX_STEP:
        raise damaged(path, f"step is {short(header['step'])}")
    return Checkpoint(read_tensors(path), header)


def load_model(path: Path, precision: Precision = "auto") -> tuple[FastGHA, Checkpoint]:
    """Read the model of a checkpoint, ready for use (in eval mode, no gradients)."""
    checkpoint = load(path)
    config = settings(ModelConfig, checkpoint.header["model"], path)
    if config.features.kind == "conv":
        model = built(lambda: FastGHA(config, precision), checkpoint.tensors, "model.", path)
    else:  # sizes are those of downloaded networks
        model = FastGHA(config, precision)
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
    """Return the checkpoint that a path means: a file, a run's newest, a shared folder's.

    `hf:owner/name` is a repository of the hub, and is downloaded.

    Raises:
        InputError: If a folder holds none, or the hub has none of that name.
        MissingPackageError: If it is on the hub, and huggingface_hub is not installed.
    """
    if path.parts and path.parts[0].startswith(HUB):
        return sharing.find(path.as_posix().removeprefix(HUB), SHARED)
    if (path / SHARED).is_file():
        return path / SHARED
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
