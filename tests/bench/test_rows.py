"""What all benches share, and the tables that they print."""

from __future__ import annotations

import os
import string
from collections.abc import Iterable, Mapping
from importlib import import_module

import pytest
import torch

from pipeline.bench import avatar, counts, model, prep, render, track, train
from pipeline.bench.rows import alone, table, timed
from pipeline.model.config import ModelConfig
from pipeline.system.machine import machine, peak_mb


def test_a_cell_is_a_format_of_the_rows_fields():
    found = table("T", {"": "{name}", "n": "{n:,}"}, [{"name": "a", "n": 1234}], ["note"])
    assert (found.title, found.columns, found.rows) == ("T", ("", "n"), (("a", "1,234"),))
    assert found.notes == ("note",)


def test_times_are_told_by_their_median_and_spread():
    assert timed([3.0, 1.0, 10.0], 7.0) == {"ms": 3.0, "spread_ms": 9.0, "peak_mb": 7.0}


def test_work_alone_is_done_in_another_process():
    assert alone(os.getpid) != os.getpid()


def test_the_most_memory_is_in_megabytes():
    before = peak_mb()
    assert 50 < before < 1e6
    held = torch.ones(int(before + 64) * 250_000)  # so many MB
    assert peak_mb() - before > 40 and held[0] == 1


def test_the_machine_is_named():
    assert machine()["cpu"] and machine()["threads"] == torch.get_num_threads()
    assert machine()["torch"] == torch.__version__


def keys(kind: type) -> set[str]:
    found: set[str] = set()
    for base in (kind, *getattr(kind, "__orig_bases__", ())):
        found |= set(getattr(base, "__annotations__", {}))
    return found | set(getattr(kind, "__required_keys__", ()))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("avatar", avatar.Row), ("model", model.Row), ("prep", prep.Row), ("render", render.Row),
     ("track", track.Row)],
)  # fmt: skip
def test_every_column_names_fields_of_its_row(name: str, kind: type):
    columns: Mapping[str, str] = import_module(f"pipeline.bench.{name}").COLUMNS
    parsed: Iterable = (
        part for cell in columns.values() for part in string.Formatter().parse(cell)
    )
    wanted = {field for _, field, _, _ in parsed if field}
    assert wanted and wanted <= keys(kind)


def test_a_training_step_is_a_line_with_a_column_for_each_part():
    rows = [
        train.Row(variant=v, size=s, part=p, ms=ms, spread_ms=sp, peak_mb=512.4)
        for v, s in (("plain", 64), ("compile", 64), ("plain", 128))
        for p, ms, sp in (("data", 1.4, 9.0), ("step", s + 0.6, 3.2))
    ]
    found = train.show("tiny", rows, 9)
    assert found.title == "tiny: a training step, ms, median of 9 (spread)"
    assert found.columns == ("variant", "size", "data", "step", "peak MB", "waits for data")
    assert found.rows == (
        ("plain", "64", "1", "65 (3)", "512", "2%"),
        ("compile", "64", "1", "65 (3)", "512", "2%"),
        ("plain", "128", "1", "129 (3)", "512", "1%"),
    )
    about = machine()
    assert found.notes == (f"{about['cpu']}, {about['threads']} threads {about['gpu']}",)


def test_a_models_parts_are_a_table_for_each_number_of_views():
    rows = [
        counts.Count(part=part, inputs=v, parameters=1234567, trained=1000, flops=v * 4 * 10**9,
                     activations_mb=2.6)
        for v in (1, 2)
        for part in ("features", "decoder")
    ]  # fmt: skip
    one, two = counts.show("small", ModelConfig(image_size=256), rows, 2.0)
    assert one.title == "small, 1 views of 256x256"
    assert one.rows[0] == ("features", "1,234,567", "1,000", "4.0", "3")
    assert two.notes == ("2 views: at least 8.0 ms at 2 TFLOP/s",)
    assert counts.show("small", ModelConfig(image_size=256), rows)[0].notes == ()


def test_rows_are_printed_with_units_and_spreads():
    row = render.Row(
        backend="cpu", gaussians=65536, width=256, height=128, forward_ms=1.26, backward_ms=2.5,
        forward_spread_ms=0.34, backward_spread_ms=0.5, forward_best_ms=1, backward_best_ms=2,
        peak_mb=12.6, threads=2,
    )  # fmt: skip
    found = render.show([row], 9)
    assert found.title == "Milliseconds, median of 9 (spread), 2 threads"
    assert found.rows == (("cpu", "65,536", "256x128", "1.3 (0.3)", "2.5 (0.5)", "13"),)
    figures = prep.Figures(
        pictures=5, stages=[prep.Row(stage="crop", workers=2, images_per_s=1.234)],
        shard_views_per_s=99.6, raw_per_s=3.21,
    )  # fmt: skip
    shown = prep.show(figures)
    assert shown.rows == (("crop", "2", "1.23"),)
    assert shown.notes == ("shards: 100 views/s; raw pictures: 3.2/s",)
