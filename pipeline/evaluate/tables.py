"""The paper's tables with our own figures in them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.protocol import PAPER_METRICS, PaperRow, Protocol, read
from pipeline.evaluate.results import Result, comparable, interval
from pipeline.evaluate.speed import PAPER as PAPER_SPEED
from pipeline.evaluate.speed import Speed

MARK = "*"
"""Behind the name of a method whose figures are no fair ones; the notes say why."""
REFERENCE = {1: "ava256-same", 3: "ava256-mixed", 5: "ava256-mixed", 6: "nersemble-one"}
"""The protocol whose paper values stand beside those of others."""


@dataclass(frozen=True)
class Table:
    """A table as text, for the terminal and for files."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    paper_from: int = 0
    """First column of the paper's own figures; 0 if there are none."""

    def parts(self) -> list[Table]:
        """Return the measured columns and the paper's as separate tables, for narrow screens."""
        at = self.paper_from
        if not at:
            return [self]
        measured = tuple(row[:at] for row in self.rows if any(row[1:at]))
        paper = tuple((row[0], *row[at:]) for row in self.rows if any(row[at:]))
        return [
            Table(self.title, self.columns[:at], measured),
            Table("The paper's own figures", (self.columns[0], *self.columns[at:]), paper),
        ]

    def csv(self) -> str:
        """Return it as comma-separated values."""
        file = io.StringIO()
        csv.writer(file).writerows(map(_inert, row) for row in (self.columns, *self.rows))
        return file.getvalue()

    def latex(self) -> str:
        """Return it as a LaTeX tabular, notes as comments."""
        lines = [f"% {_tex(note)}" for note in (self.title, *self.notes)]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}", r"\hline"]
        lines += [" & ".join(map(_tex, self.columns)) + r" \\", r"\hline"]
        lines += [" & ".join(map(_tex, row)) + r" \\" for row in self.rows]
        return "\n".join([*lines, r"\hline", r"\end{tabular}", ""])


def comparison(results: Sequence[Result], protocol: Protocol, table: int | None) -> Table:
    """Return measured figures with their intervals, and the paper's in columns of their own.

    Several results of one method are of several seeds: their mean stands, with the widest interval.

    Args:
        results: Of one protocol on the same pictures.
        protocol: That protocol.
        table: Number in the paper; without, no figures of the paper are shown.

    Raises:
        ConfigError: If the results are not of the same protocol and pictures.
    """
    comparable(results)
    heads = {k: v for r in results for k, v in r.heads.items()}
    by_method = _by_method(results)
    paper = paper_rows(protocol, table) if table else {}
    names = [*by_method, *(name for name in paper if name not in by_method)]
    measured = [name for name in METRICS if name in heads]
    columns = ["", *(heads[name] for name in measured)]
    stated = [name for name in measured if name in PAPER_METRICS] if paper else []
    columns += [f"{name} (paper)" for name in stated]
    rows: list[tuple[str, ...]] = []
    for name in names:
        cells = [_cell(by_method.get(name, []), metric) for metric in measured]
        if paper:
            theirs = paper.get(name)
            cells += [f"{getattr(theirs, m):g}" if theirs else "" for m in stated]
        unfair = any(result.marks for result in by_method.get(name, []))
        rows.append((f"{name} {MARK}" if unfair else name, *cells))
    title = f"Table {table}, " if table else ""
    title += f"protocol {protocol.name} ({protocol.hash}), {results[0].subjects} people"
    notes = tuple(_notes(results, protocol, bool(paper)))
    return Table(title, tuple(columns), tuple(rows), notes, len(measured) + 1 if paper else 0)


def paper_rows(protocol: Protocol, table: int) -> dict[str, PaperRow]:
    """Return the paper's rows of a table: of this protocol's data set, else of the reference's."""
    mine = [row for row in protocol.paper if row.table == table]
    rows = mine or [row for row in read(REFERENCE[table]).paper if row.table == table]
    return {row.method: row for row in rows}


def orderings(results: Sequence[Result], table: int) -> Table:
    """Say for each variant and metric whether it differs from the full model as in the paper.

    `yes` or `no` by the sign of the difference of means; in brackets for how many of the seeds.
    """
    paper = paper_rows(read(REFERENCE[table]), table)
    base = "full" if table != 6 else "one"
    by_method = _by_method(results)
    rows: list[tuple[str, ...]] = []
    for name, mine in by_method.items():
        if name == base or name not in paper:
            continue
        cells: list[str] = []
        for metric in PAPER_METRICS:
            wanted = getattr(paper[name], metric) - getattr(paper[base], metric)
            pairs = [
                (a.figures[metric].mean, b.figures[metric].mean)
                for a, b in zip(mine, by_method.get(base, []))
                if metric in a.figures and metric in b.figures
            ]
            if not pairs:
                cells.append("-")
                continue
            total = sum(a - b for a, b in pairs)
            agree = sum((a - b) * wanted > 0 for a, b in pairs)
            cells.append(f"{'yes' if total * wanted > 0 else 'no'} ({agree}/{len(pairs)})")
        rows.append((name, *cells))
    return Table(
        f"Table {table}: does each variant differ from '{base}' in the paper's direction?",
        ("", *PAPER_METRICS), tuple(rows), ("In brackets: in how many of the seeds.",),
    )  # fmt: skip


