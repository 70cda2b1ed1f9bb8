"""Recipes from raw data to shards, with stand-ins for the networks, and with what is added to them.

The stand-ins come in as anybody's own reader, matting or detector would: registered by name.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.captures import registry
from pipeline.captures.registry import DatasetReader, register_reader
from pipeline.core.errors import ConfigError
from pipeline.core.types import ExpressionCode
from pipeline.faces.flame import load_flame
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import FLAME2023, JAW, MAKEHUMAN, matrix_from_rot6d
from pipeline.io.images import decode
from pipeline.io.video import write_mp4
from pipeline.perception import detectors, matting
from pipeline.perception.detectors import DetectorEntry, register_detector
from pipeline.perception.landmarks import MESH_HEAD
from pipeline.perception.matting import register_matting
from pipeline.prep import check
from pipeline.prep import run as recipes
from pipeline.prep.items import item_path, load_item
from pipeline.prep.plan import PrepConfig, load_plans
from pipeline.shards.reader import Shard
from pipeline.synthetic.subject import Frame
from pipeline.tracking.models import FlameFace
from pipeline.tracking.surface import JAW as STATE_JAW
from pipeline.tracking.surface import STATE, face_state
from pipeline.tracking.track_file import read_track
from pipeline.tracking.tracker import HeadTracker
from tests.captures import ava, nersemble
from tests.captures.studio import WALL, Studio, over, shoot
from tests.faces import flames
from tests.prep import toys

NARROW = {"width": 80, "height": 120, "span": 0.35}
"""So narrow that a crop of 40 cm reaches over both sides."""
LARGE = {"width": 240, "height": 320, "span": 0.5}
"""With room around the head, in so many pixels that a tracker sees the mouth."""
BLACK = (0, 0, 0)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register them for one test."""
    for module, name in ((registry, "READERS"), (matting, "MATTING"), (detectors, "DETECTORS")):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))
    register_reader("toy", DatasetReader(toys.find, toys.ToyCapture, f"files *{toys.ENDING}"))
    register_matting("everybody", toys.everybody)
    register_matting("wall", partial(toys.WallMatting, WALL))
    register_matting("black", partial(toys.WallMatting, BLACK))
    large = partial(toys.StudioDetector, *LARGE.values())
    register_detector("large", DetectorEntry(partial(large, WALL), MESH_HEAD))
    register_detector("black", DetectorEntry(partial(large, BLACK), MESH_HEAD))


def frontal(studio: Studio) -> list[np.ndarray]:
    return [over(row[0]) for row in studio.frames]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_data_set_and_a_network_are_added_by_one_registration_each(tmp_path: Path, workers: int):
    raw = toys.write(tmp_path, shoot(**NARROW))
    out = tmp_path.parent / f"{tmp_path.name}-out"
    config = PrepConfig("toy", size=64, matting="everybody", detector="none")
    assert recipes.run(raw, out, config, workers=workers).dropped == {}
    plan = load_plans(out)["tom"]
    with Shard(out / "tom.h5") as shard:
        shard.verify()
        assert (shard.timesteps, shard.views) == (4, 3) and shard.valid.all()
        assert shard.provenance["color"] == "as-drawn"
        for t, step in enumerate(plan.timesteps):
            item = load_item(item_path(out, "tom", "crop", step.name))
            for v in range(3):
                # The network takes all for the person; outside of the picture there is nobody.
                inside = np.asarray(decode(item.pictures["inside"][v]))
                view = shard.read([(t, v)], 64)
                assert (inside == 0).mean() > 0.05
                np.testing.assert_allclose(view.alpha[0, 0] * 255, inside, atol=1e-3)
                assert view.image[0][:, torch.from_numpy(inside == 0)].min() > 0.8
    shutil.rmtree(out)


