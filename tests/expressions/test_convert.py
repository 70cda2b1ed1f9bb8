"""Codes of one head model drive another: what moves the same stays, what is lost is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.core.errors import ConfigError, InputError, MissingWeightsError
from pipeline.core.types import ExpressionCode
from pipeline.expressions.convert import layout_of, read_converted
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence, write_sequence
from pipeline.faces.heads import FlameHead, head_model
from pipeline.faces.layouts import (
    ARKIT,
    EXPRESSION,
    FLAME2020,
    FLAME2023,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    arkit_to_code,
    code_to_arkit,
)
from pipeline.synthetic.expressions import sample_expression
from pipeline.tracking.refit import refit
from tests.faces import flames


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both versions; the expressions of the one are turned into those of the other."""
    folder = tmp_path_factory.mktemp("flame")
    shapes = flames.like_makehuman()["shapedirs"]
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(39, 39)))[0]
    flames.write_converted(folder, "2023")
    turned = shapes.copy()
    turned[..., 300:339] = shapes[..., 300:339] @ turn
    flames.write_converted(folder, "2020", shapedirs=turned)
    return folder


@pytest.fixture(autouse=True)
def weights(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(models))
    head_model.cache_clear()


@pytest.fixture(scope="module")
def speech() -> tuple[np.ndarray, ExpressionCode]:
    rng = np.random.default_rng(3)
    weights = np.stack([sample_expression(rng) for _ in range(20)])
    return weights, arkit_to_code(weights)


def posed(codes: ExpressionCode) -> np.ndarray:
    head = head_model(codes.layout)
    assert isinstance(head, FlameHead)
    neutral = head.model.template.numpy()
    return np.stack([head.posed(neutral, codes[i]) for i in range(len(codes))])


def test_flame_2020_and_2023_are_the_same_face_and_there_and_back_is_nothing_lost(speech):
    _, codes = speech
    new = refit(codes, FLAME2023).codes
    old = refit(new, FLAME2020)
    assert old.codes.layout == FLAME2020 and old.error < 0.01 < old.size
    change = (old.codes.values - new.values)[:, EXPRESSION].abs().max()
    assert change > 0.5, "the numbers of the versions do not mean the same"
    np.testing.assert_allclose(posed(old.codes), posed(new), atol=5e-5)


def test_the_built_in_head_drives_flame_and_flame_drives_it(speech):
    weights, codes = speech
    there = refit(codes, FLAME2023)
    back = refit(there.codes, MAKEHUMAN)
    assert there.error < 0.35 * there.size and back.error < 0.35 * back.size
    assert torch.equal(there.codes.values[:, LEFT_EYE.start : RIGHT_EYE.stop],
                       codes.values[:, LEFT_EYE.start : RIGHT_EYE.stop])  # fmt: skip
    again = code_to_arkit(back.codes).numpy()
    for name in ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft", "browInnerUp"):
        pair = weights[:, ARKIT[name]], again[:, ARKIT[name]]
        assert np.corrcoef(*pair)[0, 1] > 0.9, name
        assert np.abs(pair[0] - pair[1]).mean() < 0.1, name


def test_the_command_converts_and_says_what_is_lost(speech, tmp_path: Path):
    write_sequence(tmp_path / "a.npz", Sequence(speech[1], 30, "VHAP: x"))
    words = ["expressions", "convert", str(tmp_path / "a.npz"), "--to", "flame2023"]
    done = CliRunner().invoke(app, [*words, "-o", str(tmp_path / "b.npz")])
    assert done.exit_code == 0, done.output
    assert (
        f"converted from {MAKEHUMAN} to {FLAME2023}" in done.output and " mm of the" in done.output
    )
    found = read_expressions(tmp_path / "b.npz", FLAME2023)
    assert len(found) == 20 and (found.fps, found.origin) == (30, "VHAP: x")
    same, said = read_converted(tmp_path / "b.npz", FLAME2023)
    assert said == "" and torch.equal(same.codes.values, found.codes.values)
    with pytest.raises(ConfigError, match="Did you mean flame2023"):
        layout_of("flame2032")


def test_a_model_that_is_not_there_or_has_no_landmarks_is_asked_for(
    speech, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    head_model.cache_clear()
    with pytest.raises(MissingWeightsError, match="flame2023"):
        refit(speech[1], FLAME2023)
    with np.load(models / "flame2023.npz") as file:
        arrays = {name: file[name] for name in file.files if name not in ("corners", "shares")}
    np.savez(tmp_path / "flame2023.npz", **arrays)
    with pytest.raises(InputError, match="without its landmarks"):
        refit(speech[1], FLAME2023)


def test_drawn_frames_say_what_drove_them_and_the_first_tracking_is_not_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pipeline.evaluate import nersemble_benchmark as benchmark
    from pipeline.io.video import write_pngs
    from tests.captures.nersemble import tracking
    from tests.captures.studio import shoot

    monkeypatch.setattr(benchmark, "PEOPLE", (393,))
    monkeypatch.setattr(benchmark, "SEQUENCES", ("FREE",))
    for version in ("flame2023_tracking", "flame2023_tracking_v2"):
        np.savez(tmp_path / f"{version}.npz", **tracking(shoot()))
        sequence = read_expressions(tmp_path / f"{version}.npz")
        # Not lost on the way through a file of ours.
        write_sequence(tmp_path / "s.npz", sequence)
        sequence = read_expressions(tmp_path / "s.npz")
        drawn = tmp_path / version
        for name in benchmark.members():
            write_pngs(drawn / name, [np.zeros((512, 512, 3), np.uint8)] * 2, sequence.origin)
    with Image.open(next(drawn.rglob("*.png"))) as picture:
        assert picture.info["Source"] == "NeRSemble: flame2023_tracking_v2.npz"
    benchmark.write_submission(drawn, tmp_path / "s.zip")
    with pytest.raises(InputError, match="no longer takes"):
        benchmark.write_submission(tmp_path / "flame2023_tracking", tmp_path / "t.zip")
    assert not (tmp_path / "t.zip").exists()


def test_a_mesh_of_flame_is_the_same_while_a_network_computes_in_bfloat16(speech):
    codes = refit(speech[1][:1], FLAME2023).codes
    want = posed(codes)
    with torch.autocast("cpu", torch.bfloat16):
        got = posed(codes)
    np.testing.assert_array_equal(got, want)
