"""Quality against inputs and noise."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipeline.evaluate import figures
from pipeline.model.fastgha import FastGHA
from tests.conftest import LAYOUT
from tests.evaluate.toys import TOY


def test_a_figure_is_drawn_with_its_numbers(shards: Path, model: FastGHA, tmp_path: Path):
    curves = figures.against_noise(model, TOY, shards, LAYOUT, "")
    assert [len(curve.results) for curve in curves] == [5, 5]
    numbers = figures.table(14, curves)
    assert len(numbers.rows) == 10 and numbers.columns[2:5] == ("PSNR", "PSNR low", "PSNR high")
    figures.plot(14, curves, tmp_path / "f.png")
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 300
