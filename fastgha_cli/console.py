"""Talking to the user: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as Grid
from rich.text import Text

if TYPE_CHECKING:
    from pipeline.evaluate.tables import Table

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters, line ends, changes of the direction of writing, and what is no character."""


def fail(problem: str, remedy: str) -> None:
    """Print an error: what is wrong, and what to do."""
    err.print(Text.assemble(("error:", "bold red"), " ", _plain(problem, "")))
    err.print(Text.assemble("  ", ("try:", "bold"), " ", _plain(remedy, "")))


def say(message: str) -> None:
    """Print a remark for the user."""
    err.print(_plain(message))


def consent() -> None:
    """Remind the user, in one line, of the person who is shown."""
    say("Only make and show avatars of people who agreed to it.")


def result(message: str) -> None:
    """Print a result."""
    out.print(_plain(message))


@contextmanager
def progress(title: str) -> Generator[Callable[[int, int], None]]:
    """Show a bar while a step runs; gives the function that moves it."""
    columns = (
        TextColumn("{task.description:<28}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as bar:
        task = bar.add_task(str(_plain(title, "")), total=None)

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tick


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; numbers to the right."""
    drawn = Grid(title=_plain(title))
    for i, column in enumerate(columns):
        drawn.add_column(_plain(column), justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        drawn.add_row(*(_plain(cell) for cell in row))
    out.print(drawn)


def tables(found: Iterable[Table]) -> None:
    """Print tables, and the notes of each after it."""
    for one in found:
        for part in one.parts():
            table(part.title, part.columns, part.rows)
        for note in one.notes:
            say(note)


def write_json(path: Path | None, value: Mapping[str, object]) -> None:
    """Write figures as JSON if the user asked for them; `-` is stdout."""
    if path is None:
        return
    text = json.dumps(value, indent=1, sort_keys=True) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    from pipeline.system.files import write_text

    write_text(path, text)
    say(f"wrote {path}")


def _plain(text: str, keep: str = "\n\t") -> Text:
    """Return text that is shown as it is: no markup, and escapes for what a terminal would obey.

    Names of files may hold anything: brackets, line ends, commands for the terminal, no text.
    """
    return Text(_UNSAFE.sub(lambda c: c[0] if c[0] in keep else ascii(c[0])[1:-1], text))
