"""The whole road on raw captures as their owners lay them out: five commands, raw data to video.

fastgha prep, vggt-cache, train, eval --table 1, render --expr; people are drawn, networks are stood
in for, and everything is tiny. The person who is measured is never the one who was trained on.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.avatar.avatar import Avatar
from pipeline.captures.splits import held_out_ava256, held_out_nersemble
from pipeline.expressions.sequences import Sequence, write_sequence
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import ARKIT, FLAME2023, MAKEHUMAN, arkit_to_code
from pipeline.model.checkpoint import load_model, resolve
from pipeline.shards.reader import Shard, find_shards
from tests.captures import ava, nersemble, vhap
from tests.captures.studio import AVA, NERSEMBLE, ONE_PERSON, shoot
from tests.faces import flames
from tests.prep import toys


@pytest.fixture(autouse=True)
def stand_ins(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Register networks that need no weights; no weights are found but the face model's."""
    toys.register_studio(monkeypatch)
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path_factory.mktemp("weights")))
    head_model.cache_clear()


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three frames of a jaw that opens, of the built-in head."""
    weights = np.zeros((3, 52), np.float32)
    weights[:, ARKIT["jawOpen"]] = 0, 0.5, 1
    write_sequence(tmp_path / "speech.npz", Sequence(arkit_to_code(weights), 25))
    return tmp_path / "speech.npz"


def fastgha(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, f"{words}: {done.output} {done.exception}"
    return done.output


def drive(folder: Path, raws: dict[str, Path], speech: Path, layout: str, *prep: object) -> str:
    """Walk the road: `raws` names the person who is trained on, and the one who is measured.

    Returns:
        What the last command said.
    """
    source, *options = prep
    for part, raw in raws.items():
        out = folder / "shards" / part
        words = ("prep", source, raw, "-o", out, "--size", 64, "--workers", 1, *options)
        fastgha(*words)
        fastgha("prep", "check", out)
        fastgha("vggt-cache", out, "--backend", "mesh")
        with Shard(find_shards(out)[0]) as shard:
            assert shard.layout == layout and shard.coded.all() and shard.neutral is not None
            view = tuple(np.argwhere(shard.valid)[0].tolist())
            assert (shard.depth([view], 64) > 0).float().mean() > 0.05
    run, test = folder / "run", folder / "shards" / "test"
    fastgha(
        "train", folder / "shards" / "train", "-o", run, "--preset", "tiny", "--inputs", 1,
        "--set", "sampling.targets=2", "--set", "sizes=[32]", "--set", "steps=[2]", "--workers", 0,
        "--every", 2, "--device", "cpu",
    )  # fmt: skip
    (folder / "road.toml").write_text(ONE_PERSON)
    said = fastgha(
        "eval", "--shards", test, "--model", run, "--table", 1, "--protocol", folder / "road.toml",
        "--json", folder / "table.json", "--device", "cpu",
    )  # fmt: skip
    assert "PSNR" in said
    figures = json.loads((folder / "table.json").read_text())["figures"]
    assert np.isfinite(figures["PSNR"]["mean"])
    avatar(run, find_shards(test)[0]).save(folder / "me.avatar")
    video = folder / "me.mp4"
    said = fastgha("render", folder / "me.avatar", "--expr", speech, "-o", video, "--size", 64)
    with av.open(str(video)) as found:
        assert sum(1 for _ in found.decode(video=0)) == 3
    return said


def avatar(run: Path, path: Path) -> Avatar:
    """Make an avatar of two views of one timestep of a shard."""
    model, loaded = load_model(resolve(run))
    with Shard(path) as shard:
        pairs = [tuple(pair) for pair in np.argwhere(shard.valid)[:1].tolist()]
        views, mesh = shard.read(pairs, 32), shard.mesh([t for t, _ in pairs])
    return Avatar.create(model, views, loaded.header["layout"], {}, mesh)


def test_ava_256_from_raw_captures_to_a_table_and_a_video(tmp_path: Path, speech: Path):
    names = {"train": "20230309--1352--ABC123", "test": ava.NAME}
    assert [held_out_ava256(name[-6:]) for name in names.values()] == [False, True]
    raws = {part: tmp_path / "raw" / part for part in names}
    for part, name in names.items():
        ava.write(raws[part], shoot(**AVA), name)
    said = drive(
        tmp_path, raws, speech, MAKEHUMAN, "ava256", "--face", "makehuman", "--detector", "ava"
    )
    assert "converted" not in said


def test_nersemble_2_from_raw_captures_to_a_table_and_a_video_by_flame(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
):
    """The model's file is converted by the command, into the folder of weights."""
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path / "weights"))
    owners = tmp_path / "owners"
    owners.mkdir()
    flames.write_converted(owners)
    flame = tmp_path / "weights" / "flame2023.npz"
    fastgha(
        "flame", "convert", owners / "flame.pkl", "--version", "2023", "-o", flame, "--eyelids",
        owners / "l_eyelid.npy", owners / "r_eyelid.npy", "--landmarks",
        owners / "landmark_embedding.npy",
    )  # fmt: skip
    numbers = (f"{n:03d}" for n in range(1, 400))
    people: dict[str, str] = {}
    for number in numbers:
        people.setdefault("test" if held_out_nersemble(number) else "train", number)
    raws = {part: tmp_path / "raw" / part for part in people}
    for part, number in people.items():
        raw = nersemble.write_v2(raws[part], shoot(**NERSEMBLE), number)
        shutil.rmtree(raw / "sequences" / nersemble.SEQUENCES[1])
    said = drive(
        tmp_path, raws, speech, FLAME2023, "nersemble", "--face", flame, "--detector",
        "nersemble", "--matting", "wall",
    )  # fmt: skip
    assert f"converted from {MAKEHUMAN} to {FLAME2023}" in said


def test_vhap_exports_become_a_table_and_a_video_of_the_built_in_heads_speech(
    tmp_path: Path, speech: Path, monkeypatch: pytest.MonkeyPatch
):
    weights = tmp_path / "weights"
    weights.mkdir()
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(weights))
    model = flames.write_converted(weights)
    raws: dict[str, Path] = {}
    for part, number in (("train", "074"), ("test", "306")):
        out = vhap.write(tmp_path / "raw" / part, shoot(**NERSEMBLE))
        raws[part] = out.rename(out.with_name(f"{number}_EMO-1_whiteBg"))
    said = drive(
        tmp_path, raws, speech, FLAME2023, "folder", "--flame", model, "--detector", "none"
    )
    assert f"converted from {MAKEHUMAN} to {FLAME2023}" in said
