"""Expression sequences: npz files without pickles.

Either `codes` [t, 120] with `layout`, or `weights` [t, 52] with `names` (ARKit); and `fps`. Where
the codes were a tracker's, `origin` says which.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pipeline.core.config import LONGEST
from pipeline.core.errors import FormatError, LayoutError, MissingItemError, ShapeError
from pipeline.core.types import CODE_SIZE, ExpressionCode
from pipeline.faces.layouts import ARKIT_NAMES, MAKEHUMAN, arkit_to_code, require_layout
from pipeline.io.raw_files import read_npz
from pipeline.system.files import require_file, write_whole

FPS = 25.0
"""Of a sequence that does not say."""
LARGEST = 1e4
"""No number of a code is as large."""


@dataclass(frozen=True)
class Sequence:
    """Expressions over time."""

    codes: ExpressionCode
    """[t, 120]"""
    fps: float
    origin: str = ""
    """Tracker and file that the codes are of, where it matters; pictures carry it on."""

    def __len__(self) -> int:
        return len(self.codes)


def write_sequence(path: Path, sequence: Sequence) -> None:
    """Write a sequence whole."""

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(
                file,
                codes=sequence.codes.values.numpy().astype(np.float32),
                layout=np.array(sequence.codes.layout),
                fps=np.array(sequence.fps, np.float32),
                origin=np.array(sequence.origin),
            )

    write_whole(path, write)


def read_sequence(path: Path, layout: str | None = None) -> Sequence:
    """Read a sequence in the layout that an avatar needs.

    ARKit weights are converted to the MakeHuman layout.

    Args:
        path: The npz file.
        layout: Layout that the codes must have; any if not given.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not a whole npz, or lacks an array.
        LayoutError: If the codes are of another layout.
        ShapeError: If an array has the wrong shape or numbers that are not finite.
    """
    require_file(path, "an expression sequence (.npz)")
    try:
        arrays = read_npz(path)
    except MissingItemError as error:
        raise FormatError(
            f"{path} is not an npz of plain arrays.", "Write it with numpy.savez, without objects."
        ) from error
    given = arrays.get("fps", np.float32(FPS))
    fps = float(given.item()) if given.size == 1 and given.dtype.kind in "fiu" else math.nan
    if not 0 < fps < 1000:
        raise ShapeError(f"{path} has fps {fps}.", "Give frames a second between 0 and 1000.")
    if "codes" in arrays:
        codes = _table(path, "codes", arrays["codes"], CODE_SIZE)
        if "layout" not in arrays:
            raise LayoutError(f"{path} does not name its layout.", "Add an array `layout`.")
        code = ExpressionCode(torch.from_numpy(codes), str(arrays["layout"])[:LONGEST])
    elif "weights" in arrays:
        weights = _table(path, "weights", arrays["weights"], len(ARKIT_NAMES))
        code = arkit_to_code(weights[:, _order(path, arrays)])
        assert code.layout == MAKEHUMAN
    else:
        raise FormatError(
            f"{path} has neither codes nor weights (it has: {', '.join(arrays) or 'nothing'}).",
            "Store codes [t, 120] with layout, or ARKit weights [t, 52] with names.",
        )
    if layout is not None:
        require_layout(code, layout)
    return Sequence(code, fps, str(arrays.get("origin", "")))


def _table(path: Path, name: str, values: np.ndarray, columns: int) -> np.ndarray:
    if (
        values.ndim != 2
        or values.shape[1] != columns
        or not len(values)
        or values.dtype.kind not in "fiu"
    ):
        raise ShapeError(
            f"{path}: {name} is {values.dtype} {list(values.shape)}.",
            f"It must be numbers [t, {columns}] with at least one frame.",
        )
    if not (np.abs(values) < LARGEST).all():  # nan fails too
        raise ShapeError(
            f"{path}: {name} has nan, inf or absurd numbers.", "Leave out or repair these frames."
        )
    return values.astype(np.float32)


def _order(path: Path, arrays: dict[str, np.ndarray]) -> list[int]:
    """Return the columns of a file's weights in the order of ARKIT_NAMES."""
    names = [str(name) for name in np.ravel(arrays.get("names", np.array(ARKIT_NAMES)))[:99]]
    unknown = sorted(set(ARKIT_NAMES) - set(names))
    if unknown or len(names) != len(ARKIT_NAMES):
        raise LayoutError(
            f"{path}: names are not the 52 of ARKit (missing: {', '.join(unknown[:3])}).",
            "Name the columns as ARKit does: jawOpen, eyeBlinkLeft, ...",
        )
    return [names.index(name) for name in ARKIT_NAMES]
