import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from pipeline.bench import roofline as limits
from pipeline.bench.counts import count
from pipeline.bench.render import bench, head_scene, load_peer, parse_backends, parse_scenes
from pipeline.core.errors import BackendError, ConfigError
from pipeline.core.types import Gaussians
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.train.presets import recipe, tiny
from tests.cli.test_cli import fastgha
from tests.render.scenes import ordinary


def test_every_pixel_that_one_gaussian_covers_is_counted_once():
    _, camera = head_scene(1, 40)
    one = Gaussians(
        torch.tensor([[0.02, -0.01, 0.0]]),
        torch.tensor([[0.9, 0.1, 0.3, 0.2]]),
        torch.tensor([[0.04, 0.02, 0.01]]),
        torch.tensor([0.6]),
        torch.rand(1, 3),
    )
    counts = limits.count(one, camera)
    assert counts["pixel_pairs"] == int((render(one, camera).alpha > 0).sum()) > 50
    assert counts["pixel_pairs"] <= counts["lane_pairs"]
    assert counts["drawn_tile_pairs"] <= counts["tile_pairs"]


def test_pixels_that_are_finished_count_no_more():
    _, camera = head_scene(1, 1)
    wall = Gaussians(
        torch.zeros(50, 3) + torch.linspace(0.1, 0.0, 50)[:, None] * torch.tensor([0, 0, 1.0]),
        torch.tensor([[1.0, 0, 0, 0]]).expand(50, 4),
        torch.full((50, 3), 0.5),
        torch.full((50,), 0.92),
        torch.rand(50, 3),
    )
    # 0.08^4 is less than the transmittance that finishes a pixel, before the fourth is drawn
    assert limits.count(wall, camera)["pixel_pairs"] == 3


def test_the_phases_are_those_of_a_picture_and_leave_the_kernels_alone():
    scene, camera = head_scene(500, 32)
    before = render(scene, camera).color
    found = limits.phases(scene, camera, repeats=2)
    assert set(found) == {*limits.KERNELS, "the rest"}
    assert found["blend"] > 0 and found["project backward"] > 0
    assert torch.equal(render(scene, camera).color, before)


def test_scenes_and_backends_are_read():
    assert parse_scenes(["64x16", "2048x128"]) == [(64, 16), (2048, 128)]
    for wrong in ("64", "64x", "0x16", "ax16", "64x-1"):
        with pytest.raises(ConfigError, match="is not a scene"):
            parse_scenes([wrong])
    assert {"cpu", "reference"} <= set(parse_backends(None))
    with pytest.raises(ConfigError, match="no render backend 'cpus'"):
        parse_backends(["cpus"])
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="cannot run here"):
            parse_backends(["gsplat"])


