"""What the pages say is so: commands and options exist, lists are complete, references are fresh.

That their blocks run is tested in test_guides.py.
"""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml
from typer.main import get_command

from fastgha_cli.app import app
from pipeline.shards.schema import FIELDS
from tests.docs.pages import GUIDES, INSTALLS, PAGES, ROOT, blocks
from tools import cli_reference

COMMANDS: Any = get_command(app)


def commands_of(page: str) -> list[list[str]]:
    """Every `fastgha` command line of a page, in blocks and in its text."""
    text = PAGES[page].read_text(encoding="utf-8")
    shown = [line for b in blocks(page) if b.kind == "sh" for line in b.lines()]
    shown += re.findall(r"`(fastgha [^`]+)`", text.replace("\n", " "))
    parts = [part for line in shown for part in re.split(r"\s&&\s|;\s", line)]
    words = [shlex.split(part, comments=True) for part in parts]
    return [line for line in words if line[:1] == ["fastgha"]]


def check(words: list[str]) -> None:
    """Follow a command line through the commands; its options must be there."""
    command: Any = COMMANDS
    for i, word in enumerate(words[1:], start=1):
        inner = getattr(command, "commands", {})
        if word not in inner:
            options = {name for p in command.params for name in (*p.opts, *p.secondary_opts)}
            given = {w.partition("=")[0] for w in words[i:] if re.match(r"--?[a-z]", w)}
            assert given - {"--help"} <= options, f"{shlex.join(words)}: no {given - options}"
            assert not inner or given, f"{shlex.join(words)}: no command {word}"
            return
        command = inner[word]


@pytest.mark.parametrize("page", GUIDES)
def test_every_command_line_has_commands_and_options_that_exist(page: str):
    for words in commands_of(page):
        check(words)


def test_a_wrong_option_would_be_seen():
    with pytest.raises(AssertionError, match="--colour"):
        check(["fastgha", "render", "me.avatar", "--colour", "red"])
    with pytest.raises(AssertionError, match="no command"):
        check(["fastgha", "prep", "everything"])
    assert sum(len(commands_of(page)) for page in PAGES) > 80


def test_a_block_that_cannot_run_says_why():
    for page in GUIDES:
        for block in blocks(page):
            if block.kind == "sh" and block.runs:
                strange = [x for x in block.lines() if not x.startswith(("fastgha ", INSTALLS))]
                assert not strange, f"{page}: mark the block as not run, or drop {strange}"


def test_extras_that_the_pages_install_are_there():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = set(extras["optional-dependencies"])
    named = [
        n
        for path in PAGES.values()
        for n in re.findall(r"'(?:fastgha|\.)\[([a-z,]+)\]'", path.read_text(encoding="utf-8"))
    ]
    assert len(named) > 8 and {n for names in named for n in names.split(",")} <= known


def test_what_python_blocks_import_from_the_package_is_there():
    import fastgha

    wanted = {
        name.strip()
        for page in PAGES
        for block in blocks(page)
        for names in re.findall(r"(?m)^from fastgha import (.+)$", block.text)
        for name in names.split(",")
    }
    assert wanted >= {"Avatar", "DEMO_SEQUENCE"}
    assert {name for name in wanted if not hasattr(fastgha, name)} == set()


def test_the_fields_of_a_shard_are_those_that_the_page_lists():
    text = PAGES["formats.md"].read_text(encoding="utf-8").split("<!-- fields -->\n")[1]
    rows = [line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines()[2:]]
    assert rows == [
        [f"`{name}`", f.dtype, f.shape, f.unit, str(f.since)] for name, f in FIELDS.items()
    ]


def test_the_reference_of_commands_is_that_of_the_commands():
    assert PAGES["cli.md"].read_text(encoding="utf-8") == cli_reference.reference(), (
        "run python tools/cli_reference.py"
    )


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text().replace("!!python/name:", "")
    named = set(re.findall(r"[a-z0-9_]+\.md", str(yaml.safe_load(text)["nav"])))
    assert named == set(PAGES) - {"README.md"}


def test_the_readme_is_short():
    lines = PAGES["README.md"].read_text(encoding="utf-8").splitlines()
    assert len(lines) < 150


def test_the_python_reference_has_every_name_of_the_package():
    text = PAGES["api.md"].read_text(encoding="utf-8")
    tree = ast.parse((ROOT / "fastgha.py").read_text(encoding="utf-8"))
    imported = [alias.asname for node in tree.body if isinstance(node, ast.ImportFrom)
                for alias in node.names]  # fmt: skip
    names = [*filter(None, imported), "DEMO_SEQUENCE"]
    assert len(names) > 25
    assert [name for name in names if not re.search(rf"fastgha\.{name}\b", text)] == []


def unsourced(text: str) -> list[str]:
    """Cells about other systems that name no source, or one that is not listed."""
    tables, sources = text.split("## Sources")
    listed = set(re.findall(r"(?m)^(\d+)\. |\b(\d[a-z]): ", sources))
    known = {a or b for a, b in listed}
    wrong: list[str] = []
    for line in tables.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|") or cells[0] in ("", "**fastgha**") or set(line) <= set("|- "):
            continue
        for cell in cells[1:]:
            found = re.findall(r"\[(\w+)\]", cell)
            plain = cell == "-" or cell.startswith("not stated")
            if not (found or plain) or not known.issuperset(found):
                wrong.append(f"{cells[0]}: {cell}")
    return wrong


def test_every_cell_about_another_system_has_its_source_and_the_page_its_date():
    text = PAGES["comparison.md"].read_text(encoding="utf-8")
    assert unsourced(text) == []
    assert re.search(r"(?m)^Updated 20\d\d-\d\d-\d\d\.", text)
    rows = "| LAM | yes |\n| LAM | yes [7z] |\n| LAM | yes [1] |\n## Sources\n1. x"
    assert unsourced(rows) == ["LAM: yes", "LAM: yes [7z]"]
    systems = ("FastGHA", "Avat3r", "UIKA", "FlexAvatar", "LAM", "GAGAvatar", "FastAvatar", "CAP4D")
    assert [name for name in systems if text.count(f"\n| {name}") < 3] == []
