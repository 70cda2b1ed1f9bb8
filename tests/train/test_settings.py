"""Ways to carry out a run: each gives the same training within a stated tolerance."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import ConfigError, InputError, TrainingError
from pipeline.core.geometry import jitter
from pipeline.model.fastgha import FastGHA
from pipeline.model.rerun import rerun_backward
from pipeline.shards.reader import Shard, by_person, find_shards
from pipeline.shards.sampling import (
    ResolutionSchedule,
    Samples,
    SamplingConfig,
    draw,
    frontal,
    load_samples,
)
from pipeline.shards.writer import write_shard
from pipeline.train.config import RunConfig
from pipeline.train.loop import alike, train
from pipeline.train.presets import recipe
from tests.conftest import blob_views, dome, toy_capture

CONFIG = replace(recipe("tiny"), sizes=(64,), steps=(3,))
RUN = RunConfig(workers=0, precision="float32")
TERMS = ("rgb", "ssim", "silhouette", "depth", "gradient")


def people(folder: Path) -> list[tuple[Path, ...]]:
    return list(by_person(find_shards(folder)).values())


def curve(run: Path) -> np.ndarray:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return np.array([[line[term] for term in TERMS] for line in lines])


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    run = tmp_path_factory.mktemp("plain")
    train(shards, run, CONFIG, RUN)
    return curve(run)


@pytest.mark.parametrize(
    ("setting", "value", "tolerance"),
    [
        ("channels_last", False, 1e-4),
        ("fused_attention", False, 1e-4),
        ("gradient_checkpointing", True, 1e-6),
        ("precision", "bfloat16", 0.1),
    ],
)
def test_a_setting_changes_no_more_than_rounding(
    shards: Path, tmp_path: Path, plain: np.ndarray, setting, value, tolerance
):
    train(shards, tmp_path, CONFIG, replace(RUN, **{setting: value}))
    np.testing.assert_allclose(curve(tmp_path), plain, rtol=tolerance)


def test_samples_in_one_pass_give_the_same_training(shards: Path, tmp_path: Path):
    curves = []
    for together in (1, 3):
        config, run = replace(CONFIG, batch=3, steps=(2,)), replace(RUN, together=together)
        train(shards, tmp_path / str(together), config, run)
        curves.append(curve(tmp_path / str(together)))
    np.testing.assert_allclose(curves[1], curves[0], rtol=1e-4)


def test_samples_share_a_pass_in_their_order_and_only_with_as_many_inputs(shards: Path):
    sampling = SamplingConfig(inputs=3, min_inputs=1, targets=2)
    samples = Samples([people(shards)], sampling, ResolutionSchedule((16,), (9,)), 3)
    drawn = list(load_samples(samples, 0, 0))
    counts = [[len(sample.inputs) for sample in some] for some in alike(drawn, 2)]
    assert sum(counts, []) == [len(sample.inputs) for sample in drawn]
    assert all(len(set(some)) == 1 and len(some) <= 2 for some in counts)
    assert max(map(len, counts)) == 2 and min(map(len, counts)) == 1


def test_samples_of_a_step_have_as_many_inputs_so_that_they_can_share_a_pass(shards: Path):
    sampling = SamplingConfig(inputs=3, min_inputs=1, targets=2)
    samples = Samples([people(shards)], sampling, ResolutionSchedule((16,), (9,)), 3, batch=4)
    drawn = list(load_samples(samples, 0, 0, range(4)))
    counts = np.array([len(sample.inputs) for sample in drawn]).reshape(9, 4)
    assert (counts == counts[:, :1]).all() and set(counts[:, 0]) == {1, 2, 3}


@pytest.mark.filterwarnings("ignore")  # of torch's own tracing
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiling_changes_no_more_than_rounding(
    shards: Path, tmp_path: Path, plain: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    # The part of compiling that can change results: tracing, decomposing, the way back.
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda module: compile_(module, backend="aot_eager")
    )
    train(shards, tmp_path, CONFIG, replace(RUN, compile=True))
    np.testing.assert_allclose(curve(tmp_path), plain, rtol=1e-4)


def test_computing_again_keeps_less():
    views, kept = blob_views(2, 64), []
    for again in (False, True):
        torch.manual_seed(0)
        model = FastGHA(recipe("tiny/no-guide").model, "float32")
        if again:
            rerun_backward(model)
        total = [0]

        def count(x: torch.Tensor, total: list[int] = total) -> torch.Tensor:
            total[0] += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            loss = model.reconstruct(views).gaussians.means.square().sum()
        loss.backward()
        kept.append((total[0], loss.item(), list(model.state_dict())))
    assert kept[1][0] < 0.5 * kept[0][0]
    assert kept[1][1] == kept[0][1] and kept[1][2] == kept[0][2]


def test_out_of_memory_says_what_to_lower(shards: Path, tmp_path: Path, monkeypatch):
    from pipeline.train import step

    def hungry(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr(step, "losses", hungry)
    with pytest.raises(TrainingError, match=r"Tried to allocate 2 GiB.*gradient_checkpointing"):
        train(shards, tmp_path, CONFIG, RUN)
    monkeypatch.setattr(step, "losses", lambda *_: torch.empty(2**60))
    with pytest.raises(TrainingError, match=r"Memory ran out"):
        train(shards, tmp_path, CONFIG, RUN)


def test_the_picture_of_step_zero_is_of_the_untrained_head(shards: Path, tmp_path: Path):
    report = train(shards, tmp_path, CONFIG, RUN, until=1)
    assert (tmp_path / "pictures" / "step-00000000.jpg").exists()
    assert report.steps == 1 and {"data", "forward", "render"} <= set(report.seconds)
    assert train(shards, tmp_path, CONFIG, RUN, until=1).steps == 0


def test_a_subject_with_too_few_timesteps_is_refused_before_training(shards: Path, tmp_path: Path):
    write_shard(tmp_path / "few" / "few.h5", toy_capture("few", timesteps=2), {})
    with pytest.raises(InputError, match=r"few\.h5 has 4 views and at most 2 usable"):
        train([shards, tmp_path / "few"], tmp_path / "run", CONFIG, RUN)
    assert not (tmp_path / "run").exists()


def test_data_sets_are_mixed_by_their_weights(shards: Path, tmp_path: Path):
    write_shard(tmp_path / "carl.h5", toy_capture("carl"), {})
    groups = (people(shards), ((tmp_path / "carl.h5",),))
    sampling = SamplingConfig(inputs=1, min_inputs=1, targets=2)
    resolutions = ResolutionSchedule((16,), (300,))

    def share(mixture: tuple[float, ...]) -> float:
        samples = Samples(groups, replace(sampling, mixture=mixture), resolutions, 0)
        return sum(sample.subject == "carl" for sample in load_samples(samples, 0, 0)) / 300

    assert share(()) == pytest.approx(1 / 3, abs=0.08)  # three people, one of them carl
    assert share((1.0, 3.0)) == pytest.approx(3 / 4, abs=0.08)
    assert share((1.0, 0.0)) == 0
    bad = replace(CONFIG, sampling=replace(CONFIG.sampling, mixture=(1.0,)))
    with pytest.raises(ConfigError, match="does not fit 2 folders"):
        train([shards, tmp_path], tmp_path / "run", bad, RUN)


def test_a_step_of_several_samples_begins_with_the_sample_of_a_step_of_one(shards: Path):
    groups = (people(shards),)
    sampling, resolutions = (
        SamplingConfig(inputs=2, min_inputs=2, targets=3),
        ResolutionSchedule((16,), (4,)),
    )
    one = list(load_samples(Samples(groups, sampling, resolutions, 5), 0, 0))
    three = list(load_samples(Samples(groups, sampling, resolutions, 5, batch=3), 0, 0, range(3)))
    assert len(three) == 12
    for a, b in zip(one, three[::3]):
        assert torch.equal(a.inputs.image, b.inputs.image) and a.target_views == b.target_views
    mine = list(
        load_samples(Samples(groups, sampling, resolutions, 5, batch=3), 1, 0, range(1, 3, 2))
    )
    assert torch.equal(mine[0].inputs.image, three[4].inputs.image) and len(mine) == 3


def test_only_cameras_before_the_face_are_used():
    angles = torch.tensor([0.0, 3.0, 0.5, -1.0, 2.0])
    centers = torch.stack([angles.sin(), torch.zeros(5), angles.cos()], -1)
    assert list(frontal(centers, np.arange(5), 3)) == [0, 2, 3]
    assert list(frontal(centers, np.array([1, 2, 4]), 2)) == [2, 4]
    assert list(frontal(centers, np.arange(5), 40)) == [0, 1, 2, 3, 4]


def test_noise_moves_only_the_cameras_of_the_inputs(shards: Path):
    sampling = SamplingConfig(inputs=2, min_inputs=2, targets=3)
    noisy = replace(sampling, noise_degrees=1.0, noise_mm=5.0)
    with Shard(sorted(shards.glob("*.h5"))[0]) as shard:
        a, b = (draw(shard, c, 16, np.random.default_rng(1)) for c in (sampling, noisy))
    assert torch.equal(a.inputs.image, b.inputs.image)
    assert torch.equal(a.targets.camera.world_to_camera, b.targets.camera.world_to_camera)
    assert not torch.equal(a.inputs.camera.world_to_camera, b.inputs.camera.world_to_camera)


def test_jitter_has_the_wanted_spread():
    camera = dome(4000, 32)
    noisy = jitter(camera, 2.0, 10.0, np.random.default_rng(0))
    shift = noisy.centers - camera.centers
    assert shift.std(0).numpy() == pytest.approx(0.010, rel=0.05)
    turn = noisy.world_to_camera[:, :3, :3] @ camera.world_to_camera[:, :3, :3].mT
    angle = torch.rad2deg(torch.acos(((turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))
    assert angle.square().mean().sqrt() == pytest.approx(2.0 * 3**0.5, rel=0.05)
    same = jitter(camera, 0.0, 0.0, np.random.default_rng(0))
    torch.testing.assert_close(same.world_to_camera, camera.world_to_camera, atol=1e-5, rtol=0)
