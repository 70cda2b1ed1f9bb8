"""Avatars, checkpoints and camera paths whose headers or numbers lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import cameras_for, write_path
from pipeline.core.errors import FormatError, ShapeError
from pipeline.faces.layouts import neutral_code
from pipeline.model.checkpoint import load, load_model
from tests.conftest import dome
from tests.fuzzing.targets import TARGETS

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("whole")
    for name in ("avatar", "avatar-guided", "avatar-baked", "checkpoint"):
        (root / name).mkdir()
        TARGETS[name].make(root / name)
    return root


def rewritten(source: Path, path: Path, change: Change) -> Path:
    tensors = load_file(source)
    with safe_open(source, "pt") as file:
        facts = json.loads(file.metadata()["json"])
    change(facts, tensors)
    save_file(tensors, path, {"json": json.dumps(facts)})
    return path


def put(name: str, index: Any, value: float) -> Change:
    return lambda _, tensors: tensors[name].__setitem__(index, value)


AVATARS: dict[str, tuple[str, Change, str]] = {
    "a vertex that is not there": ("-guided", put("rig.vertex", 0, 10**6), "not there"),
    "a vertex before the first": ("-guided", put("rig.vertex", 0, -1), "not there"),
    "a weight above 1": ("-guided", put("rig.weight", 0, 2.0), "rig.weight"),
    "a mesh of fewer vertices": (
        "-guided", lambda f, t: t.update({"rig.neutral": t["rig.neutral"][:9]}), "9 vertices",
    ),
    "no mesh": ("-guided", lambda f, t: t.pop("rig.neutral"), "mesh is"),
    "nan": ("", put("gaussians.means", (0, 0), float("nan")), "nan"),
    "a Gaussian on the moon": ("", put("gaussians.means", (0, 0), 4e8), "not within"),
    "a negative size": ("", put("gaussians.scales", (0, 0), -1.0), "not within"),
    "no Gaussians": (
        "", lambda f, t: t.update({k: v[:0] for k, v in t.items() if "gaussians" in k}), "of its",
    ),
    "no colours": ("", lambda f, t: t.pop("gaussians.colors"), "missing"),
    "whole numbers": (
        "", lambda f, t: t.update({"gaussians.means": t["gaussians.means"].long()}), "int64",
    ),
    "features of others": ("", lambda f, t: t.update(features=t["features"][:3]), "features"),
    "a layout of nobody": ("", lambda f, t: f.update(layout="mine"), "layout"),
    "text where numbers belong": ("", lambda f, t: f["deformation"].update(width="x"), "width"),
    "no settings": ("", lambda f, t: f.pop("deformation"), "deformation"),
    "a list of settings": ("", lambda f, t: f.update(deformation=[]), "deformation"),
    "a huge network": ("", lambda f, t: f["deformation"].update(width=16384), "does not fit"),
    "an endless network": ("", lambda f, t: f["deformation"].update(layers=10**9), "layers"),
    "baked, huge": ("-baked", lambda f, t: f["deformation"].update(moving=10**9), "moving"),
    "more move than are": ("-baked", lambda f, t: f["deformation"].update(moving=10**6), "move"),
    "half true": ("-baked", lambda f, t: f.update(baked="yes"), "baked"),
    "a version that is text": ("", lambda f, t: f.update(version="x" * 9999), "version 'xxx"),
}  # fmt: skip


@pytest.mark.parametrize("name", AVATARS)
def test_a_damaged_avatar_is_refused_by_name(whole: Path, tmp_path: Path, name: str):
    kind, change, words = AVATARS[name]
    path = rewritten(whole / f"avatar{kind}" / "a.avatar", tmp_path / "x.avatar", change)
    with pytest.raises(FormatError, match=words) as caught:
        Avatar.load(path)
    assert "x.avatar" in str(caught.value) and len(str(caught.value)) < 400


def test_an_avatar_that_flies_apart_says_so(whole: Path, tmp_path: Path):
    path = rewritten(
        whole / "avatar-baked" / "a.avatar", tmp_path / "x.avatar",
        lambda _, t: t["deformation.shapes"].fill_(60_000),
    )  # fmt: skip
    avatar = Avatar.load(path, "float32")
    with pytest.raises(ShapeError, match="flies apart"):
        avatar.animate(neutral_code(avatar.layout))


CHECKPOINTS: dict[str, Change] = {
    "no step": lambda f, t: f.pop("step"),
    "a step before the first": lambda f, t: f.update(step=-1),
    "a step that is text": lambda f, t: f.update(step="3"),
    "no model": lambda f, t: f.pop("model"),
    "a decoder that is a list": lambda f, t: f["model"].update(decoder=[]),
    "a huge transformer": lambda f, t: f["model"]["transformer"].update(width=99999999),
    "a wide transformer": lambda f, t: f["model"]["transformer"].update(width=8192),
    "a setting of nobody": lambda f, t: f["model"].update(x=1),
    "a backbone of nobody": lambda f, t: f["model"]["features"].update(backbone="x"),
    "nan": lambda f, t: t[min(t)].fill_(float("nan")),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_damaged_checkpoint_is_refused(whole: Path, tmp_path: Path, name: str):
    source = whole / "checkpoint" / "c.safetensors"
    path = rewritten(source, tmp_path / "c.safetensors", CHECKPOINTS[name])
    with pytest.raises(FormatError, match="c.safetensors"):
        load_model(path)


def test_a_whole_checkpoint_is_read(whole: Path):
    assert load(whole / "checkpoint" / "c.safetensors").header["step"] == 1


PATHS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no camera": lambda d: d.update(cameras=[]),
    "cameras that are a number": lambda d: d.update(cameras=3),
    "a camera that is text": lambda d: d["cameras"].__setitem__(0, "x"),
    "a matrix of text": lambda d: d["cameras"][0].update(K="x"),
    "a matrix of nan": lambda d: d["cameras"][0].update(K=[[float("nan")] * 3] * 3),
    "a number too large": lambda d: d["cameras"][0].update(K=[[10**400] * 3] * 3),
    "a width that is text": lambda d: d.update(width="64"),
    "no width": lambda d: d.pop("width"),
    "a huge picture": lambda d: d.update(width=10**9, height=10**9),
    "a picture of a line": lambda d: d.update(height=1),
}


@pytest.mark.parametrize("name", PATHS)
def test_a_damaged_camera_path_is_refused(tmp_path: Path, name: str):
    path = tmp_path / "p.json"
    write_path(path, dome(3, 64))
    data = json.loads(path.read_text())
    PATHS[name](data)
    path.write_text(json.dumps(data))
    with pytest.raises(FormatError, match="is not a camera path"):
        cameras_for(str(path), Path(), 5, 64, 40)


@pytest.mark.parametrize("change", [{"size": np.array(["a", "b"])}, {"K": np.zeros((2, 3, 3))},
                                    {"world_to_camera": np.full((3, 4, 4), np.nan)}])  # fmt: skip
def test_damaged_cameras_of_a_sequence_are_refused(tmp_path: Path, change: dict[str, np.ndarray]):
    camera = dome(3, 64)
    arrays = {"world_to_camera": camera.world_to_camera.numpy(), "K": camera.K.numpy()}
    np.savez(tmp_path / "s.npz", **{**arrays, "size": np.array([64, 64]), **change})
    with pytest.raises(FormatError, match="s.npz"):
        cameras_for("original", tmp_path / "s.npz", 3, 64, 40)