def paired(results: Sequence[Result], base: str) -> Table:
    """Return how much each variant differs from one of them, person by person.

    A person who is hard for one model is hard for all, so this sees less than two intervals do.
    Seeds are paired too, and averaged for each person.
    """
    by_method = _by_method(results)
    names = [name for name in METRICS if any(name in result.figures for result in results)]
    rows: list[tuple[str, ...]] = []
    for method, mine in by_method.items():
        if method == base:
            continue
        cells: list[str] = []
        for name in names:
            gaps: dict[str, list[float]] = {}
            for one, other in zip(mine, by_method.get(base, [])):
                for person in one.people.keys() & other.people.keys():
                    if name in one.people[person] and name in other.people[person]:
                        gap = one.people[person][name] - other.people[person][name]
                        gaps.setdefault(person, []).append(gap)
            means = [[sum(gaps[person]) / len(gaps[person])] for person in sorted(gaps)]
            found, digits = interval(means, 0), METRICS[name].digits
            cells.append(f"{found.mean:.{digits}f} ±{found.half:.{digits}f}" if means else "-")
        rows.append((method, *cells))
    note = "Means over people of the difference of each; ± half of the 95 % interval over them."
    return Table(f"Difference from '{base}'", ("", *names), tuple(rows), (note,))


def speeds(rows: Sequence[Speed], device: str) -> Table:
    """Return Table 2: time to make an avatar, and frames a second, beside the paper's."""
    lines = [
        (
            str(row.inputs),
            f"{row.reconstruct_s:.2f} [{row.reconstruct_range_s[0]:.2f}, "
            f"{row.reconstruct_range_s[1]:.2f}]",
            f"{row.animate_fps:.1f} [{row.animate_range_fps[0]:.1f}, "
            f"{row.animate_range_fps[1]:.1f}]",
            f"{row.gaussians:,}",
            f"{PAPER_SPEED[row.inputs][0]:.2f}" if row.inputs in PAPER_SPEED else "",
            f"{PAPER_SPEED[row.inputs][1]:.0f}" if row.inputs in PAPER_SPEED else "",
        )
        for row in rows
    ]
    return Table(
        f"Table 2, on {device}",
        ("inputs", "reconstruction, s", "animation, frames/s", "Gaussians",
         "s (paper, H800)", "frames/s (paper, H800)"),
        tuple(lines),
        ("Medians, with smallest and largest; cameras and expressions known, nothing read or "
         "written.",),
    )  # fmt: skip


def _by_method(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Return each method's results, one for each seed."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.method, []).append(result)
    return found


def _cell(results: Sequence[Result], metric: str) -> str:
    found = [r.figures[metric] for r in results if metric in r.figures]
    if not found or all(isnan(f.mean) for f in found):
        return "-" if results else ""
    digits = METRICS[metric].digits
    mean = sum(f.mean for f in found) / len(found)
    half = max(f.half for f in found)
    return f"{mean:.{digits}f} ±{half:.{digits}f}"


def _notes(results: Sequence[Result], protocol: Protocol, paper: bool) -> list[str]:
    notes = ["After ±: the longer half of the 95 % interval, by bootstrap over people."]
    unfair = {(result.method, mark): None for result in results for mark in result.marks}
    notes += [f"{MARK} {method}: {mark}." for method, mark in unfair]
    for result in results:
        lost = {name: f for name, f in result.figures.items() if f.failed}
        notes += [
            f"{result.method}: no face found in {f.failed} of {f.failed + f.count} pictures, "
            f"left out of {name}."
            for name, f in lost.items()
        ]
    missing: Mapping[str, str] = {k: v for r in results for k, v in r.missing.items()}
    notes += [f"{name}: not measured. {why}" for name, why in missing.items()]
    if paper and not protocol.paper:
        notes.append(
            "The paper's columns are of its own data and networks; they are not comparable with "
            "the measured ones beside them."
        )
    return notes


_TEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%_#{}$"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        # At the beginning of a row they would be taken for arguments of the line end before.
        **{sign: f"{{{sign}}}" for sign in "[*"},
        # A line end would end a comment.
        **{chr(i): " " for i in (*range(32), *range(127, 160), 0x2028, 0x2029)},
    }
)
_NUMBER = re.compile(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?( ±[0-9.]+)?|-")


def _tex(text: str) -> str:
    """Return what LaTeX prints as the text."""
    return text.translate(_TEX)


def _inert(cell: str) -> str:
    """Return a cell that spreadsheets do not take for a formula; numbers stay numbers."""
    formula = cell.lstrip().startswith(("=", "+", "-", "@")) or cell[:1] in ("\t", "\r", "\n")
    return f"'{cell}" if formula and not _NUMBER.fullmatch(cell) else cell
