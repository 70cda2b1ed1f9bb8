"""Device mistakes, found without a GPU: all that is done with a model, on a stand-in for one."""

from __future__ import annotations

import sys
import types
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.avatar.animate import Style, picture
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.avatar.refine import RefineConfig, refine
from pipeline.core.types import ExpressionCode
from pipeline.evaluate.protocol import tasks
from pipeline.evaluate.run import measure, ours
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.flame import convert, load_flame
from pipeline.faces.heads import FlameHead, head_model
from pipeline.faces.layouts import (
    FLAME2023,
    arkit_to_code,
    arkit_weights,
    code_to_arkit,
    neutral_code,
)
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import SEQUENCE
from pipeline.train.config import RunConfig
from pipeline.train.loop import train
from pipeline.train.presets import recipe
from tests import elsewhere
from tests.conftest import LAYOUT, blob_views, dome, still_mesh
from tests.elsewhere import DEVICE, Elsewhere, stand_in
from tests.evaluate.toys import TOY, plain
from tests.faces.flames import numbers, write_pickle

pytestmark = pytest.mark.filterwarnings("ignore:User provided device_type")


@pytest.fixture(autouse=True)
def _gsplat(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    fake = types.ModuleType("gsplat")
    fake.rasterization = elsewhere.rasterization  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "gsplat", fake)
    with stand_in():
        yield


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    made = FastGHA(recipe("tiny").model, "float32").eval().requires_grad_(False)
    made.deformation.set_layout(LAYOUT)
    return made


def test_the_stand_in_finds_a_mix():
    x = torch.ones(3, device="cuda")
    assert isinstance(x, Elsewhere) and x.device == DEVICE and x.is_cuda
    with pytest.raises(AssertionError, match="mixes devices"):
        _ = x + torch.ones(3)
    assert float((x + 1).sum()) == 6 and float((x * torch.tensor(2.0)).sum()) == 6
    with pytest.raises(AssertionError, match="numpy"):
        x.numpy()
    here = torch.ones(3, requires_grad=True)
    (here.to("cuda") * x).sum().backward()
    assert type(here.grad) is torch.Tensor and torch.equal(here.grad, torch.ones(3))


def test_an_avatar_is_made_animated_drawn_and_refined(model: FastGHA, tmp_path: Path):
    views, mesh = blob_views(2, 64), still_mesh(2)
    codes = read_sequence(SEQUENCE, LAYOUT).codes
    near = Avatar.create(model, views, LAYOUT, {}, mesh)
    far = Avatar.create(model.to("cuda"), views.to("cuda"), LAYOUT, {}, mesh)
    model.to("cpu")
    assert far.device == DEVICE and len(far.canonical) == len(near.canonical)
    camera = orbit(1, 64)[0]
    for avatar in (far.to("cpu"), near.to("cuda")):
        assert avatar.layout == LAYOUT
    style = Style()
    a = picture(near.animate(codes[40]), camera, style).astype(int)
    far = near.to("cuda")
    assert near.device.type == "cpu"
    b = picture(far.animate(codes[40]), camera, style).astype(int)
    assert abs(a - b).max() <= 2 and (a != 255).any()
    refined, report = refine(far, views, codes[:2], RefineConfig(max_steps=4))
    assert isinstance(refined.canonical.means, Elsewhere) and report.steps == 4
    refined.save(tmp_path / "x.avatar")
    again = Avatar.load(tmp_path / "x.avatar").to("cuda").animate(codes[3])
    assert isinstance(again.means, Elsewhere)


@pytest.mark.parametrize("preset", ["tiny", "tiny/no-guide"])
def test_a_training_gives_there_what_it_gives_here(shards: Path, tmp_path: Path, preset: str):
    config = replace(recipe(preset), sizes=(32,), steps=(2,))
    config = replace(config, loss=replace(config.loss, motion=1.0))
    logs = []
    for device in ("cpu", "cuda"):
        run = RunConfig(workers=0, precision="float32", device=device, channels_last=False)
        train(shards, tmp_path / device, config, run, stop_after=1)
        done = train(shards, tmp_path / device, config, run)
        assert done.step == 2 and done.checkpoint.exists()
        logs.append((tmp_path / device / "log.jsonl").read_text().splitlines())
    import json

    for near, far in zip(*logs, strict=True):
        a, b = json.loads(near), json.loads(far)
        assert a.keys() == b.keys()
        for term in a.keys() - {"seconds"}:
            assert b[term] == pytest.approx(a[term], rel=2e-3, abs=1e-6), term
    assert "aten::convolution" in elsewhere.met


def test_an_evaluation_draws_there(shards: Path, model: FastGHA):
    chosen = tasks(TOY, shards, None)
    near = measure(ours(model), "here", TOY, chosen, metrics=plain())
    far = measure(ours(model.to("cuda")), "there", TOY, chosen, metrics=plain())
    model.to("cpu")
    assert far.figures["PSNR"].mean == pytest.approx(near.figures["PSNR"].mean, abs=0.05)


def test_a_mesh_moves_there_as_it_moves_here():
    head = head_model(LAYOUT)
    neutral = torch.from_numpy(still_mesh(1).neutral)
    rng = torch.Generator().manual_seed(3)
    weights = torch.rand(52, generator=rng).numpy() * 0.8
    code = arkit_to_code(weights)
    torch.testing.assert_close(
        arkit_weights(code.values), code_to_arkit(code), atol=1e-4, rtol=1e-4
    )
    posed = head.posed(neutral.numpy(), code)
    rest = head.surface(neutral.numpy(), neutral.numpy())
    wanted = torch.from_numpy(head.surface(posed, neutral.numpy()) - rest)
    torch.testing.assert_close(
        head.displacement(neutral, code.values), wanted, atol=2e-5, rtol=1e-4
    )
    with torch.autocast("cpu", torch.bfloat16):  # as within a network
        inside = head.displacement(neutral, code.values)
    torch.testing.assert_close(inside, wanted, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(head.rest(neutral), torch.from_numpy(rest), atol=1e-5, rtol=0)
    far = head.displacement(neutral.to("cuda"), code.values.to("cuda"))
    torch.testing.assert_close(far.cpu(), wanted, atol=2e-5, rtol=1e-4)


def test_cameras_turn_there_as_they_turn_here():
    from pipeline.model.activate import _quaternions

    R = dome(40, 64).world_to_camera[:, :3, :3]
    near, far = _quaternions(R), _quaternions(R.to("cuda")).cpu()
    assert float((near * far).sum(-1).abs().min()) > 1 - 1e-6


def test_flame_moves_there_as_it_moves_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pickle(tmp_path / "flame.pkl", numbers(), monkeypatch)
    convert(tmp_path / "flame.pkl", tmp_path / "flame.npz", "2023")
    head = FlameHead(load_flame(tmp_path / "flame.npz"), FLAME2023)
    neutral = head.model.template.float()
    values = neutral_code(FLAME2023).values.clone()
    values[:5] = torch.tensor([0.4, -0.2, 0.3, 0.1, 0.5])
    code = ExpressionCode(values, FLAME2023)
    wanted = torch.from_numpy(head.posed(neutral.numpy(), code) - neutral.numpy())
    far = head.displacement(neutral.to("cuda"), values.to("cuda")).cpu()
    torch.testing.assert_close(far, wanted, atol=1e-5, rtol=1e-4)
