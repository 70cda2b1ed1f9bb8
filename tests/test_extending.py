"""The recipes of CONTRIBUTING.md, run as they stand: one definition and one registration each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from fastgha_cli.app import app
from pipeline.bench.render import parse_backends
from pipeline.evaluate import protocol
from pipeline.evaluate.metrics import METRICS
from pipeline.model.hub import BACKBONES, VAE
from pipeline.render import render
from pipeline.render.golden import golden_scene
from pipeline.render.render import BACKENDS
from pipeline.train.presets import PRESETS

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
HASHES = {name: protocol.read(name).hash for name in protocol.names()}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No weights, and the registers as they were afterwards."""
    for name in ("FASTGHA_WEIGHTS", "TORCH_HOME", "UNIFACE_CACHE_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))
    for register in (METRICS, BACKENDS, BACKBONES, PRESETS):
        for key in register:
            monkeypatch.setitem(register, key, register[key])
    yield
    for register in (METRICS, BACKENDS, BACKBONES, PRESETS):
        for key in ("CONTRAST", "double", "colors", "quick"):
            register.pop(key, None)


def block(recipe: str, language: str = "python") -> str:
    section = PAGE.split(f"### {recipe}\n")[1].split("\n### ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


def add(recipe: str) -> None:
    exec(compile(block(recipe), f"CONTRIBUTING.md, {recipe}", "exec"), {"__name__": "recipe"})


def fastgha(*words: object) -> Result:
    done = CliRunner().invoke(app, [str(word) for word in words])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


def log(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_preset_and_a_metric(shards: Path, tmp_path: Path):
    add("A preset")
    add("A metric")
    run, text = tmp_path / "run", tmp_path / "mine.toml"
    fastgha("train", shards, "-o", run, "--preset", "quick", "--device", "cpu")
    assert [line["step"] for line in log(run)] == [1, 2]

    text.write_text(block("A metric", "toml"))
    out = tmp_path / "mine.json"
    done = fastgha("eval", "--shards", shards, "--protocol", text, "--model", run, "--allow-seen",
                   "--json", out,
                   "-o", tmp_path / "report")  # fmt: skip
    found = json.loads(out.read_text())
    assert set(found["figures"]) == {"PSNR", "SSIM", "CONTRAST"}
    assert 0 < found["figures"]["CONTRAST"]["mean"] < 1
    assert set(found["missing"]) == {"LPIPS", "CSIM", "AKD"}
    assert "CONTRAST" in done.output
    assert "CONTRAST" in (tmp_path / "report" / "table.csv").read_text().splitlines()[0]


def test_a_metric_changes_no_frozen_protocol():
    add("A metric")
    assert {name: protocol.read(name).hash for name in protocol.names()} == HASHES
    assert all("CONTRAST" not in protocol.read(name).nets for name in HASHES)


def test_a_metric_that_nobody_registered_is_named(shards: Path, tmp_path: Path):
    from pipeline.core.errors import ConfigError
    from pipeline.evaluate.metrics import prepare

    text = tmp_path / "mine.toml"
    text.write_text(block("A metric", "toml"))
    with pytest.raises(ConfigError, match="mine names a metric 'CONTRAST'"):
        prepare(protocol.read(str(text)))


def test_a_render_backend(tmp_path: Path):
    add("A render backend")
    out = tmp_path / "health.json"
    fastgha("doctor", "--json", out)
    assert json.loads(out.read_text())["backends"]["double"].startswith("ready (golden scene")
    assert parse_backends(["double"]) == ["double"]
    gaussians, camera, background = golden_scene()
    gaussians, camera = gaussians.to(torch.float32), camera.to(torch.float32)
    drawn, want = (
        render(gaussians, camera, background=background.float(), backend=name)
        for name in ("double", "reference")
    )
    assert drawn.color.dtype == torch.float32
    torch.testing.assert_close(drawn.color, want.color, atol=1e-3, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_a_backbone(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    diffusers = pytest.importorskip("diffusers")
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        block_out_channels=[8, 8, 16, 16], down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4, layers_per_block=1, norm_num_groups=4,
    ).save_pretrained(tmp_path / VAE / "vae")  # fmt: skip
    add("A backbone")
    run = tmp_path / "run"
    changes = ("kind=frozen", "backbone=colors", "layers=[1,2]", "channels=8")
    fastgha("train", shards, "-o", run, "--preset", "tiny", "--steps", 2, "--device", "cpu",
            *(word for c in changes for word in ("--set", f"model.features.{c}")))  # fmt: skip
    assert len(log(run)) == 2 and log(run)[0]["gradient"] > 0
    with pytest.raises(Exception, match="backbone cannot be 'colours'"):
        fastgha("train", shards, "-o", run, "--set", "model.features.backbone=colours")


def test_a_data_set_and_a_matting_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from pipeline.captures import registry
    from pipeline.perception import matting

    for module, name in ((registry, "READERS"), (matting, "MATTING")):
        if not hasattr(module, name):
            pytest.skip(f"{module.__name__} has no register")
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    add("A data set reader")
    add("A matting network")
    (tmp_path / "ann").mkdir()
    picture = Image.new("RGB", (40, 30), (0, 255, 0))
    picture.paste((200, 150, 120), (10, 10, 30, 30))
    picture.save(tmp_path / "ann" / "0001.jpg", quality=95)
    found = registry.find_captures("polaroids", tmp_path)
    capture = registry.open_capture("polaroids", found["ann"])
    view = capture.view(capture.timesteps[0], "polaroid")
    alpha = matting.get_matting("green-screen")()(view.image)
    assert alpha.shape == (30, 40) and alpha[20, 20] == 1 and alpha[2, 2] == 0
