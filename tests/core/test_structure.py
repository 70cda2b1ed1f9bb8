"""Every import runs down, none in a circle, and nothing lies loose."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = (
    ("core",),
    ("system",),
    ("io",),
    ("render", "losses"),
    ("faces",),
    ("perception", "synthetic", "shards"),
    ("captures", "tracking", "model"),
    ("expressions", "prep", "train"),
    ("avatar",),
    ("evaluate",),
    ("apps", "bench"),
)
"""Lowest first. A part imports from layers below its own, and within itself; not its neighbours."""
HEIGHT = {part: height for height, layer in enumerate(LAYERS) for part in layer}
LOOSE = {"__init__", "losses"}

Graph = dict[str, set[str]]


def name_of(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def imports(root: Path) -> Graph:
    """Each module of `pipeline` with the names it imports, in functions and for types too."""
    paths = {name_of(path, root): path for path in (root / "pipeline").rglob("*.py")}
    graph: Graph = {}
    for name, path in paths.items():
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                found.update(w if w in paths else node.module for w in whole)
    return graph


def wrong_arrows(graph: Graph) -> list[str]:
    """Imports that do not run down."""
    wrong: list[str] = []
    for name, targets in graph.items():
        for target in sorted(targets):
            top, _, rest = target.partition(".")
            if top in ("fastgha", "fastgha_cli"):
                wrong.append(f"{name} -> {target}")
            if top != "pipeline" or name == "pipeline":
                continue
            mine, theirs = name.split(".")[1], rest.partition(".")[0]
            if mine != theirs and HEIGHT[mine] <= HEIGHT.get(theirs, 99):
                wrong.append(f"{name} -> {target}")
    return wrong


def circle(graph: Graph) -> list[str]:
    """The modules of one circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            found = visit(target, [*trail, name])
            if found:
                return found
        done.add(name)
        return []

    for start in sorted(graph):
        found = visit(start, [])
        if found:
            return found
    return []


def tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / "pipeline" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_imports_run_down():
    assert wrong_arrows(imports(ROOT)) == []


def test_no_module_imports_itself_on_a_detour():
    assert circle(imports(ROOT)) == []


def test_nothing_lies_loose_and_every_folder_has_its_layer():
    assert {path.stem for path in (ROOT / "pipeline").glob("*.py")} == LOOSE
    folders = {path.parts[-2] for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert folders == set(HEIGHT) - LOOSE


def test_the_page_of_the_architecture_knows_every_folder():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [part for part in HEIGHT if f"`{part}" not in page] == []


@pytest.mark.parametrize(
    "line",
    ["from pipeline.train.loop import train", "def f():\n    import pipeline.prep.run",
     "from fastgha_cli import app", "from pipeline import train",
     "from pipeline.io.ply import read"],
)  # fmt: skip
def test_an_arrow_that_runs_up_is_found(tmp_path: Path, line: str):
    files = {"io/ply.py": "", "train/__init__.py": "", "train/loop.py": "", "system/files.py": line}
    assert len(wrong_arrows(imports(tree(tmp_path, files)))) == 1
    files["system/files.py"] = "from pipeline.core.types import Camera"
    assert wrong_arrows(imports(tree(tmp_path, files))) == []


def test_a_circle_is_found(tmp_path: Path):
    files = {
        "io/__init__.py": "",
        "io/a.py": "from pipeline.io import b",
        "io/b.py": "from pipeline.io.c import x",
        "io/c.py": "def f():\n    from pipeline.io.a import y",
    }
    assert circle(imports(tree(tmp_path, files))) == [f"pipeline.io.{x}" for x in "abca"]
