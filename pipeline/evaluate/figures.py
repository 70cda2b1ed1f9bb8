"""Figures 12 and 14: quality against the number of inputs, and against errors of cameras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.evaluate.camera_errors import ERRORS, ErrorKind
from pipeline.evaluate.candidate import Candidate
from pipeline.evaluate.metrics import Metrics, prepare
from pipeline.evaluate.protocol import Protocol
from pipeline.evaluate.results import Result
from pipeline.evaluate.run import measure, ours
from pipeline.evaluate.tables import MARK, Table
from pipeline.io.charts import new_figure
from pipeline.system.files import write_whole
from pipeline.system.progress import Progress

INPUTS = (2, 3, 4, 5, 6)


@dataclass(frozen=True)
class Figure:
    """A figure of the paper."""

    draw: Callable[[Candidate, Protocol, Progress], list[Curve]]
    protocol: Callable[[Protocol], Protocol] = lambda protocol: protocol
    """Gives the protocol that it is measured under."""


@dataclass(frozen=True)
class Curve:
    """Results along one axis."""

    axis: str
    xs: tuple[float, ...]
    results: tuple[Result, ...]


def against_inputs(candidate: Candidate, protocol: Protocol, progress: Progress) -> list[Curve]:
    """Measure with 2 to 6 inputs, always on the same pictures: those that no six inputs show."""
    metrics = prepare(protocol, candidate.device)
    results: list[Result] = []
    for done, count in enumerate(INPUTS, start=1):
        fewer = [replace(task, inputs=task.inputs[:count]) for task in candidate.chosen]
        some = replace(candidate, chosen=fewer)
        results.append(_measure(some, protocol, f"{count} inputs", metrics))
        progress(done, len(INPUTS))
    return [Curve("inputs", tuple(map(float, INPUTS)), tuple(results))]


def against_noise(candidate: Candidate, protocol: Protocol, progress: Progress) -> list[Curve]:
    """Measure with errors on the inputs' cameras, a curve for each kind."""
    metrics = prepare(protocol, candidate.device)
    levels = [(error, level) for error in ERRORS for level in error.levels if level]
    still = _measure(candidate, protocol, "no error", metrics)
    found = {error.axis: [still] for error in ERRORS}
    for done, (error, level) in enumerate(levels, start=1):
        name = f"{level:g} {error.axis}"
        found[error.axis].append(_measure(candidate, protocol, name, metrics, error, level))
        progress(done, len(levels))
    return [Curve(error.axis, error.levels, tuple(found[error.axis])) for error in ERRORS]


def widest(protocol: Protocol) -> Protocol:
    """Return a protocol with as many inputs as a figure of their number needs."""
    return replace(protocol, inputs=max(INPUTS), same_expression=True)


FIGURES = {12: Figure(against_inputs, widest), 14: Figure(against_noise)}


def table(number: int, curves: Sequence[Curve]) -> Table:
    """Return a figure's numbers."""
    names = list(curves[0].results[0].figures)
    rows: list[tuple[str, ...]] = []
    for curve in curves:
        for x, result in zip(curve.xs, curve.results):
            cells = [f"{x:g}", curve.axis]
            for name in names:
                figure = result.figures[name]
                cells += [f"{figure.mean:.4f}", f"{figure.low:.4f}", f"{figure.high:.4f}"]
            rows.append(tuple(cells))
    heads = [f"{name}{end}" for name in names for end in ("", " low", " high")]
    first = curves[0].results[0]
    title = f"Figure {number}, protocol {first.protocol} ({first.protocol_hash})"
    marks = dict.fromkeys(mark for curve in curves for r in curve.results for mark in r.marks)
    notes = tuple(f"{MARK} The model was {mark}." for mark in marks)
    if notes:
        title += f" {MARK}"
    return Table(title, ("x", "axis", *heads), tuple(rows), notes)


def plot(number: int, curves: Sequence[Curve], path: Path) -> None:
    """Draw a figure as a PNG: a panel for each metric and axis, intervals shaded."""
    names = list(curves[0].results[0].figures)
    figure = new_figure(3.2 * len(names), 2.8 * len(curves))
    panels = figure.subplots(len(curves), len(names), squeeze=False)
    for row, curve in zip(panels, curves):
        for panel, name in zip(row, names):
            found = [result.figures[name] for result in curve.results]
            panel.plot(curve.xs, [f.mean for f in found], marker="o")
            panel.fill_between(curve.xs, [f.low for f in found], [f.high for f in found], alpha=0.2)
            panel.set_xlabel(curve.axis)
            panel.set_title(curve.results[0].heads[name], fontsize=9)
            panel.grid(alpha=0.3)
    figure.suptitle(f"Figure {number}, {curves[0].results[0].protocol}", fontsize=10)
    write_whole(path, lambda part: figure.savefig(part, format="png", dpi=110))


def _measure(
    candidate: Candidate,
    protocol: Protocol,
    name: str,
    metrics: Metrics,
    error: ErrorKind | None = None,
    level: float = 0.0,
) -> Result:
    return measure(
        ours(candidate.model, error, level, protocol.seed), name, protocol, candidate.chosen,
        checkpoint=candidate.sha256, device=candidate.device, metrics=metrics,
        marks=candidate.marks,
    )  # fmt: skip
