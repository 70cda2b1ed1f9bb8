"""Write docs/cli.md, the reference of all commands, from the commands themselves.

python tools/cli_reference.py
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from fastgha_cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
KINDS = {Path: "PATH", int: "INTEGER", float: "NUMBER", str: "TEXT"}
HEAD = """# Command line

Made from the commands by `python tools/cli_reference.py`. Results go to stdout, talk to stderr.
Exit codes: 0; 1 for a fault that you can mend, said in two lines; 2 for a wrong command line; 130
and 143 after Ctrl-C and SIGTERM.
"""


def main() -> None:
    """Write the page."""
    PAGE.write_text(reference(), encoding="utf-8")


def reference() -> str:
    """Return the page."""
    return "\n".join([HEAD, *(section(name, one) for name, one in commands())])


def commands(command: Any = None, name: str = "fastgha") -> Iterator[tuple[str, Any]]:
    """Give each command that does something, with its whole name, in the order of --help."""
    command = command or get_command(app)
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, one in inner.items():
        yield from commands(one, f"{name} {word}")


def section(name: str, command: Any) -> str:
    """Return what the reference says of a command."""
    words, options = [], []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        if parameter.param_type_name == "argument":
            words.append(parameter)
        else:
            options.append(parameter)
    usage = " ".join([name, *(_placeholder(word) for word in words)])
    parts = [
        f"## {name}\n",
        _plain(command.help),
        f"\n```text\n{usage}{' [options]' * bool(options)}\n```\n",
    ]
    if words or options:
        parts.append("| | | if left out |\n|---|---|---|")
        parts += [_row(f"`{_placeholder(word).strip('[]')}`", word) for word in words]
        parts += [_row(_names(option), option) for option in options]
        parts.append("")
    if command.epilog:
        lines = re.sub(r"^Example:\s*", "", _plain(command.epilog)).split(";  ")
        parts.append("\n".join(f"Example: `{line.strip()}`  " for line in lines).rstrip() + "\n")
    return "\n".join(parts)


def _placeholder(argument: Any) -> str:
    name = (argument.metavar or argument.name or "").upper().strip("[]").removesuffix("...")
    name += "..." * (argument.nargs == -1)
    return name if argument.required else f"[{name}]"


def _names(option: Any) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.is_flag:
        return names
    kind = KINDS.get(option.type_descriptor.annotation, "")
    return f"{names} {_cell(option.metavar or kind)}".rstrip()


def _row(name: str, parameter: Any) -> str:
    value = parameter.default
    if (
        callable(value)
        or value is None
        or value is False
        or parameter.required
        or value in ((), "")
    ):
        shown = ""
    else:
        shown = f"`{value}`"
    return f"| {name} | {_cell(_plain(parameter.help))} | {shown} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str | None) -> str:
    lines = inspect.cleandoc(text or "").split("\n\n")
    return "\n\n".join(" ".join(line.split()) for line in lines)


if __name__ == "__main__":
    main()
