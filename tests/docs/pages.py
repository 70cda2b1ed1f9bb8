"""The pages' blocks: which they are, which of them run, and how small."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = {"README.md": ROOT / "README.md"} | {p.name: p for p in (ROOT / "docs").glob("*.md")}
OF_THE_EXPERIMENTS = "experiments.md"
"""A log of what was done; its commands are of their day."""
GUIDES = sorted(set(PAGES) - {OF_THE_EXPERIMENTS})
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<note>[^\n]*) -->\n)?"
    r"^(?P<indent> *)```(?P<kind>sh|python)\n(?P<text>.*?)^ *```$",
    re.DOTALL | re.MULTILINE,
)
INSTALLS = "pip install '.["
"""How a line begins that brings extras; the tests have all of them."""


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
