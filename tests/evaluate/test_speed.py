"""How long a model takes."""

from __future__ import annotations

from pipeline.evaluate import tables
from pipeline.evaluate.speed import Speed, speed
from pipeline.model.fastgha import FastGHA
from tests.conftest import LAYOUT, blob_views


def test_speed_is_measured_for_each_number_of_inputs(model: FastGHA):
    rows = speed(model, blob_views(3, 64), LAYOUT, inputs=(2, 3), repeats=2, frames=2)
    assert [row.inputs for row in rows] == [2, 3]
    assert all(row.reconstruct_s > 0 and row.animate_fps > 0 for row in rows)
    table = tables.speeds([Speed(2, 0.5, (0.4, 0.6), 30.0, (29, 31), 1000)], "this")
    assert table.rows[0] == ("2", "0.50 [0.40, 0.60]", "30.0 [29.0, 31.0]", "1,000", "0.68", "128")
