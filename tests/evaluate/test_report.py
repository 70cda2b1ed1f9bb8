"""Sheets of pictures, and the page."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from pipeline.evaluate import tables
from pipeline.evaluate.protocol import tasks
from pipeline.evaluate.report import Sheet, error_map, page
from pipeline.evaluate.run import measure, ours
from pipeline.model.fastgha import FastGHA
from tests.evaluate.toys import TOY, plain


def test_the_sheet_shows_inputs_head_drawing_error_and_truth(
    shards: Path, model: FastGHA, tmp_path: Path
):
    chosen, sheet = tasks(TOY, shards, None), Sheet()
    for name in ("one", "two"):
        measure(
            ours(model), name, TOY, chosen, metrics=plain(),
            show=lambda *a, name=name: sheet.show(name, model, *a),
        )  # fmt: skip
    sheet.write(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (8 * 32, 2 * 32)
    assert sheet.legend == "inputs, canonical head, one and its error, two and its error, truth"
    page(
        tmp_path / "r.html", "T & U", [tables.orderings([], 3)], [("A picture", tmp_path / "s.png")]
    )
    text = (tmp_path / "r.html").read_text()
    assert "T &amp; U" in text and "data:image/png;base64," in text and "http" not in text


def test_error_maps_are_dark_where_right_and_bright_where_wrong():
    truth = torch.zeros(1, 3, 2, 2)
    drawn = truth.clone()
    drawn[..., 1] = 0.3
    found = error_map(drawn, truth)
    assert float(found[..., 0].max()) < 0.05 and float(found[..., 1].mean()) > 0.6