def test_the_command_line_takes_a_network_that_was_added(tmp_path: Path):
    raw = nersemble.write_benchmark(tmp_path, shoot(**LARGE))
    shutil.rmtree(raw / "sequences" / nersemble.SEQUENCES[0] / "alpha_maps")
    out = tmp_path / "out"
    words = ["prep", "nersemble", str(raw), "-o", str(out), "--size", "128", "--workers", "1"]
    done = CliRunner().invoke(app, [*words, "--matting", "black", "--detector", "black"])
    assert done.exit_code == 0, done.output
    studio = shoot(**LARGE)
    with Shard(out / "393.h5") as shard:
        assert (shard.timesteps, shard.views, shard.layout) == (4, 3, FLAME2023)
        assert shard.valid.all() and shard.coded.all()
        for t in range(4):
            # Of three cameras' landmarks, in the frame of the head pose that the tracking says.
            truth = toys.as_mesh(studio.frames[t][0].landmarks)
            np.testing.assert_allclose(shard.landmarks(t), truth, atol=1e-3)
            for v in range(3):
                alpha = shard.read([(t, v)], 128).alpha[0, 0]
                assert alpha[64, 64] == 1 and alpha[:6].max() < 0.3
    assert [one.problems for one in check.run(out)] == [[]]


def test_photographs_become_a_shard_with_cameras_and_expressions(tmp_path: Path):
    studio, raw = shoot(**LARGE), tmp_path / "raw" / "eve"
    raw.mkdir(parents=True)
    for t, picture in enumerate(frontal(studio)):
        if t != 1:
            Image.fromarray(picture).save(raw / f"{t}.png")
    config = PrepConfig("photos", size=128, cameras=0, matting="wall", detector="large")
    recipes.run(raw.parent, tmp_path / "out", config)
    with Shard(tmp_path / "out" / "eve.h5") as shard:
        follows_the_studio(shard, [studio.frames[t][0] for t in (0, 2, 3)])
    assert [one.problems for one in check.run(tmp_path / "out")] == [[]]


def test_photographs_and_a_video_become_flame_heads_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The file lies anywhere; to read meshes from what was written it is the one of the weights."""
    weights = tmp_path / "weights"
    weights.mkdir()
    model = flames.write_converted(weights)
    studio, raw = shoot(**LARGE), tmp_path / "raw" / "eve"
    raw.mkdir(parents=True)
    for t in (0, 2, 3):
        Image.fromarray(frontal(studio)[t]).save(raw / f"{t}.png")
    words = ["prep", "photos", raw.parent, "-o", tmp_path / "out", "--size", 128]
    words += ["--matting", "wall", "--face", model]
    register_detector("mesh", detectors.DETECTORS["large"])
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    write_mp4(tmp_path / "eve.mp4", frontal(studio), 30)
    words = ["prep", "track-video", tmp_path / "eve.mp4", "-o", tmp_path / "t.npz"]
    done = CliRunner().invoke(app, [str(word) for word in (*words, "--face", model)])
    assert done.exit_code == 0, done.output
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(weights))
    head_model.cache_clear()
    with Shard(tmp_path / "out" / "eve.h5") as shard:
        follows_the_studio(shard, [studio.frames[t][0] for t in (0, 2, 3)], FLAME2023, model)
        assert shard.topology == head_model(FLAME2023).topology
        assert shard.neutral is not None
        posed = head_model(FLAME2023).posed(shard.neutral, shard.code(2))
        np.testing.assert_allclose(shard.vertices(2), posed, atol=3e-3)
    tracked = read_track(tmp_path / "t.npz")
    assert tracked.codes.layout == FLAME2023 and len(tracked.codes) == 4
    assert (np.diff(jaws(tracked.codes)) > 1).all()
    head_model.cache_clear()


def test_a_video_becomes_a_shard_with_cameras_and_expressions(tmp_path: Path):
    studio = shoot(**LARGE)
    write_mp4(tmp_path / "eve.mp4", frontal(studio), 30)
    config = PrepConfig("video", 128, cameras=0, every=2, matting="wall", detector="large")
    recipes.run(tmp_path / "eve.mp4", tmp_path / "out", config)
    with Shard(tmp_path / "out" / "eve.h5") as shard:
        follows_the_studio(shard, [studio.frames[t][0] for t in (0, 2)])
    assert [one.problems for one in check.run(tmp_path / "out")] == [[]]


def jaws(codes: ExpressionCode) -> np.ndarray:
    """How far the jaw is open, degrees."""
    R = matrix_from_rot6d(codes.values[:, JAW].double())
    return torch.rad2deg(torch.atan2(R[:, 2, 1], R[:, 2, 2])).numpy()


def opened(model: Path, degrees: np.ndarray) -> torch.Tensor:
    """Return what a FLAME model's expression takes over of a jaw that opens so far."""
    tracker = HeadTracker(face=FlameFace(load_flame(model)))
    states = np.zeros((len(degrees), STATE))
    states[:, STATE_JAW.start] = np.radians(degrees)
    meshes = tracker._posed(np.zeros(60), np.concatenate([0 * states[:1], states]))
    assert tracker._carrier is not None
    carried = tracker._carrier(meshes[0], meshes[1:], face_state(states))
    return carried.state.code(FLAME2023).values[:, :39]