def test_the_command_writes_rows_and_a_plot(tmp_path: Path):
    done = fastgha(
        "bench", "render", "--scene", "64x16", "--repeats", "1", "--threads", "1",
        "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "b.json").read_text())
    assert {row["backend"] for row in found["rows"]} >= {"cpu", "reference"}
    keys = {"backend", "gaussians", "width", "height", "forward_ms", "backward_ms", "peak_mb"}
    assert all(keys <= set(row) for row in found["rows"])
    assert found["cpu"][0]["limit"]["forward_ms"] > 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_a_scene_that_no_backend_can_hold_is_refused():
    with pytest.raises(ConfigError, match="no memory for these scenes"):
        bench(("reference",), ((262_144, 1024),))


PEER = Path(__file__).parents[2] / "tools" / "peer_gsplat_torch.py"


@pytest.mark.skipif(find_spec("gsplat") is None, reason="gsplat is not installed")
def test_the_peer_draws_the_same_pictures(tmp_path: Path):
    peer = load_peer(f"{PEER}:render")
    gaussians, camera = ordinary()
    got = peer(gaussians, camera[0], torch.ones(3))
    want = render(gaussians, camera[0], background=torch.ones(3), backend="reference")
    for part in ("color", "alpha"):
        difference = (getattr(got, part) - getattr(want, part)).abs()
        assert difference.max() <= 2.1 / 255
        assert (difference > 1e-4).sum() <= 6
    rows = bench(("cpu",), ((64, 16),), peers=[f"{PEER}:render"], repeats=1)
    assert [row["backend"] for row in rows] == ["cpu", "peer_gsplat_torch"]
    assert all(row["backward_ms"] > 0 for row in rows)


def test_a_peer_that_is_not_there_is_named(tmp_path: Path):
    for name in ("nowhere.py:render", f"{PEER}:nothing", "render"):
        with pytest.raises(ConfigError, match="names no Python file|Cannot load"):
            load_peer(name)


def test_a_models_parts_are_counted_without_weights():
    rows = {row["part"]: row for row in count(tiny(), 2)}
    model = FastGHA(tiny())
    assert sum(row["parameters"] for row in rows.values()) == sum(
        p.numel() for p in model.parameters()
    )
    # A layer of the deformation: a multiply-add for each weight and Gaussian, 2 views of 32 x 32.
    weights = sum(p.numel() for n, p in model.deformation.named_parameters() if "weight" in n)
    code = model.deformation.of_code.weight.numel()
    assert rows["deformation"]["flops"] == 2 * ((weights - code) * 2 * 32 * 32 + code)
    assert rows["transformer"]["activations_mb"] > 0
    assert count(tiny(), 4)[1]["flops"] > 2 * count(tiny(), 2)[1]["flops"]


@pytest.mark.filterwarnings("ignore")
def test_the_papers_model_has_the_published_sizes():
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    rows = {row["part"]: row for row in count(recipe("paper").model, 4)}
    assert rows["vit (frozen)"]["parameters"] == 303_129_600
    assert rows["vae encoder (frozen)"]["trained"] == rows["vit (frozen)"]["trained"] == 0
    # Both ends of the decoder are new; the rest is the VAE's 49,490,199 without its own ends.
    assert abs(rows["decoder"]["parameters"] - 49_490_199) < 2.5e6
    # 1.05 million Gaussians through six layers of 256 make about 0.85 TFLOP.
    assert rows["deformation"]["flops"] == pytest.approx(0.85e12, rel=0.15)


def test_bench_model_prints_and_writes(tmp_path: Path):
    done = fastgha(
        "bench", "model", "--preset", "tiny", "--inputs", "1", "--tflops", "2",
        "--json", str(tmp_path / "m.json"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "m.json").read_text())
    assert found["rows"][0]["ms"] > 0 and len(found["counts"]) == 4
    assert "at 2 TFLOP/s" in done.stderr


def test_the_parts_of_a_training_step_are_timed_side_by_side(tmp_path: Path):
    file = tmp_path / "train.json"
    done = fastgha(
        "bench", "train", "--preset", "tiny", "--size", 32, "--variant", "plain",
        "--variant", "gradient_checkpointing", "--repeats", 2, "--json", file,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(file.read_text())
    assert found["machine"]["threads"] >= 1
    rows = {(row["variant"], row["part"]): row for row in found["rows"]}
    parts = {"data", "forward", "render", "loss", "backward", "optimizer", "step"}
    assert rows.keys() == {(v, p) for v in ("plain", "gradient_checkpointing") for p in parts}
    assert all(row["ms"] > 0 and row["peak_mb"] > 50 for row in rows.values())
    wrong = fastgha("bench", "train", "--variant", "fast")
    assert wrong.returncode == 1 and "no variant 'fast'" in wrong.stderr


def test_attention_is_counted_without_its_matrix():
    row = next(r for r in count(recipe("small").model, 4) if r["part"] == "transformer")
    tokens, width, layers, heads = 32 * 32 * 4, 192, 4, 4
    matrix_mb = heads * tokens * (tokens // 4) * 4 / 1e6
    assert row["activations_mb"] < 464 - 0.9 * layers * matrix_mb  # 464 with all of them
    # Yet its two products are among the operations.
    linear = 2 * tokens * width * width * (1 + 2 / 4 + 1 + 8)
    products = 2 * 2 * tokens * (tokens // 4) * width
    assert row["flops"] == pytest.approx(layers * (linear + products), rel=0.1)
