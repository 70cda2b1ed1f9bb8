"""Expression sequences from one layout to another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence
from pipeline.faces.layouts import FLAME2020, FLAME2023, LAYOUTS, MAKEHUMAN
from pipeline.tracking.refit import refit

SHORT = {"makehuman": MAKEHUMAN, "flame2020": FLAME2020, "flame2023": FLAME2023}
"""What users call the layouts."""


def layout_of(name: str) -> str:
    """Return a layout by its tag or its short name.

    Raises:
        ConfigError: If there is none of that name (the nearest one is given).
    """
    if name in LAYOUTS:
        return name
    if name not in SHORT:
        raise ConfigError(f"There is no expression layout {name!r}.", nearest(name, list(SHORT)))
    return SHORT[name]


def converted(sequence: Sequence, layout: str) -> tuple[Sequence, str]:
    """Return a sequence in a layout, and what the user should know if it had another.

    Raises:
        LayoutError: If a layout is not known.
        MissingWeightsError: If a FLAME model that is needed is not on this machine.
        InputError: If one was converted without its landmarks, which the way to another head needs.
    """
    if sequence.codes.layout == layout:
        return sequence, ""
    found = refit(sequence.codes, layout)
    return replace(sequence, codes=found.codes), found.words(sequence.codes.layout)


def read_converted(path: Path | str, layout: str) -> tuple[Sequence, str]:
    """Read a sequence of any known kind in a layout; see `converted` and `read_expressions`."""
    return converted(read_expressions(path), layout)
