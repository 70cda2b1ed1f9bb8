"""Methods and baselines, measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.core.errors import StaleOutputError
from pipeline.core.types import View
from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.camera_errors import ERRORS
from pipeline.evaluate.protocol import tasks
from pipeline.evaluate.run import measure, ours, scene
from pipeline.faces.guide import Guide
from pipeline.model.activate import CanonicalHead
from pipeline.model.fastgha import FastGHA
from pipeline.shards.reader import Shard
from pipeline.train.presets import tiny
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


def test_a_model_is_measured_and_errors_of_its_cameras_change_it(shards: Path, model: FastGHA):
    chosen = tasks(TOY, shards, None)
    found = [
        measure(ours(model, error, level), "m", TOY, chosen, metrics=plain()).figures["PSNR"].mean
        for error, level in [(None, 0.0), (ERRORS[0], 0.0), *((error, 8.0) for error in ERRORS)]
    ]
    assert found[0] == found[1] and len(set(found)) == 1 + len(ERRORS)


def test_a_mesh_goes_with_errors_that_move_the_head_in_the_picture(shards: Path):
    """A guided model sees the guide of the wrong camera only where it sees the head otherwise."""
    torch.manual_seed(0)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    seen, _ = scene(tasks(TOY, shards, None)[0], TOY)
    true = seen.guide(net)
    taken: list[Guide | None] = []

    def watched(views: View, guide: Guide | None = None) -> CanonicalHead:
        taken.append(guide)
        return FastGHA.reconstruct(net, views, guide)

    net.reconstruct = watched  # pyright: ignore[reportAttributeAccessIssue]
    for error in ERRORS:
        ours(net, error, 8.0)(seen)
    assert true is not None and all(guide is not None for guide in taken)
    same = [torch.equal(guide.canonical, true.canonical) for guide in taken if guide is not None]
    assert same == [error.carries_mesh for error in ERRORS] == [True, False, False, True]


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
