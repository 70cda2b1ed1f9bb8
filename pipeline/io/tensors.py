"""What our safetensors files share: a JSON header that names kind and version, strict loading."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.core.errors import FormatError
from pipeline.system.files import write_whole


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
        FormatError: If the file is truncated, of another kind, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("json", "{}"))
        if not isinstance(facts, dict):
            raise ValueError("the header is not an object")
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FormatError(
            f"{path} is not a whole safetensors file.", "Copy or make it again."
        ) from error
    if facts.get("format") != kind:
        raise FormatError(
            f"{path} is not a {kind} file (it says: {facts.get('format', 'nothing')}).",
            f"Give a file of the kind {kind}.",
        )
    if facts.get("version") != version:
        raise FormatError(
            f"{path} has version {facts.get('version')}; this program reads {version}.",
            "Use the program's version that wrote it, or make it again.",
        )
    return {str(key): value for key, value in facts.items()}


def restore(module: nn.Module, tensors: Mapping[str, Tensor], prefix: str, path: Path) -> None:
    """Put weights into a module, every one of them.

    Raises:
        FormatError: If a weight is missing, too many, or of another shape.
    """
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
    module.load_state_dict({k: v.to(wanted[k].dtype) for k, v in mine.items()})
