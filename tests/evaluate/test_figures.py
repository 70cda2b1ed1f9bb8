"""Quality against inputs and noise."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from pipeline.evaluate import figures
from pipeline.evaluate.candidate import Candidate
from pipeline.evaluate.protocol import tasks
from pipeline.model.fastgha import FastGHA
from pipeline.system.progress import silent
from tests.conftest import LAYOUT
from tests.evaluate.toys import TOY


def test_a_figure_is_drawn_with_its_numbers(shards: Path, model: FastGHA, tmp_path: Path):
    mine = Candidate(model, tasks(TOY, shards, LAYOUT), "", marks=("trained on them",))
    curves = figures.against_noise(mine, TOY, silent)
    assert [len(curve.results) for curve in curves] == [5] * 4
    worst = [curve.results[-1].figures["PSNR"].mean for curve in curves]
    assert len({curve.results[0].figures["PSNR"].mean for curve in curves} | set(worst)) == 5
    numbers = figures.table(14, curves)
    assert len(numbers.rows) == 20 and numbers.columns[2:5] == ("PSNR", "PSNR low", "PSNR high")
    assert numbers.title.endswith(" *") and numbers.notes == ("* The model was trained on them.",)
    figures.plot(14, curves, tmp_path / "f.png")
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 300
