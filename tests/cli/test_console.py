"""What reaches the terminal of names that anybody may have given."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from fastgha_cli import console
from pipeline.core.errors import InputError

NAMES = [
    "x\\[/].jpg",
    "[/]",
    "[bold]x",
    "a\\",
    "[link=http://x]y[/link]",
    ":smile:.jpg",
    "a\\[b\\\\[c",
]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Everything that is printed, without styles."""
    shown = io.StringIO()
    for name in ("out", "err"):
        plain = Console(file=shown, highlight=False, soft_wrap=True, color_system=None, width=300)
        monkeypatch.setattr(console, name, plain)
    return shown


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is(name: str, terminal: io.StringIO):
    console.fail(f"{name} is missing.", f"Give {name}.")
    console.say(name)
    console.result(name)
    console.table(name, ["", name], [["a", name]])
    lines = terminal.getvalue().splitlines()
    assert lines[:2] == [f"error: {name} is missing.", f"  try: Give {name}."]
    assert lines[2:4] == [name, name]
    assert "\n".join(lines[4:]).count(name) == 3


@pytest.mark.parametrize(
    ("sign", "shown"),
    [
        ("\n", r"\n"),
        ("\r", r"\r"),
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("\u2028", r"\u2028"),
        ("\u202egpj", r"\u202egpj"),
        ("\udce9", r"\udce9"),
        ("\x00", r"\x00"),
    ],
)
def test_an_error_is_two_lines_whatever_a_name_holds(sign: str, shown: str, terminal: io.StringIO):
    console.fail(f"a{sign}b is missing.", f"Give a{sign}b.")
    expected = f"error: a{shown}b is missing.\n  try: Give a{shown}b.\n"
    assert terminal.getvalue() == expected


def test_no_command_for_the_terminal_gets_through_in_remarks_tables_and_bars(
    terminal: io.StringIO,
):
    bad = "a\x1b[2J\udce9"
    console.say(f"{bad}\nsecond line")
    console.result(bad)
    console.table(bad, ["", bad], [["a", bad]])
    with console.progress(bad) as tick:
        tick(1, 1)
    said = terminal.getvalue()
    assert "\x1b" not in said and said.count(r"a\x1b[2J\udce9") >= 5
    assert "\nsecond line\n" in said
    said.encode()


def test_an_error_stays_short_whatever_a_file_holds(terminal: io.StringIO):
    error = InputError(
        f"a.frame says {'x' * 100_000} where a number belongs.", "Give " + "y" * 9999
    )
    console.fail(error.problem, error.remedy)
    shown = terminal.getvalue()
    assert len(shown) < 2000 and len(shown.splitlines()) == 2
    assert "a.frame says" in shown and "where a number belongs." in shown
