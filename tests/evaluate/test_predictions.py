"""Other methods under the same protocol."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError
from pipeline.evaluate.predictions import export_targets, place, read_predictions
from pipeline.evaluate.protocol import tasks
from pipeline.evaluate.run import measure, scene
from tests.conftest import LAYOUT
from tests.evaluate.toys import TOY, plain, white


def test_other_methods_get_what_they_need_and_are_measured_alike(shards: Path, tmp_path: Path):
    chosen = tasks(TOY, shards, None)
    listing = json.loads(export_targets(TOY, chosen, tmp_path / "t").read_text())
    assert listing["protocol_hash"] == TOY.hash and len(listing["avatars"]) == 2
    first = listing["avatars"][0]
    seen, truth = scene(chosen[0], TOY)
    assert np.allclose(first["targets"][1]["K"], seen.camera.K[1])
    assert len(first["inputs"][0]["code"]) == 120 and first["layout"] == LAYOUT
    with Image.open(tmp_path / "t" / first["inputs"][0]["picture"]) as picture:
        assert picture.size == (32, 32)
    for task in chosen:
        for i, image in enumerate(scene(task, TOY)[1]):
            path = tmp_path / "drawn" / place(task) / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(path)
    method = read_predictions(tmp_path / "drawn", TOY, chosen)
    assert measure(method, "theirs", TOY, chosen, metrics=plain()).figures["PSNR"].mean > 50
    Image.new("RGB", (16, 32)).save(path)
    with pytest.raises(InputError, match=rf"{path.name} \(16x32\)"):
        read_predictions(tmp_path / "drawn", TOY, chosen)
    path.unlink()
    with pytest.raises(InputError, match="lacks 1 of 6 pictures"):
        read_predictions(tmp_path / "drawn", TOY, chosen)
    assert truth.shape[0] == 3


def test_a_subject_that_leads_elsewhere_writes_and_reads_nothing(shards: Path, tmp_path: Path):
    chosen = [replace(tasks(TOY, shards, None)[0], subject="../../escape")]
    out = tmp_path / "a" / "b"
    out.mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be a file's name"):
        export_targets(TOY, chosen, out)
    with pytest.raises(InputError, match="cannot be a file's name"):
        read_predictions(out, TOY, chosen)
    with pytest.raises(InputError, match="cannot be a file's name"):
        measure(white, "white", TOY, chosen, out=out, metrics=plain())
    assert {path.name for path in tmp_path.rglob("*")} <= {"a", "b", "evaluation.json"}
