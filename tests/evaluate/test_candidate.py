"""Held out means held out, and several shards of one person are one person."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, InputError
from pipeline.evaluate.candidate import lacking, load_candidate
from pipeline.evaluate.experiments import (
    Ground,
    Request,
    choose_protocol,
    compare_methods,
    dataset_of,
    run,
)
from pipeline.evaluate.protocol import read, tasks
from pipeline.evaluate.run import MEAN_HEAD, measure
from pipeline.model.fastgha import FastGHA
from pipeline.shards.writer import write_shard
from pipeline.train.checkpoint import save
from tests.conftest import LAYOUT, toy_capture
from tests.evaluate.toys import TOY, plain, white


def checkpoint(folder: Path, model: FastGHA, **header: object) -> Path:
    path = folder / "tiny.safetensors"
    save(path, model, None, {"layout": LAYOUT, "step": 0, **header})
    return path


def test_people_seen_in_training_are_refused_or_marked(shards: Path, tmp_path: Path, model):
    path = checkpoint(tmp_path, model, people=["anna", "zoe"], held_out=["zoe"])
    with pytest.raises(ConfigError, match=r"trained on 1 of the 2 people: anna.*--allow-seen"):
        compare_methods(Ground(shards, TOY), path)
    report = compare_methods(Ground(shards, TOY, allow_seen=True), path)
    table = report.tables[0]
    assert [row[0] for row in table.rows][:2] == ["FastGHA (ours) *", "nearest input view"]
    assert "* FastGHA (ours): trained on 1 of the 2 people it is measured on." in table.notes
    assert any("1 people whom their data set holds out" in note for note in table.notes)
    assert "FastGHA (ours) *" in table.csv() and "trained on 1 of" in table.latex()
    assert load_candidate(checkpoint(tmp_path, model, people=["zoe"]), TOY, shards).marks == ()
    assert load_candidate(checkpoint(tmp_path, model), TOY, shards).marks == ()


def test_several_shards_of_one_person_are_one_person(tmp_path: Path):
    for name, subject in (("a-1", "anna"), ("a-2", "anna"), ("b", "bert")):
        write_shard(tmp_path / f"{name}.h5", replace(toy_capture(name), subject=subject), {})
    chosen = tasks(TOY, tmp_path, None)
    assert [(t.subject, t.avatar, t.shard.stem, len(t.targets)) for t in chosen] == [
        ("anna", 0, "a-1", 2), ("anna", 1, "a-2", 1), ("bert", 0, "b", 3),
    ]  # fmt: skip
    assert measure(white, "white", TOY, chosen, metrics=plain()).subjects == 2


def test_a_partial_test_set_is_measured_with_a_mark(shards: Path, tmp_path: Path, model):
    wanted = replace(TOY, subjects=("anna", "carl", "bert"))
    whole = {t.subject: t for t in tasks(replace(TOY, subjects=("anna", "bert")), shards, None)}
    some = tasks(wanted, shards, None)
    assert [t.subject for t in some] == ["anna", "bert"]
    assert [len(t.targets) for t in some] == [2, 2] and len(whole["anna"].targets) == 3
    assert "2 of the protocol's 3 people; without carl" in lacking(wanted, some)
    assert lacking(TOY, some) == ""
    table = compare_methods(Ground(shards, wanted), checkpoint(tmp_path, model)).tables[0]
    assert table.title.endswith("2 people, partial") and "without carl" in " ".join(table.notes)
    with pytest.raises(InputError, match=r"none of the 2 people .*dora, emil"):
        tasks(replace(TOY, subjects=("dora", "emil")), shards, None)


def test_fewer_targets_than_people_measure_some_of_them(shards: Path):
    few = replace(TOY, targets=1)
    assert [(t.subject, len(t.targets)) for t in tasks(few, shards, None)] == [("anna", 1)]


def test_a_lone_person_has_no_mean_head(shards: Path, tmp_path: Path, model):
    one = replace(TOY, subjects=("anna",))
    table = compare_methods(Ground(shards, one), checkpoint(tmp_path, model)).tables[0]
    assert MEAN_HEAD not in [row[0] for row in table.rows]
    assert any("nobody else" in note for note in table.notes)


def test_the_protocol_fits_the_shards(tmp_path: Path, shards: Path, model):
    assert choose_protocol(None, 1, "ava256") == read("ava256-same")
    assert choose_protocol(None, 6, "nersemble") == read("nersemble-one")
    assert choose_protocol(None, 3, "photos").name == "synthetic-mixed"
    assert choose_protocol("nersemble-one", 1, "ava256").name == "nersemble-one"
    person = replace(toy_capture("BDF920"), subject="BDF920", split="test")
    write_shard(tmp_path / "x.h5", person, {"stage": "prep", "config": {"source": "ava256"}})
    assert dataset_of(tmp_path) == "ava256" and dataset_of(shards) == ""
    request = Request(tmp_path, checkpoint(tmp_path, model), table=1, size=32, inputs=2, targets=24)
    table = run(request).tables[0]
    assert table.title.startswith("Table 1, protocol ava256-same, changed")
    assert "Protocol ava256-same, changed is for Ava-256; --protocol takes another." in table.notes
    assert any("1 of the protocol's 12 people" in note for note in table.notes)


def test_table_6_shows_the_other_methods_of_the_paper():
    from pipeline.evaluate.tables import paper_rows

    for name in ("nersemble-one", "synthetic-one", "ava256-one"):
        assert {"GAGAvatar", "LAM"} <= set(paper_rows(read(name), 6))