def follows_the_studio(
    shard: Shard, frames: list[Frame], layout: str = MAKEHUMAN, model: Path | None = None
) -> None:
    """One view a timestep; the jaw opens more and more; the head is cut out and in the middle."""
    assert (shard.timesteps, shard.views, shard.layout) == (len(frames), 1, layout)
    assert shard.valid.all() and shard.coded.all()
    assert (np.diff(jaws(shard.code(range(len(frames))))) > 1).all()
    found = shard.code(range(len(frames)))
    # Of a jaw that opens, a FLAME model's expression takes some over: that is no error.
    jaw_alone = 0 if model is None else opened(model, jaws(found))
    assert (found.values[:, :39] - jaw_alone).abs().max() < 1.5
    for t, frame in enumerate(frames):
        away = np.linalg.norm(shard.landmarks(t).numpy() - toys.as_mesh(frame.landmarks), axis=-1)
        assert np.median(away) < 0.015  # the size of a head is not seen in one view
        alpha = shard.read([(t, 0)], 128).alpha[0, 0]
        assert alpha[56:73, 56:73].median() == 1  # one pixel may be the matte's soft edge
        assert alpha[:6].max() < 0.3 and 0.2 < alpha.mean() < 0.8
        # The studio's people have shoulders; a head ends at its neck.
        assert alpha[-5:].max() < 0.8


def test_the_landmarks_of_the_face_mesh_are_corrected_for_what_it_means_by_them(tmp_path: Path):
    entry = detectors.DETECTORS["mesh"]
    assert entry.head is MESH_HEAD
    # Where the detector sees them is the model's place and the bias; not the other way round.
    from pipeline.faces.makehuman import mean_landmarks

    np.testing.assert_allclose(mean_landmarks() + entry.bias(), MESH_HEAD)
    assert (detectors.DETECTORS["fan"].bias() == 0).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "nersembel"}, "no data set 'nersembel'. Did you mean nersemble"),
        ({"matting": "modnett"}, "no matting network 'modnett'. Did you mean modnet"),
        ({"detector": "mash"}, "no detector 'mash'. Did you mean mesh"),
    ],
)
def test_a_name_that_nobody_registered_is_refused_with_the_nearest(change: dict, words: str):
    with pytest.raises(ConfigError, match=words):
        PrepConfig(**{"source": "toy", **change})


def test_a_view_whose_matte_is_not_where_the_mesh_is_is_kept_and_said(tmp_path: Path):
    raw, out = tmp_path / "raw", tmp_path / "out"
    decoder = ava.write(raw, shoot(height=147)) / "decoder"
    meshes = decoder / "kinematic_tracking" / "registration_vertices.zip"
    vertices = [1000 * ava.registered(shoot(height=147), t) for t in range(4)]
    vertices[2] = vertices[2] + [250, 0, 0]  # millimetres: beside the head
    names = [f"{frame:06d}.ply" for frame in ava.FRAMES]
    meshes.unlink()
    ava.stored(meshes, {name: ava.ply(v) for name, v in zip(names, vertices, strict=True)})
    config = PrepConfig("ava256", size=64, detector="none", need_codes=False)
    recipes.run(raw, out, config)
    report = json.loads((out / "reports" / f"{ava.NAME}.json").read_text())
    assert set(report["doubted_views"]) == {f"SEN_a_b_001203 {camera}" for camera in ava.CAMERAS}
    assert all("covers the matte by" in note for note in report["doubted_views"].values())
    with Shard(out / f"{ava.NAME}.h5") as shard:
        assert shard.valid[2].all()
    found = check.run(out)[0]
    assert found.doubted == report["doubted_views"]
    assert [p for p in found.problems if "cannot be trained on" not in p] == []
    assert ["has no expression codes" in p for p in found.problems] == [True]
    assert (
        "SEN_a_b_001203 400940: the tracked mesh" in (out / "qa" / f"{ava.NAME}.html").read_text()
    )
