"""Work items: what a stage made of one timestep of one capture, in one small whole file.

<out>/work/<capture>/<stage>/<timestep>.npz, without pickles. An item that is there is done, also
if nothing came of it: then it holds the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.core.config import from_dict
from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.io.raw_files import read_npz
from pipeline.system.files import inside, read_object, write_whole

WORK = "work"


@dataclass(frozen=True)
class Item:
    """Arrays and encoded pictures of one timestep; first dimension v where there is one a view."""

    arrays: Mapping[str, np.ndarray]
    pictures: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """One for each view, `b""` where there is none."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Reasons by camera; `timestep` stands for all of them."""
    notes: Mapping[str, str] = field(default_factory=dict)


def item_path(out: Path, capture: str, stage: str, name: str) -> Path:
    """Return where the item of a timestep belongs."""
    return inside(out / WORK, capture, stage, f"{name}.npz")


def save_item(path: Path, item: Item) -> None:
    """Write an item whole."""
    members: dict[str, np.ndarray] = {f"a.{name}": value for name, value in item.arrays.items()}
    for name, pictures in item.pictures.items():
        members[f"p.{name}"] = np.frombuffer(b"".join(pictures), np.uint8)
        members[f"e.{name}"] = np.cumsum([len(p) for p in pictures], dtype=np.int64)
    about = json.dumps({"dropped": dict(item.dropped), "notes": dict(item.notes)}, sort_keys=True)
    members["about"] = np.frombuffer(about.encode(), np.uint8)

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **members)  # pyright: ignore[reportArgumentType]

    write_whole(path, write)


def load_item(path: Path, *, pictures: Sequence[str] | None = None) -> Item:
    """Read an item.

    Args:
        path: File of the item.
        pictures: Kinds of pictures to read; all if not given.

    Raises:
        FormatError: If it is not there or damaged.
    """
    try:
        members = read_npz(path, lambda name: _wanted(name, pictures))
        about = from_dict(_About, json.loads(members["about"].tobytes()))
        arrays = {name[2:]: value for name, value in members.items() if name.startswith("a.")}
        found: dict[str, tuple[bytes, ...]] = {}
        for kind in (name[2:] for name in members if name.startswith("p.")):
            whole, ends = members[f"p.{kind}"].tobytes(), members[f"e.{kind}"].tolist()
            starts = [0, *ends][:-1]
            found[kind] = tuple(whole[a:b] for a, b in zip(starts, ends, strict=True))
    except (InputError, ConfigError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(
            f"The work item {path} is missing or damaged.", "Delete it and run prep again."
        ) from error
    return Item(arrays, found, about.dropped, about.notes)


@dataclass(frozen=True)
class _About:
    """What an item says in words."""

    dropped: Mapping[str, str]
    notes: Mapping[str, str]


def read_reasons(path: Path, *keys: str) -> dict[str, str]:
    """Return reasons from some parts of a report.

    Raises:
        InputError: If there is no report that can be read.
        FormatError: If it is damaged.
    """
    report = read_object(path, "a report")
    found: dict[str, str] = {}
    for key in keys:
        try:
            found |= from_dict(_About, {"dropped": report.get(key, {}), "notes": {}}).dropped
        except ConfigError as error:
            raise FormatError(f"{path} is damaged.", "Delete it and run prep again.") from error
    return found


def _wanted(name: str, pictures: Sequence[str] | None) -> bool:
    return pictures is None or name[:2] not in ("p.", "e.") or name[2:] in pictures
