"""What the pages show works: blocks run as they stand, or say why not; the rest is compared.

A shell block runs unless the comment before it says `not run: ...`. `tested with: `a` -> `b`; ...`
makes it small enough for a test.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.expressions.sequences import Sequence, read_sequence, write_sequence
from pipeline.model.fastgha import FastGHA
from pipeline.shards.schema import FIELDS
from pipeline.system.assets import SEQUENCE
from pipeline.train import checkpoint as checkpoints
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT
from tools import cli_reference

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": ROOT / "README.md"} | {p.name: p for p in (ROOT / "docs").glob("*.md")}
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>sh|python)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
COMMANDS: Any = get_command(app)
OF_THE_EXPERIMENTS = "experiments.md"
"""A log of what was done; its commands are of their day."""


@dataclass(frozen=True)
class Block:
    kind: str
    note: str
    text: str

    @property
    def runs(self) -> bool:
        return not self.note.startswith("not run: ")

    def lines(self) -> list[str]:
        """Its lines without comments, as short as a test needs them."""
        whole = self.text.replace("\\\n", " ")
        for old, new in re.findall(r"`([^`]+)` -> `([^`]+)`", self.note):
            assert old in whole, f"there is no {old!r} in the block to make smaller"
            whole = whole.replace(old, new)
        return [line for line in whole.splitlines() if line.split("#")[0].strip()]


def blocks(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    return [
        Block(m["kind"], m["note"] or "", re.sub(rf"(?m)^{m['indent']}", "", m["text"]))
        for m in BLOCK.finditer(text)
    ]


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


@pytest.mark.parametrize("page", sorted(set(PAGES) - {OF_THE_EXPERIMENTS}))
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
    for page in set(PAGES) - {OF_THE_EXPERIMENTS}:
        for block in blocks(page):
            if block.kind == "sh" and block.runs:
                strange = [x for x in block.lines() if not x.startswith("fastgha ")]
                assert not strange, f"{page}: mark the block as not run, or drop {strange}"


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with an untrained tiny model and a sequence of three frames."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = FastGHA(tiny(), "float32")
    torch.nn.init.normal_(model.deformation.out.weight, std=0.005)
    header = {"layout": LAYOUT, "step": 1}
    (tmp_path / "run").mkdir()
    checkpoints.save(tmp_path / "run" / "step-00000001.safetensors", model, None, header)
    (tmp_path / "demo_out").mkdir()
    codes = read_sequence(SEQUENCE, LAYOUT).codes[:3]
    write_sequence(tmp_path / "demo_out" / "talk.npz", Sequence(codes, 25.0))
    return tmp_path


def run(page: str) -> int:
    """Run the blocks of a page in their order; return how many commands ran."""
    done = 0
    for block in blocks(page):
        if not block.runs:
            continue
        if block.kind == "python":
            exec(compile(block.text, page, "exec"), {"__name__": "page"})
            continue
        for line in block.lines():
            result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            assert result.exit_code == 0, f"{line}\n{result.output}"
            done += 1
    return done


def test_the_first_steps_run(folder: Path):
    assert run("start.md") == 6
    assert (folder / "site" / "index.html").exists() and (folder / "talk.mp4").exists()


def test_training_without_data_runs(folder: Path):
    assert run("training.md") == 5
    assert (folder / "report" / "report.html").exists()


def test_the_format_of_a_sequence_is_read(folder: Path):
    run("formats.md")
    sequence = read_sequence(folder / "smile.npz", LAYOUT)
    assert len(sequence) == 25 and sequence.fps == 25
    rotations = sequence.codes.values[0, 100:118].reshape(3, 2, 3)
    assert np.allclose(rotations, np.eye(3)[:2])


def test_sharing_runs(folder: Path):
    from pipeline.avatar.avatar import Avatar
    from tests.conftest import blob_views, plain

    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    Avatar.create(model, blob_views(2, 64), LAYOUT, {}).save(folder / "demo_out" / "head.avatar")
    run("hub.md")
    assert (folder / "shared" / "model" / "README.md").exists()


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
