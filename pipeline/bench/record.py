"""Records: all figures of one run on one machine, as JSON, to be kept and compared.

format, version     fastgha-bench, 1
made                day, ISO
program, commit     what was measured; commit is empty outside a checkout, and ends in + where
files had been changed
machine             cpu, threads, gpu, torch, platform
model               the checkpoint's SHA-256, its beginning
free                share of the processor that other programs left, 0 to 1, when each bench began;
                    the least of them
quick               whether it was a short run, which says nothing about speed
figures             name -> {value, unit, spread}
skipped             name -> why it was not measured
"""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pipeline.core.errors import ConfigError, FormatError
from pipeline.evaluate.tables import Table
from pipeline.system.files import digest, read_object, write_text
from pipeline.system.machine import machine
from pipeline.system.provenance import program

FORMAT, VERSION = "fastgha-bench", 1
HIGHER_IS_BETTER = ("1/s",)
"""Units of rates; of all others less is better."""
TOLERANCE = 0.10
"""Share by which a figure may be worse before it counts."""
IDLE = 0.9
"""Where less of the processor is free, figures are those of a busy machine."""


@dataclass(frozen=True)
class Figure:
    """One number."""

    value: float
    unit: str
    """ms, 1/s or MB."""
    spread: float = 0.0
    """Largest minus smallest of its repetitions; 0 where they are not known."""


@dataclass(frozen=True)
class Record:
    """What was measured, on what."""

    made: str
    program: str
    commit: str
    machine: Mapping[str, str]
    model: str
    free: float
    quick: bool
    figures: Mapping[str, Figure]
    skipped: Mapping[str, str]

    @property
    def benches(self) -> tuple[str, ...]:
        """Names of the benches that were measured, or could not be."""
        return (*dict.fromkeys(name.partition("/")[0] for name in self.figures), *self.skipped)

    def goes_on(self, begun: Record) -> bool:
        """Return whether a record is of the same program, machine, model and amount of work."""

        def facts(record: Record) -> tuple[object, ...]:
            return (
                record.program, record.commit, dict(record.machine), record.model, record.quick
            )  # fmt: skip

        return facts(self) == facts(begun)

    def with_bench(
        self, figures: Mapping[str, Figure], skipped: Mapping[str, str], free: float
    ) -> Record:
        """Return a record that has another bench."""
        return replace(
            self, free=min(self.free, free), figures={**self.figures, **figures},
            skipped={**self.skipped, **skipped},
        )  # fmt: skip

    def save(self, path: Path) -> None:
        """Write it whole."""
        values = {"format": FORMAT, "version": VERSION, **asdict(self)}
        text = json.dumps(values, indent=1, sort_keys=True) + "\n"
        write_text(path, text)


def new_record(checkpoint: Path, *, quick: bool) -> Record:
    """Return an empty record of this program, on this machine, today.

    Args:
        checkpoint: The model of the heads that are measured.
        quick: Whether figures count.
    """
    here = {name: str(value) for name, value in machine().items()}
    return Record(
        datetime.now(UTC).date().isoformat(), program(), _commit(),
        {**here, "platform": platform.platform()}, digest(checkpoint)[:12], 1.0, quick, {}, {},
    )  # fmt: skip


def read_record(path: Path) -> Record:
    """Read a record.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not a record, or of another version.
    """
    values = read_object(path, "a record of `fastgha bench all`")
    if values.pop("format", None) != FORMAT or values.pop("version", None) != VERSION:
        raise FormatError(f"{path} is not a record of version {VERSION}.", "Measure again.")
    try:
        figures = {
            str(name): Figure(float(f["value"]), str(f["unit"]), float(f["spread"]))
            for name, f in values["figures"].items()
        }
        values |= {"figures": figures, "free": float(values["free"])}
        record = Record(**values)
        numbers = [record.free, *(x for f in figures.values() for x in (f.value, f.spread))]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path} is damaged.", "Measure again.") from error
    return record


