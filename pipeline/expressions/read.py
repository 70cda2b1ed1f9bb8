"""Expression sequences of any known kind, in the layout that an avatar needs.

npz with codes or ARKit weights   ours, see `pipeline.expressions.sequences`
CSV of Live Link Face             ARKit weights, one row a frame
results of FLAME trackers         VHAP, GAGAvatar, LAM, metrical-tracker and others, see
                                  `pipeline.tracking.importers`
"""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np

from pipeline.core.errors import FormatError
from pipeline.expressions.sequences import LARGEST, Sequence, read_sequence
from pipeline.faces.layouts import ARKIT_NAMES, arkit_to_code, require_layout
from pipeline.io.raw_files import BROKEN
from pipeline.system.files import read_small, require_file
from pipeline.tracking.importers import read_tracking

LIVE_LINK_FPS = 60.0
TRACKER_FPS = 25.0
"""Trackers do not write the rate; `fastgha render --fps` sets another."""


def read_expressions(path: Path | str, layout: str | None = None) -> Sequence:
    """Read a sequence of any known kind.

    Args:
        path: File, or folder of a tracker.
        layout: Layout that the codes must have; any if not given.

    Raises:
        InputError: If there is no file, or of no known kind.
        FormatError: If it is damaged.
        LayoutError: If the codes are of another layout; `pipeline.expressions.convert` may help.
        ShapeError: If an array has the wrong shape or numbers that are not finite.
    """
    path = Path(path)
    if not path.is_dir():
        require_file(path, "an expression sequence")
    if path.suffix.lower() == ".csv":
        sequence = _live_link(path)
    elif path.is_dir() or path.suffix in (".frame", ".pkl") or _of_a_tracker(path):
        tracking = read_tracking(path)
        origin = f"{tracking.tracker}: {path.name}"
        sequence = Sequence(tracking.codes(), TRACKER_FPS, origin)
    else:
        return read_sequence(path, layout)
    if layout is not None:
        require_layout(sequence.codes, layout)
    return sequence


def _of_a_tracker(path: Path) -> bool:
    """Say whether an npz is not ours, by the names in it."""
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
    except BROKEN:
        return False
    return bool(names & {"expr", "expression", "exp"}) and not names & {"codes", "weights"}


def _live_link(path: Path) -> Sequence:
    """Read the CSV that the app Live Link Face records: ARKit weights with capital names."""
    try:
        text = read_small(path, "a CSV of Live Link Face").decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines()))
        weights = np.array(
            [[float(row[name[0].upper() + name[1:]]) for name in ARKIT_NAMES] for row in rows],
            np.float64,  # a float32 would overflow before it is looked at
        ).reshape(-1, len(ARKIT_NAMES))
    except (KeyError, ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(
            f"{path} is not a CSV of Live Link Face: {error}.",
            "It has a column for each of the 52 ARKit units, such as JawOpen.",
        ) from error
    if not len(weights) or not (np.abs(weights) < LARGEST).all():  # nan fails too
        raise FormatError(f"{path} has no rows, or not numbers.", "Record it again.")
    return Sequence(arkit_to_code(weights.astype(np.float32)), LIVE_LINK_FPS)
