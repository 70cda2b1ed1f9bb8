"""What all stages share: the stamp that says how a folder's files were made, and the report."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.core.config import to_dict
from pipeline.core.errors import StaleOutputError
from pipeline.system.files import read_small, write_text

STAMP = "stage.json"


@dataclass
class StageReport:
    """What a stage did."""

    out: Path
    done: int = 0
    skipped: int = 0
    """Items that an earlier run had finished."""
    dropped: dict[str, str] = field(default_factory=lambda: dict[str, str]())
    """Items left out, with the reason."""


def claim(out: Path, config: object, *, made: str, upstream: str = "", overwrite: bool) -> None:
    """Stamp a folder with how its files are made, or refuse one made in another way.

    With `overwrite`, files that match `made` are deleted first; the stamp and the files can
    therefore never disagree, even after a crash. A folder without a stamp is not ours: nothing
    in it is trusted or deleted.

    Args:
        out: Folder of the results; made if it is not there.
        config: Settings that fix the results.
        made: Glob of the results' names.
        upstream: Digest of what the results are made from.
        overwrite: Delete results of other settings instead of refusing.

    Raises:
        StaleOutputError: If the folder holds results of other settings, or of nobody.
    """
    wanted = json.dumps({"config": to_dict(config), "from": upstream}, sort_keys=True, indent=1)
    stamp = out / STAMP
    if out.exists() and not out.is_dir():
        raise StaleOutputError(f"{out} is a file.", "Choose a folder.")
    if not stamp.exists() and any(out.glob(made)):
        raise StaleOutputError(
            f"{out} holds {made} files that no stage made.", "Choose an empty folder."
        )
    if stamp.exists() and read_small(stamp, "a stamp of results") != wanted.encode():
        if not overwrite:
            raise StaleOutputError(
                f"{out} was made with other settings or inputs (see {stamp}).",
                "Choose another folder, or pass --overwrite to make it again.",
            )
        stamp.unlink()
    if overwrite:
        for old in out.glob(made):
            old.unlink()
    out.mkdir(parents=True, exist_ok=True)
    write_text(stamp, wanted)