@dataclass(frozen=True)
class Change:
    """A figure of two records."""

    name: str
    before: Figure
    after: Figure

    @property
    def worse(self) -> float:
        """By which share it is worse; negative where it is better."""
        ratio = self.after.value / self.before.value if self.before.value else math.inf
        return 1 - ratio if self.before.unit in HIGHER_IS_BETTER else ratio - 1

    @property
    def noise(self) -> float:
        """Share that the repetitions of both runs are apart among themselves."""
        scale = abs(self.before.value) or 1.0
        return (self.before.spread + self.after.spread) / 2 / scale

    @property
    def counts(self) -> bool:
        """Whether it is worse by more than the tolerance and the noise."""
        return self.worse > max(TOLERANCE, self.noise)


def compare(before: Record, after: Record) -> list[Change]:
    """Return the figures that both have, the worst first.

    Raises:
        ConfigError: If they are of different machines, or one was a quick run.
    """
    differences = [k for k in before.machine if before.machine[k] != after.machine.get(k)]
    if differences:
        name = differences[0]
        raise ConfigError(
            f"The records are of different machines: {name} is {before.machine[name]!r} and "
            f"{after.machine.get(name)!r}.",
            "Measure both on one.",
        )
    if before.quick or after.quick:
        raise ConfigError("A quick run says nothing about speed.", "Measure without --quick.")
    shared = [n for n in before.figures if n in after.figures]
    changes = [Change(name, before.figures[name], after.figures[name]) for name in shared]
    return sorted(changes, key=lambda change: -change.worse)


def show(changes: list[Change], before: Record, after: Record) -> Table:
    """Return changes as they are printed; those that count are marked."""
    rows = tuple(
        (
            c.name,
            f"{c.before.value:.4g} {c.before.unit}",
            f"{c.after.value:.4g} {c.after.unit}",
            f"{-100 * c.worse:+.0f} %",
            "slower" if c.counts else "",
        )
        for c in changes
    )
    title = f"{before.commit or before.program} to {after.commit or after.program}"
    notes = [f"slower: by more than {TOLERANCE:.0%}, and than the runs' own spread."]
    notes += [f"{name}: {busy(r)}" for name, r in (("before", before), ("after", after)) if busy(r)]
    return Table(title, ("", "before", "after", "better by", ""), rows, tuple(notes))


def busy(record: Record) -> str:
    """Return the sentence that warns of figures of a busy machine; empty if it was idle."""
    if record.free >= IDLE:
        return ""
    return (
        f"other programs took up to {1 - record.free:.0%} of the processor meanwhile: "
        "it is slower here than it would be alone."
    )


def page(record: Record) -> str:
    """Return a record as the tables of a page, a table for each bench."""
    machine = record.machine
    where = f"{machine['cpu']}, {machine['threads']} threads"
    where += f", {machine['gpu']}" if machine.get("gpu") else ""
    lines = [
        f"Measured {record.made} on {where}, torch {machine['torch']}; {record.program}"
        f"{f', commit {record.commit}' if record.commit else ''}.",
    ]
    if record.quick:
        lines.append("\n**A quick run: it shows what is measured, not how fast anything is.**")
    if busy(record):
        lines.append(f"\n**Not of an idle machine: {busy(record)}**")
    for bench in dict.fromkeys(name.partition("/")[0] for name in record.figures):
        lines += [f"\n### {bench}\n", "| | median | spread |", "|---|---|---|"]
        for name, figure in record.figures.items():
            if name.partition("/")[0] == bench:
                spread = f"{figure.spread:.3g}" if figure.spread else ""
                label = name.partition("/")[2].replace("/", ", ")
                lines.append(f"| {label} | {figure.value:.4g} {figure.unit} | {spread} |")
    if record.skipped:
        lines += ["\n### Not measured\n"]
        lines += [f"- {name}: {why}" for name, why in record.skipped.items()]
    return "\n".join(lines) + "\n"


def _commit() -> str:
    """Return the commit of the checkout that this file is in; empty if it is in none."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return ""  # installed within somebody else's checkout
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
