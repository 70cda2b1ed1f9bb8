"""Work items: what a stage made of one timestep of one capture, in one small whole file.

<out>/work/<capture>/<stage>/<timestep>.npz, without pickles. An item that is there is done, also
if nothing came of it: then it holds the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pipeline.core.errors import FormatError
from pipeline.system.files import inside, write_whole

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
        with path.open("rb") as data, np.load(data, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            arrays = {name[2:]: file[name] for name in file.files if name.startswith("a.")}
            kinds = [name[2:] for name in file.files if name.startswith("p.")]
            found: dict[str, tuple[bytes, ...]] = {}
            for kind in kinds:
                if pictures is None or kind in pictures:
                    whole, ends = file[f"p.{kind}"].tobytes(), file[f"e.{kind}"].tolist()
                    starts = [0, *ends][:-1]
                    found[kind] = tuple(whole[a:b] for a, b in zip(starts, ends, strict=True))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise FormatError(
            f"The work item {path} is missing or damaged.", "Delete it and run prep again."
        ) from error
    return Item(arrays, found, about["dropped"], about["notes"])
