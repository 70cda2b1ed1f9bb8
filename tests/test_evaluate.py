from pathlib import Path

import pytest
import torch

from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.run import EvalConfig, held_out
from pipeline.shards.reader import Shard

CONFIG = EvalConfig(inputs=2, size=32)


def test_targets_are_from_cameras_and_of_an_expression_that_no_input_shows(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        for k in range(6):
            sample = held_out(shard, CONFIG, k)
            assert not set(sample.target_views) & set(sample.input_views)
            assert len(sample.target_views) == shard.views - 2 == len(sample.targets)
            time = next(
                t for t in range(4) if torch.equal(shard.code(t).values, sample.code.values)
            )
            truth = shard.read([(time, v) for v in sample.target_views], 32)
            assert torch.equal(truth.image, sample.targets.image)
            assert torch.equal(truth.camera.centers, sample.targets.camera.centers)


def test_a_sample_is_the_same_each_time_and_another_for_each_number(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        a, b, c = (held_out(shard, CONFIG, k) for k in (0, 0, 1))
    assert torch.equal(a.inputs.image, b.inputs.image) and a.input_views == b.input_views
    assert not torch.equal(a.inputs.camera.centers, c.inputs.camera.centers)


def test_the_nearest_input_is_by_direction(shards: Path):
    with Shard(shards / "anna.h5") as shard:
        sample = held_out(shard, CONFIG, 0)
    drawn = nearest_input(sample)
    for i, center in enumerate(sample.targets.camera.centers):
        cosines = torch.nn.functional.cosine_similarity(
            center[None], sample.inputs.camera.centers, dim=1
        )
        assert torch.equal(drawn[i], sample.inputs.image[int(cosines.argmax())])


def test_the_mean_head_is_of_other_people(shards: Path):
    with Shard(shards / "anna.h5") as anna, Shard(shards / "bert.h5") as bert:
        sample = held_out(anna, CONFIG, 0)
        one = mean_head(sample, [bert])
        assert torch.equal(one, mean_head(sample, [bert, bert]))
        assert not torch.equal(one, mean_head(sample, [anna]))
    assert one.shape == sample.targets.image.shape
    assert float(white_image(sample).min()) == 1.0 == pytest.approx(float(one.max()), abs=0.02)
