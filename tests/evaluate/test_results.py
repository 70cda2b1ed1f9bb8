"""Results and kept figures as their files give them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.errors import ConfigError, FormatError
from pipeline.evaluate import protocol, results
from pipeline.evaluate.protocol import FOLDER, tasks
from pipeline.evaluate.run import measure
from pipeline.faces.layouts import MAKEHUMAN
from tests.evaluate.toys import TOY, plain, white

DAMAGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "text for a number": lambda d: d["figures"]["PSNR"].update(mean="x"),
    "a figure too many": lambda d: d["figures"]["PSNR"].update(x=1),
    "a figure of nothing": lambda d: d["figures"].update(PSNR=None),
    "figures in a list": lambda d: d.update(figures=[]),
    "no method": lambda d: d.pop("method"),
    "a method that is a number": lambda d: d.update(method=3),
    "subjects that are text": lambda d: d.update(subjects="all"),
    "another format": lambda d: d.update(format="x"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_result_is_refused(shards: Path, tmp_path: Path, name: str):
    chosen = tasks(TOY, shards, MAKEHUMAN)
    whole = measure(white, "white", TOY, chosen, metrics=plain()).to_json() | {"baselines": []}
    path = tmp_path / "r.json"
    path.write_text(json.dumps(whole))
    assert results.read(path).method == "white"
    whole = json.loads(path.read_text())
    DAMAGED[name](whole)
    path.write_text(json.dumps(whole))
    with pytest.raises(FormatError, match="not a result"):
        results.read(path)


@pytest.mark.parametrize(
    "text", [b"\xff", b"[[[[" * 9999, b"[]", b'{"PSNR": "x"}', b'{"PSNR": [1]}']
)
def test_damaged_figures_of_a_stopped_evaluation_are_measured_again(
    shards: Path, tmp_path: Path, text: bytes
):
    chosen = tasks(TOY, shards, MAKEHUMAN)
    first = measure(white, "white", TOY, chosen, metrics=plain(), out=tmp_path)
    (kept, *_) = tmp_path.glob("anna*.json")
    kept.write_bytes(text)
    assert measure(white, "white", TOY, chosen, metrics=plain(), out=tmp_path) == first


PROTOCOLS = {
    "avatars = 1": "avatars = 99999999", "inputs = 1": "inputs = 0", "seed = 0": "seed = -1",
    "size = 512": 'size = "512"', "targets = ": "targets = 0 #", "name = ": "name = 3 #",
    "subjects = [": "subjects = [3,", "seed = ": "seed = " + "9" * 5000 + " #",
    "note = ": "x = " + "[" * 3000 + "\nnote = ",
}  # fmt: skip


@pytest.mark.parametrize("old", PROTOCOLS)
def test_a_protocol_out_of_bounds_is_refused(tmp_path: Path, old: str):
    text = (FOLDER / "nersemble-one.toml").read_text()
    assert old in text
    path = tmp_path / "p.toml"
    path.write_text(text.replace(old, PROTOCOLS[old], 1))
    with pytest.raises((ConfigError, FormatError)) as caught:
        protocol.read(str(path))
    assert len(str(caught.value)) < 1000
