"""Methods and baselines, measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import StaleOutputError
from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.protocol import tasks
from pipeline.evaluate.run import measure, ours, scene
from pipeline.model.fastgha import FastGHA
from pipeline.shards.reader import Shard
from tests.evaluate.toys import TOY, plain, white


def test_a_perfect_method_is_perfect_and_a_stopped_evaluation_goes_on(shards: Path, tmp_path: Path):
    chosen = tasks(TOY, shards, None)
    calls: list[str] = []

    def truth(seen):
        calls.append(seen.task.subject)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scene(seen.task, TOY)[1]

    with pytest.raises(KeyboardInterrupt):
        measure(truth, "truth", TOY, chosen, out=tmp_path, metrics=plain())
    found = measure(truth, "truth", TOY, chosen, out=tmp_path, metrics=plain())
    assert calls == ["anna", "bert", "bert"]
    assert found.figures["SSIM"].mean == pytest.approx(1, abs=1e-3)
    assert found.figures["PSNR"].mean > 60 and found.figures["PSNR"].count == 6
    with pytest.raises(StaleOutputError, match="another method"):
        measure(white, "white", TOY, chosen, out=tmp_path, metrics=plain())


def test_a_model_is_measured_and_noise_on_its_cameras_changes_it(shards: Path, model: FastGHA):
    chosen = tasks(TOY, shards, None)
    found = [
        measure(ours(model, noise), "m", TOY, chosen, metrics=plain()).figures["PSNR"].mean
        for noise in ((0.0, 0.0), (0.0, 0.0), (8.0, 0.0), (0.0, 80.0))
    ]
    assert found[0] == found[1] and len(set(found)) == 3


def test_baselines(shards: Path):
    chosen = tasks(TOY, shards, None)
    seen, _ = scene(chosen[0], TOY)
    drawn = nearest_input(seen.inputs, seen.camera)
    for i, center in enumerate(seen.camera.centers):
        cosines = torch.nn.functional.cosine_similarity(
            center[None], seen.inputs.camera.centers, dim=1
        )
        assert torch.equal(drawn[i], seen.inputs.image[int(cosines.argmax())])
    with Shard(shards / "anna.h5") as anna, Shard(shards / "bert.h5") as bert:
        one = mean_head(seen.camera, [bert])
        assert torch.equal(one, mean_head(seen.camera, [bert, bert]))
        assert not torch.equal(one, mean_head(seen.camera, [anna]))
    assert one.shape == drawn.shape and float(white_image(seen.camera).min()) == 1
