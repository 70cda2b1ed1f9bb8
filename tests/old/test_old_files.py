"""Files of 0.1 are read, and mean what they meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.core.types import ExpressionCode
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.model.baked import Baked
from pipeline.model.checkpoint import load_model
from pipeline.shards.reader import Shard
from pipeline.tracking.track_file import read_track
from tests.conftest import blob_views

OLD = Path(__file__).parent
CLOSE = 3e-7
"""Metres, and parts of a colour: what another order of additions makes."""


def second_code(folder: Path) -> ExpressionCode:
    return read_sequence(folder / "sequence.npz", MAKEHUMAN).codes[1]


@pytest.mark.parametrize("era", ["shards-1", "shards-3"])
def test_an_avatar_moves_as_it_did(era: str):
    avatar = Avatar.load(OLD / era / "plain.avatar", "float32")
    moved = avatar.animate(second_code(OLD / era))
    with np.load(OLD / era / "expected.npz") as expected:
        assert np.abs(moved.means.numpy() - expected["means"]).max() < CLOSE
        colors = expected["colors"].clip(0, 1)
    assert np.abs(moved.colors.numpy() - colors).max() < CLOSE
    still = avatar.canonical.means
    assert float((moved.means - still).abs().max()) > 100 * CLOSE, "the code does nothing"


def test_a_guided_avatar_moves_as_it_did():
    avatar = Avatar.load(OLD / "shards-3" / "guided.avatar", "float32")
    moved = avatar.animate(second_code(OLD / "shards-3"))
    with np.load(OLD / "shards-3" / "expected_guided.npz") as expected:
        assert np.abs(moved.means.numpy() - expected["means"]).max() < CLOSE


def test_a_baked_avatar_is_near_the_network_that_it_was_made_of():
    light = Avatar.load(OLD / "shards-3" / "baked.avatar")
    assert isinstance(light.deformation, Baked)
    moved = light.animate(second_code(OLD / "shards-3"))
    assert len(moved.means) > 0 and bool(torch.isfinite(moved.means).all())


@pytest.mark.parametrize("era", ["shards-1", "shards-3"])
def test_a_checkpoint_makes_avatars(era: str):
    model, checkpoint = load_model(OLD / era / "checkpoint.safetensors", "float32")
    assert checkpoint.header["step"] == 7 and checkpoint.people == frozenset()
    made = Avatar.create(model, blob_views(2, 64), checkpoint.header["layout"], {})
    assert len(made.canonical) > 100


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_shard_is_whole_and_says_what_it_said(version: int):
    with Shard(OLD / f"shards-{version}" / "shard.h5") as shard:
        shard.verify()
        assert (shard.subject, shard.layout, shard.timesteps, shard.views) == (
            "anna", MAKEHUMAN, 1, 2,
        )  # fmt: skip
        pairs = [(0, 0), (0, 1)]
        ball = shard.read(pairs, 32).alpha > 0.5
        assert 2 * 200 < int(ball.sum()) < 2 * 300
        assert torch.allclose(shard.depth(pairs, 32)[ball], torch.tensor(0.95), atol=1e-4)
        assert shard.neutral is None or len(shard.neutral) == 0


def test_a_tracking_is_read_and_drives_an_avatar():
    track = read_track(OLD / "shards-3" / "track.npz")
    assert track.frames.tolist() == [0, 3] and track.fps == 25
    assert track.mesh().posed.shape == (2, *track.neutral.shape)
    sequence = read_sequence(OLD / "shards-3" / "track.npz", MAKEHUMAN)
    avatar = Avatar.load(OLD / "shards-3" / "plain.avatar")
    assert len(avatar.animate(sequence.codes[0]).means) == len(avatar.canonical)
