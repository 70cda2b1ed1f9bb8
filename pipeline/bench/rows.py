"""What all benches share: their rows, the tables made of them, and measuring apart."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import ParamSpec, TypedDict, TypeVar

from pipeline.evaluate.tables import Table

P = ParamSpec("P")
T = TypeVar("T")


class BenchRow(TypedDict):
    """One measurement, as JSON has it; each bench says of what."""


class Timed(BenchRow):
    """One piece of work, timed several times."""

    ms: float
    """Median."""
    spread_ms: float
    """Largest minus smallest."""
    peak_mb: float
    """Memory; of the process, or beyond what it held before, as the bench says."""


def timed(milliseconds: Sequence[float], peak_mb: float) -> Timed:
    """Return the row of several times."""
    return Timed(
        ms=statistics.median(milliseconds), spread_ms=spread(milliseconds), peak_mb=peak_mb
    )


def spread(values: Sequence[float]) -> float:
    """Return the largest minus the smallest."""
    return max(values) - min(values)


def table(
    title: str,
    columns: Mapping[str, str],
    rows: Iterable[Mapping[str, object]],
    notes: Sequence[str] = (),
) -> Table:
    """Return rows as a table to print.

    Args:
        title: Above it.
        columns: Head of each column, and its cells as a format of the row's fields.
        rows: Measurements.
        notes: Below it.
    """
    cells = tuple(tuple(cell.format_map(row) for cell in columns.values()) for row in rows)
    return Table(title, tuple(columns), cells, tuple(notes))


def alone(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function returns in a process of its own, whose memory is its alone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as process:
        return process.submit(work, *args, **kwargs).result()
