import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.core.errors import (
    ConfigError,
    FormatError,
    LayoutError,
    StaleOutputError,
    TrainingError,
)
from pipeline.faces.layouts import FLAME2020
from pipeline.losses import LossConfig
from pipeline.model.checkpoint import load, load_model, newest
from pipeline.shards.writer import write_shard
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.log import Log
from pipeline.train.loop import train
from pipeline.train.presets import recipe
from tests.conftest import toy_capture

CONFIG = replace(recipe("tiny"), sizes=(32, 64), steps=(12, 8))
RUN = RunConfig(checkpoint_every=100, picture_every=100, workers=0, precision="float32")


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load(path).tensors)


def terms(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_twenty_steps_are_the_same_bits_as_ten_and_ten_more(shards: Path, tmp_path: Path):
    whole = train(shards, tmp_path / "whole", CONFIG, RUN)
    train(shards, tmp_path / "parts", CONFIG, RUN, stop_after=10)
    parts = train(shards, tmp_path / "parts", CONFIG, RUN)
    a, b = weights(whole.checkpoint), weights(parts.checkpoint)
    assert a.keys() == b.keys() and any(k.startswith("optimizer.") for k in a)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert terms(tmp_path / "whole") == terms(tmp_path / "parts")
    assert (tmp_path / "whole" / "pictures" / "step-00000020.jpg").exists()


def test_the_loss_falls(shards: Path, tmp_path: Path):
    config = replace(CONFIG, sizes=(32,), steps=(60,))
    train(shards, tmp_path / "run", config, RUN)
    parts = ("rgb", "ssim", "silhouette", "depth")
    loss = [sum(line[part] for part in parts) for line in terms(tmp_path / "run")]
    assert sum(loss[-10:]) < 0.7 * sum(loss[:10])


def test_a_run_without_gradient_ends(shards: Path, tmp_path: Path):
    blind = LossConfig(rgb=0, ssim=0, silhouette=0, depth=0)
    config = replace(CONFIG, loss=blind, sizes=(32,), steps=(30,))
    with pytest.raises(TrainingError, match="Steps 1 to 20 have no gradient"):
        train(shards, tmp_path / "run", config, RUN)


def test_a_run_begins_with_the_weights_of_another(shards: Path, tmp_path: Path):
    first = train(shards, tmp_path / "first", CONFIG, RUN, stop_after=3).checkpoint
    config = replace(CONFIG, lr=1e-9, deform_lr=1e-9)
    origin = Origin(first, ("deformation",))
    second = train(shards, tmp_path / "second", config, RUN, origin=origin, stop_after=1)
    a, b = weights(first), weights(second.checkpoint)
    close = {k for k in a if k.startswith("model.") and torch.allclose(a[k], b[k], atol=1e-6)}
    assert "model.decoder.conv_out.weight" in close
    assert "model.deformation.of_code.weight" not in close
    with pytest.raises(StaleOutputError, match="other settings"):
        train(shards, tmp_path / "second", config, RUN, origin=Origin(first))
    last = train(
        shards, tmp_path / "last", config, RUN, origin=Origin(first, ("decoder.conv_out",)),
        stop_after=1,
    )  # fmt: skip
    c = weights(last.checkpoint)
    assert not torch.allclose(
        a["model.decoder.conv_out.weight"], c["model.decoder.conv_out.weight"]
    )
    torch.testing.assert_close(
        a["model.decoder.conv_in.weight"], c["model.decoder.conv_in.weight"], atol=1e-6, rtol=0
    )
    with pytest.raises(ConfigError, match="no part 'decode'"):
        train(shards, tmp_path / "third", config, RUN, origin=Origin(first, ("decode",)))


def test_only_a_part_learns_and_goes_on_where_it_was(shards: Path, tmp_path: Path):
    config = replace(CONFIG, only=("deformation", "decoder.conv_out"), steps=(6, 0))
    first = train(shards, tmp_path / "first", replace(CONFIG, steps=(1, 0)), RUN).checkpoint
    whole = train(shards, tmp_path / "whole", config, RUN, origin=Origin(first)).checkpoint
    train(shards, tmp_path / "parts", config, RUN, origin=Origin(first), stop_after=3)
    parts = train(shards, tmp_path / "parts", config, RUN, origin=Origin(first)).checkpoint
    before, after, again = weights(first), weights(whole), weights(parts)
    assert after.keys() == again.keys() and all(torch.equal(after[k], again[k]) for k in after)
    mine = tuple(f"model.{name}." for name in config.only)
    others = [k for k in before if k.startswith("model.") and not k.startswith(mine)]
    assert others and all(torch.equal(before[k], after[k]) for k in others)
    learnt = ("model.deformation.of_code.weight", "model.decoder.conv_out.weight")
    assert not any(torch.equal(before[k], after[k]) for k in learnt)
    remembered = [k for k in after if k.startswith("optimizer.")]
    assert all(k.startswith(tuple(f"optimizer.{n}." for n in config.only)) for k in remembered)
    with pytest.raises(ConfigError, match="no part 'decode'"):
        train(shards, tmp_path / "third", replace(config, only=("decode",)), RUN)


def test_a_deformation_is_not_taken_over_to_codes_of_another_layout(shards: Path, tmp_path: Path):
    first = train(shards, tmp_path / "first", CONFIG, RUN, stop_after=1).checkpoint
    model, _ = load_model(first)
    with pytest.raises(LayoutError, match="flame2020"):
        Origin(first).take_over(model, FLAME2020)
    Origin(first, ("deformation",)).take_over(model, FLAME2020)


def test_a_checkpoint_is_whole_and_loads_without_the_run(shards: Path, tmp_path: Path):
    report = train(shards, tmp_path / "run", CONFIG, RUN, stop_after=2)
    model, loaded = load_model(report.checkpoint)
    assert model.config == CONFIG.model and loaded.header["step"] == 2
    broken = tmp_path / "broken.safetensors"
    data = report.checkpoint.read_bytes()
    for share in (0.0, 0.01, 0.6):
        broken.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(FormatError, match=r"broken\.safetensors"):
            load(broken)


def test_weights_of_another_preset_are_refused(shards: Path, tmp_path: Path):
    report = train(shards, tmp_path / "run", CONFIG, RUN, stop_after=1)
    from pipeline.io.tensors import restore
    from pipeline.model.fastgha import FastGHA
    from pipeline.train.presets import small

    with pytest.raises(FormatError, match="does not fit"):
        restore(FastGHA(small()), weights(report.checkpoint), "model.", report.checkpoint)


def test_a_run_of_other_settings_is_refused(shards: Path, tmp_path: Path):
    train(shards, tmp_path / "run", CONFIG, RUN, stop_after=1)
    with pytest.raises(StaleOutputError, match="other settings"):
        train(shards, tmp_path / "run", replace(CONFIG, lr=1e-5), RUN)


def test_not_a_number_stops_the_run_and_names_step_and_term(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.train import step

    calls = []

    def spoiled(*args, **kwargs):
        calls.append(1)
        found = step_losses(*args, **kwargs)
        return {**found, "depth": found["depth"] * torch.nan} if len(calls) == 3 else found

    step_losses = step.losses
    monkeypatch.setattr(step, "losses", spoiled)
    with pytest.raises(
        TrainingError, match=r"Step 3: the depth loss is nan \(subject (anna|bert)\)"
    ):
        train(shards, tmp_path / "run", CONFIG, RUN)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_the_same_command_goes_on(
    shards: Path, tmp_path: Path, number: signal.Signals
):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "fastgha_cli", "train", str(shards), "-o", str(run)]
    command += [
        "--preset",
        "tiny",
        "--workers",
        "0",
        "--set",
        "steps=[5000]",
        "--set",
        "sizes=[32]",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while not (run / "log.jsonl").exists() or not (run / "log.jsonl").read_text():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"Stopped by {number.name}" in said
    path = newest(run)
    assert path is not None
    step = load(path).header["step"]
    assert step == len(terms(run)) >= 1
    again = subprocess.run([*command, "--steps", str(step + 1)], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert load(Path(again.stdout.strip())).header["step"] == step + 1


def test_a_killed_run_loses_only_what_came_after_its_checkpoint(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    train(shards, run, CONFIG, RUN, stop_after=3)
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 4, "rgb": 1}\n{"step": 5, "rg')
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (run / f".step-00000004.safetensors.{killed.pid}.part").touch()
    (run / ".notes.part").touch()
    train(shards, run, CONFIG, RUN, stop_after=2)
    assert [path.name for path in run.glob(".*.part")] == [".notes.part"]
    assert [line["step"] for line in terms(run)] == [1, 2, 3, 4, 5]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def with_header(path: Path, facts: object) -> None:
    """Write a checkpoint again with other facts in its header."""
    save_file(weights(path), path, {"json": json.dumps(facts)})


def without_weights(path: Path) -> None:
    save_file({}, path, {"json": json.dumps(dict(load(path).header))})


def without_step(path: Path) -> None:
    header = dict(load(path).header)
    del header["step"]
    with_header(path, header)


def of_a_list(path: Path) -> None:
    with_header(path, [1])


@pytest.mark.parametrize("damage", [cut, without_weights, without_step, of_a_list])
def test_a_damaged_newest_checkpoint_is_set_aside_for_the_older_one(
    shards: Path, tmp_path: Path, damage: Callable[[Path], None]
):
    run = tmp_path / "run"
    train(shards, run, CONFIG, replace(RUN, checkpoint_every=2), stop_after=4)
    good, bad = sorted(run.glob("step-*.safetensors"))
    damage(bad)
    said: list[str] = []
    report = train(shards, run, CONFIG, RUN, stop_after=1, announce=said.append)
    assert report.checkpoint.name == "step-00000003.safetensors" and report.step == 3
    assert load(report.checkpoint).header["step"] == 3
    assert len(said) == 1 and str(bad) in said[0] and "going on from step 2" in said[0]
    assert [line["step"] for line in terms(run)] == [1, 2, 3]
    assert not bad.exists() and bad.with_suffix(".damaged").exists() and good.exists()


def test_without_a_whole_checkpoint_the_run_ends_and_nothing_is_moved(shards: Path, tmp_path: Path):
    run = tmp_path / "run"
    path = train(shards, run, CONFIG, RUN, stop_after=1).checkpoint
    cut(path)
    with pytest.raises(FormatError, match=r"step-00000001\.safetensors is not a whole"):
        train(shards, run, CONFIG, RUN)
    assert path.exists()


@pytest.mark.parametrize(
    "stamp", [b"", b"{", b"[]", b"null", b"\xff", b"{}", b'{"samples_a_step": "x"}']
)
def test_a_damaged_stamp_of_a_run_is_named(shards: Path, tmp_path: Path, stamp: bytes):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_bytes(stamp)
    with pytest.raises(FormatError, match=r"run\.json is damaged"):
        train(shards, run, CONFIG, RUN)
    assert (run / "run.json").read_bytes() == stamp


@pytest.mark.parametrize(
    "tail", [b"7", b"[1]", b'{"step": null}', b"\xff\xfe", b"\0" * 9, b'{"step": 1e999}', b"["]
)
def test_a_broken_last_line_of_the_log_goes(tmp_path: Path, tail: bytes):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + tail)
    with Log(tmp_path, 1):
        pass
    assert path.read_bytes() == b'{"step": 1}\n'


def test_shards_of_two_layouts_do_not_mix(tmp_path: Path):
    from pipeline.core.errors import ConfigError

    folder = tmp_path / "shards"
    write_shard(folder / "a.h5", toy_capture("a"), {})
    write_shard(folder / "b.h5", replace(toy_capture("b"), layout="other"), {})
    with pytest.raises(ConfigError, match="other"):
        train(folder, tmp_path / "run", CONFIG, RUN)
    assert not (tmp_path / "run").exists()


def test_the_step_size_rises_then_falls_to_a_hundredth():
    config = TrainConfig(schedule="cosine", warmup=10, sizes=(64,), steps=(100,))
    assert config.lr_factor(0) == pytest.approx(0.1, rel=1e-3)
    assert config.lr_factor(9) == pytest.approx(1.0, rel=0.03)
    assert config.lr_factor(100) == pytest.approx(0.01)
    assert TrainConfig().lr_factor(399_999) == 1.0
    resolutions = TrainConfig(
        schedule="cosine", peaks=(1.0, 0.5), sizes=(64, 128), steps=(100, 50)
    )  # fmt: skip
    assert resolutions.lr_factor(99) == pytest.approx(0.01, abs=1e-3)
    assert resolutions.lr_factor(100) == pytest.approx(0.5)
    assert resolutions.lr_factor(125) == pytest.approx(0.5 * 0.505)
    assert resolutions.lr_factor(150) == pytest.approx(0.005)


def test_peaks_must_fit_the_sizes():
    with pytest.raises(ConfigError, match="one for each picture size"):
        TrainConfig(peaks=(1.0,), sizes=(64, 128), steps=(1, 1))
