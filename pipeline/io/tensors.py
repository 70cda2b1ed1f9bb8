"""What our safetensors files share: a JSON header that names kind and version, strict loading."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.config import from_dict, short
from pipeline.core.errors import ConfigError, FormatError
from pipeline.system.files import require_file, write_whole

T = TypeVar("T")
Net = TypeVar("Net", bound=nn.Module)
ABSURD = 1e9
"""No number of a model or a head is as large."""
KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
"""Of the numbers that our files hold."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a safetensors file whole, with facts as JSON in its header.

    Raises:
        InputError: If it cannot be written.
    """

    def write(part: Path) -> None:
        whole = {name: value.cpu().contiguous() for name, value in tensors.items()}
        try:
            save_file(whole, part, {"json": json.dumps(facts, sort_keys=True)})
        except SafetensorError as error:  # what the library makes of a full disk
            raise OSError(str(error)) from error

    write_whole(path, write)


def read_header(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Return the JSON facts of a safetensors file of ours, refusing any other.

    Raises:
        InputError: If there is no file that can be read.
        FormatError: If the file is truncated, of another kind, or of another version.
    """
    require_file(path, f"a {kind} file")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("json", "{}"))
        if not isinstance(facts, dict):
            raise ValueError("the header is not an object")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise _not_whole(path) from error
    if facts.get("format") != kind:
        raise FormatError(
            f"{path} is not a {kind} file (it says: {short(facts.get('format', 'nothing'))}).",
            f"Give a file of the kind {kind}.",
        )
    if facts.get("version") != version:
        raise FormatError(
            f"{path} has version {short(facts.get('version'))}; this program reads {version}.",
            "Use the program's version that wrote it, or make it again.",
        )
    return {str(key): value for key, value in facts.items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file of ours: numbers, all of them finite.

    Raises:
        FormatError: If the file is truncated, or holds something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, TypeError, KeyError) as error:
        raise _not_whole(path) from error
    for name, value in tensors.items():
        if value.dtype not in KINDS:
            raise damaged(path, f"{name} is {value.dtype}")
        if value.is_floating_point() and not bool((value.abs() < ABSURD).all()):  # nor is nan
            raise damaged(path, f"{name} has nan, inf or absurd numbers")
    return tensors


def fact(facts: Mapping[str, Any], name: str, kind: type[T], path: Path) -> T:
    """Return a fact of a header, which must be of a type.

    Raises:
        FormatError: If it is missing or of another type.
    """
    value = facts.get(name)
    if type(value) is not kind:
        raise damaged(path, f"{name} is {short(value)}, not of the type {kind.__name__}")
    return value


def settings(kind: type[T], values: Mapping[str, Any], path: Path) -> T:
    """Return the settings that a header holds.

    Raises:
        FormatError: If one is unknown, missing, of another type, or out of bounds.
    """
    try:
        return from_dict(kind, values)
    except ConfigError as error:
        raise damaged(path, error.problem.rstrip(".")) from error


def built(make: Callable[[], Net], tensors: Mapping[str, Tensor], prefix: str, path: Path) -> Net:
    """Return a module with all its weights from a file.

    It is first made of sizes alone: a header that lies about them costs no memory.

    Raises:
        FormatError: If a weight is missing, too many, or of another shape.
    """
    try:
        with torch.device("meta"):
            _require_same(make(), tensors, prefix, path)
    except (RuntimeError, ValueError, TypeError) as error:  # sizes that no layer can have
        raise damaged(path, "its settings make no network") from error
    module = make()
    restore(module, tensors, prefix, path)
    return module


def damaged(path: Path, what: str) -> FormatError:
    """Return the error of a file whose content is not as ours is."""
    return FormatError(f"{path} is damaged: {what}.", "Copy or make it again.")


def restore(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Put weights into a module, every one of them.

    Raises:
        FormatError: If a weight is missing, too many, or of another shape.
    """
    wanted = module.state_dict()
    mine = _require_same(module, tensors, prefix, path)
    module.load_state_dict({k: v.to(wanted[k].dtype) for k, v in mine.items()})


def _require_same(
    module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path
) -> dict[str, Tensor]:
    """Return the tensors that are a module's, which must be all of its own."""
    mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    wanted = module.state_dict()
    wrong = sorted(
        name
        for name in {*mine, *wanted}
        if name not in mine or name not in wanted or mine[name].shape != wanted[name].shape
    )
    if wrong:
        raise FormatError(
            f"{path} does not fit the model: {len(wrong)} weights differ, first {wrong[0]}.",
            "Use the settings it was trained with.",
        )
    return mine


def _not_whole(path: Path) -> FormatError:
    return FormatError(f"{path} is not a whole safetensors file.", "Copy or make it again.")
