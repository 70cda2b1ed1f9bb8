"""Which pictures a protocol chooses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, InputError
from pipeline.evaluate.protocol import names, read, selection_hash, tasks
from pipeline.shards.reader import Shard
from tests.conftest import LAYOUT
from tests.evaluate.toys import TOY


@pytest.mark.parametrize("name", names())
def test_every_protocol_is_whole_and_of_the_papers_size(name: str):
    protocol = read(name)
    assert protocol.name == name and protocol.note
    if protocol.dataset == "Ava-256":
        assert (len(protocol.subjects), protocol.targets, protocol.size) == (12, 1000, 512)
        assert (protocol.csim, protocol.akd) == ("arcface", "pipnet_98")
    if protocol.dataset == "NeRSemble":
        from pipeline.captures.splits import held_out_nersemble

        assert (len(protocol.subjects), protocol.targets) == (4, 600)
        assert all(held_out_nersemble(subject) for subject in protocol.subjects)


def test_the_hash_is_of_what_decides_and_of_nothing_else():
    assert TOY.hash == replace(TOY, name="other", note="words").hash
    for change in ({"seed": 1}, {"inputs": 3}, {"csim": "arcface"}, {"subjects": ("a",)}):
        assert TOY.hash != replace(TOY, **change).hash
    # Frozen: whoever changes what a published protocol measures must change these lines too.
    assert {name: read(name).hash for name in names()} == {
        "ava256-mixed": "106e0dfa5dca", "ava256-same": "6c36b53bd496",
        "ava256-one": "01e3304f6d6a", "nersemble-mixed": "e48eab726a65",
        "nersemble-one": "df09b5acfc7c", "nersemble-same": "9eeefeb71dc7",
        "synthetic-mixed": "c119aec5d1e5", "synthetic-one": "ca1da8fe644a",
        "synthetic-photos": "6589b7ea0030", "synthetic-same": "0fcd315d756a",
    }  # fmt: skip
    assert TOY.hash != replace(TOY, metrics=("PSNR",)).hash


@pytest.mark.parametrize("same", [False, True])
def test_targets_show_neither_a_camera_nor_an_expression_of_the_inputs(shards: Path, same: bool):
    protocol = replace(TOY, same_expression=same, avatars=2, targets=10)
    chosen = tasks(protocol, shards, LAYOUT)
    assert [(t.subject, t.avatar) for t in chosen] == [
        ("anna", 0), ("anna", 1), ("bert", 0), ("bert", 1)
    ]  # fmt: skip
    assert [len(t.targets) for t in chosen] == [3, 3, 2, 2]
    for task in chosen:
        times, views = map(set, zip(*task.inputs))
        assert len(times) == (1 if same else 2) and len(views) == 2
        for t, v in task.targets:
            assert t not in times and v not in views
    assert chosen == tasks(protocol, shards, None)
    other = tasks(replace(protocol, seed=1), shards, None)
    assert selection_hash(chosen) != selection_hash(other)


def test_the_first_input_is_the_most_frontal_camera(shards: Path):
    task = tasks(TOY, shards, None)[0]
    with Shard(task.shard) as shard:
        centers = shard.cameras(task.inputs[0][0]).centers
    ahead = centers[:, 2] / centers.norm(dim=-1)
    assert int(ahead.argmax()) == task.inputs[0][1]


def test_people_that_are_missing_are_all_named(shards: Path):
    with pytest.raises(InputError, match=r"none of the 2 people .*carl, dora"):
        tasks(replace(TOY, subjects=("carl", "dora")), shards, None)
    with pytest.raises(ConfigError, match="has codes of"):
        tasks(TOY, shards, "another layout")
    with pytest.raises(ConfigError, match="pictures of 64 pixels, toy wants 48"):
        tasks(replace(TOY, size=48), shards, None)
    with pytest.raises(InputError, match="needs 5"):
        tasks(replace(TOY, inputs=4), shards, None)
    with pytest.raises(ConfigError, match=r"no protocol ava.*ava256-same"):
        read("ava")
