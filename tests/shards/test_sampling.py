"""Which timesteps and cameras a sample is drawn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.shards.reader import Shard
from pipeline.shards.sampling import SamplingConfig, draw, frontal
from pipeline.shards.writer import write_shard
from tests.conftest import toy_capture

SAMPLING = SamplingConfig(inputs=2, min_inputs=2, targets=3)
DRAWS = 30


def timestep_of_code(shard: Shard, code: torch.Tensor) -> int:
    (found,) = [t for t in range(shard.timesteps) if torch.equal(shard.code(t).values, code)]
    return found


def timestep_of_camera(shard: Shard, center: torch.Tensor) -> int:
    """Every timestep of the toy capture has cameras of its own."""
    distances = [
        float((shard.cameras(t).centers - center).norm(dim=-1).min())
        for t in range(shard.timesteps)
    ]
    return int(np.argmin(distances))


def test_inputs_and_targets_are_of_one_sentence(tmp_path: Path):
    sentences = np.array([7, 8, 7, 8, 7, 8], np.int32)
    capture = replace(toy_capture("carl", size=16, timesteps=6), sentence=sentences)
    path = tmp_path / "carl.h5"
    write_shard(path, capture, {})
    drawn: set[int] = set()
    with Shard(path) as shard:
        for seed in range(DRAWS):
            sample = draw(shard, SAMPLING, 16, np.random.default_rng(seed))
            times = {timestep_of_code(shard, sample.code.values)}
            times |= {timestep_of_camera(shard, c) for c in sample.inputs.camera.centers}
            assert len(times) == 3
            (sentence,) = {int(sentences[t]) for t in times}
            drawn.add(sentence)
    assert drawn == {7, 8}


def test_a_sample_shows_only_the_cameras_before_the_face(tmp_path: Path):
    path = tmp_path / "dora.h5"
    write_shard(path, toy_capture("dora", size=16, timesteps=4, views=8), {})
    few = replace(SAMPLING, frontal=4)
    with Shard(path) as shard:
        for seed in range(DRAWS):
            sample = draw(shard, few, 16, np.random.default_rng(seed))
            target = timestep_of_code(shard, sample.code.values)
            ahead = frontal(shard.cameras(target).centers, np.arange(8), 4).tolist()
            assert set(sample.target_views) <= set(ahead)
            assert set(sample.input_views) <= set(sample.target_views)


def test_inputs_look_from_one_side_in_a_share_of_the_samples(tmp_path: Path):
    path = tmp_path / "emil.h5"
    write_shard(path, toy_capture("emil", size=16, timesteps=4, views=8), {})

    def spread(config: SamplingConfig, seed: int) -> float:
        sample = draw(shard, config, 16, np.random.default_rng(seed))
        ways = torch.nn.functional.normalize(sample.inputs.camera.centers, dim=1)
        return float((ways @ ways.T).min())

    with Shard(path) as shard:
        apart, beside, some = (
            np.array([spread(replace(SAMPLING, beside=share), seed) for seed in range(DRAWS)])
            for share in (0.0, 1.0, 0.5)
        )
    assert np.median(beside) > 0.95 > np.median(apart)
    assert apart.mean() + 0.02 < some.mean() < beside.mean() - 0.02


def test_what_looks_from_behind_is_a_target_and_no_input(tmp_path: Path):
    capture = toy_capture("fay", size=16, timesteps=4, views=6)
    # Half a turn of the head frame: x and z change their signs.
    turned = capture.world_to_camera.copy()
    turned[:, 3:] = turned[:, 3:] @ np.diag([-1, 1, -1, 1]).astype(np.float32)
    path = tmp_path / "fay.h5"
    write_shard(path, replace(capture, world_to_camera=turned), {})
    targets: set[int] = set()
    with Shard(path) as shard:
        behind = {int(v) for v in np.flatnonzero(shard.cameras(0).centers[:, 2] < 0)}
        assert behind == {3, 4, 5}
        for seed in range(DRAWS):
            sample = draw(shard, replace(SAMPLING, targets=5), 16, np.random.default_rng(seed))
            assert behind.isdisjoint(sample.input_views)
            targets |= set(sample.target_views)
    assert behind <= targets
