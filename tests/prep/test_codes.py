"""Where the codes of a capture come from: settled before work, matched, fitted."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.captures.ava256 import Ava256Capture
from pipeline.captures.capture import Timestep
from pipeline.captures.registry import open_capture
from pipeline.core.errors import (
    ConfigError,
    FastGHAError,
    FormatError,
    InputError,
    MissingItemError,
)
from pipeline.faces.flame import load_flame
from pipeline.faces.heads import FlameHead, head_model
from pipeline.faces.layouts import FLAME2020, FLAME2023, JAW, MAKEHUMAN, matrix_from_rot6d
from pipeline.perception import detectors, matting
from pipeline.perception.detectors import DetectorEntry, register_detector
from pipeline.perception.landmarks import MESH_HEAD, Face
from pipeline.perception.matting import register_matting
from pipeline.prep import check
from pipeline.prep import run as recipes
from pipeline.prep.codes import Trackings
from pipeline.prep.items import load_item, save_item
from pipeline.prep.plan import PrepConfig, plan_all
from pipeline.prep.stages import track
from pipeline.shards.reader import Shard
from pipeline.tracking import tracker
from tests.captures import ava, nersemble, vhap
from tests.captures.studio import WALL, shoot
from tests.faces import flames
from tests.prep import toys

SIZE = {"width": 192, "height": 294, "span": 0.42}
"""In the proportions of Ava-256."""
NERSEMBLE = {"width": 192, "height": 280, "span": 0.42}


@pytest.fixture(autouse=True)
def studio_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors, "DETECTORS", dict(detectors.DETECTORS))
    monkeypatch.setattr(matting, "MATTING", dict(matting.MATTING))
    register_matting("wall", partial(toys.WallMatting, WALL))
    for name, size in (("studio", SIZE), ("nersemble", NERSEMBLE)):
        knows = partial(toys.StudioDetector, *size.values(), WALL)
        register_detector(name, DetectorEntry(knows, MESH_HEAD))


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An Ava-256 capture, all of whose meshes and pictures are there."""
    root = tmp_path_factory.mktemp("ava")
    ava.write(root, shoot(**SIZE))
    return root


@pytest.fixture(scope="module")
def flame(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted model that is a face."""
    return flames.write_converted(tmp_path_factory.mktemp("flame"))


def jaws(shard: Shard) -> np.ndarray:
    """How far the codes open the jaw, degrees."""
    R = matrix_from_rot6d(shard.code(range(shard.timesteps)).values[:, JAW].double())
    return torch.rad2deg(torch.atan2(R[:, 2, 1], R[:, 2, 2])).numpy()


def test_a_capture_without_codes_is_refused_at_once_and_the_ways_are_named(
    capture: Path, tmp_path: Path
):
    with pytest.raises(InputError) as refused:
        recipes.run(capture, tmp_path / "out", PrepConfig("ava256", size=64))
    assert all(
        way in str(refused.value) for way in ("--tracking", "--face makehuman", "--no-codes")
    )
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="needs landmarks"):
        PrepConfig("ava256", detector="none", face="makehuman")


@pytest.mark.parametrize("head", ["makehuman", "flame"])
def test_our_own_fit_gives_ava_codes_and_a_mesh_in_the_data_sets_head_pose(
    capture: Path, flame: Path, tmp_path: Path, head: str
):
    words = ["prep", "ava256", capture, "-o", tmp_path, "--size", 64, "--workers", 1]
    words += ["--detector", "studio", "--face", "makehuman" if head == "makehuman" else flame]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    studio = shoot(**SIZE)
    model = (
        head_model(MAKEHUMAN) if head == "makehuman" else FlameHead(load_flame(flame), FLAME2023)
    )
    with Shard(tmp_path / f"{ava.NAME}.h5") as shard:
        assert (shard.timesteps, shard.views, shard.layout) == (4, 3, model.layout)
        assert shard.topology == model.topology and shard.neutral is not None
        assert (np.diff(jaws(shard)) > 1).all()
        # The poses of the data set are kept: all frames differ from them by one rigid motion.
        seats = [
            np.linalg.inv(studio.rig.world_to_camera[0].numpy() @ studio.head_to_world[t])
            @ shard.cameras(t).world_to_camera[0].double().numpy()
            for t in range(4)
        ]
        np.testing.assert_allclose(seats, np.stack([seats[0]] * 4), atol=2e-5)
        for t in range(4):
            # The mesh of the shard is the model's under the shard's code.
            posed = model.posed(shard.neutral, shard.code(t))
            np.testing.assert_allclose(shard.vertices(t), posed, atol=2e-3)
            truth = (
                studio.frames[t][0].landmarks @ seats[0][:3, :3]
                - seats[0][:3, 3] @ seats[0][:3, :3]
            )
            away = np.linalg.norm(shard.landmarks(t).numpy() - toys.as_mesh(truth), axis=-1)
            assert np.median(away) < 0.004
            faces = studio.frames[t][0].vertices
            faces = faces if head == "makehuman" else faces[flames.kept()]
            front = (faces[:, 2] > 0.05) & (faces[:, 1] > -0.08)
            mesh = np.asarray(shard.vertices(t)) @ seats[0][:3, :3].T + seats[0][:3, 3]
            assert np.median(np.linalg.norm(mesh - faces, axis=1)[front]) < 0.0025
    assert [one.problems for one in check.run(tmp_path)] == [[]]
    report = json.loads((tmp_path / "reports" / f"{ava.NAME}.json").read_text())
    assert report["facts"]["codes"] == f"our own fit of {model.layout} in 3 views"


@pytest.mark.parametrize("head", ["makehuman", "flame"])
def test_the_person_is_the_same_in_all_blocks_and_in_a_run_that_goes_on(
    capture: Path, flame: Path, tmp_path: Path, head: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(track, "TOGETHER", 2)
    face = "makehuman" if head == "makehuman" else str(flame)
    config = PrepConfig("ava256", size=64, detector="studio", face=face)
    recipes.run(capture, tmp_path, config, until="track")
    work = tmp_path / "work" / ava.NAME
    files = sorted((work / "track").iterdir())
    items = [load_item(path) for path in files]
    assert len(items) == 4 and all(len(item.arrays["neutral"]) for item in items)
    for item in items[1:]:
        np.testing.assert_array_equal(item.arrays["neutral"], items[0].arrays["neutral"])
    whole, person = files[3].read_bytes(), (work / "person.npz").stat().st_mtime_ns
    files[3].unlink()
    recipes.run(capture, tmp_path, config, until="track")
    assert files[3].read_bytes() == whole
    assert (work / "person.npz").stat().st_mtime_ns == person


@pytest.mark.parametrize("posed", [True, False])
def test_moments_are_compared_in_the_pictures_of_one_camera(
    capture: Path, tmp_path: Path, posed: bool, monkeypatch: pytest.MonkeyPatch
):
    """Also where heads and not cameras are told to move: each picture has a camera of its own."""
    asked: list[tuple[list[int], list[int]]] = []

    def note(shown, moments, views, found, *more):
        asked.append((list(moments), list(views)))
        return found.states, found.poses

    monkeypatch.setattr(tracker, "align_moments", note)
    if not posed:
        monkeypatch.setattr(Ava256Capture, "head_to_world", lambda self, step: None)
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    recipes.run(capture, tmp_path, config, until="track")
    # The second camera lacks the second frame.
    assert asked == [([0, 0, 0, 1, 1, 2, 2, 2, 3, 3, 3], [0, 1, 2, 0, 2, 0, 1, 2, 0, 1, 2])]


def test_a_head_pose_that_is_wrong_costs_its_timestep_and_says_so(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shipped = Ava256Capture.head_to_world

    def wrong(self: Ava256Capture, step: Timestep) -> np.ndarray:
        pose = shipped(self, step).copy()
        if step.index == ava.FRAMES[2]:
            pose[:3, :3] = Rotation.from_euler("y", 12, True).as_matrix() @ pose[:3, :3]
        return pose

    monkeypatch.setattr(Ava256Capture, "head_to_world", wrong)
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    recipes.run(capture, tmp_path, config, until="track")
    files = sorted((tmp_path / "work" / ava.NAME / "track").iterdir())
    dropped = [load_item(path).dropped.get("timestep", "") for path in files]
    assert [bool(reason) for reason in dropped] == [False, False, True, False]
    assert re.match(r"our own fit is off by \d+ pixels from what is seen", dropped[2])


def test_a_timestep_that_one_camera_alone_sees_is_lost_and_says_so(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    seen = toys.StudioDetector.__call__
    calls: list[int] = []

    def once(self: toys.StudioDetector, rgb: np.ndarray) -> list[Face]:
        calls.append(1)
        return seen(self, rgb) if len(calls) not in (2, 3) else []

    monkeypatch.setattr(toys.StudioDetector, "__call__", once)
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    recipes.run(capture, tmp_path, config, until="track")
    files = sorted((tmp_path / "work" / ava.NAME / "track").iterdir())
    dropped = [load_item(path).dropped.get("timestep", "") for path in files]
    assert "a face was found in 1 calibrated views only" in dropped[0]
    assert not any(dropped[1:])


def test_a_view_whose_camera_is_not_known_is_left_out_of_the_fit(
    capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    known = Ava256Capture.camera

    def lost(self: Ava256Capture, step: Timestep, camera: str):
        if camera == ava.CAMERAS[2]:
            raise MissingItemError("It is lost.", "Get it again.")
        return known(self, step, camera)

    monkeypatch.setattr(Ava256Capture, "camera", lost)
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    recipes.run(capture, tmp_path, config, until="track")
    items = [load_item(p) for p in sorted((tmp_path / "work" / ava.NAME / "track").iterdir())]
    for t, item in enumerate(items):
        # The second camera dropped the second frame: one is left.
        assert ("timestep" in item.dropped) == (t == 1)
        found = np.isfinite(item.arrays["world_to_camera"]).all((1, 2))
        assert found.tolist() == ([False] * 3 if t == 1 else [True, True, False])
        assert item.dropped[ava.CAMERAS[2]] == "It is lost."


def test_landmarks_of_an_older_version_are_refused_and_not_taken_for_no_face(
    capture: Path, tmp_path: Path
):
    config = PrepConfig("ava256", size=64, detector="studio", face="makehuman")
    recipes.run(capture, tmp_path, config, until="landmarks")
    for path in (tmp_path / "work" / ava.NAME / "landmarks").iterdir():
        item = load_item(path)
        few = {name: x for name, x in item.arrays.items() if not name.startswith("seen_")}
        save_item(path, replace(item, arrays=few))
    with pytest.raises(FormatError, match="landmarks alone") as refused:
        recipes.run(capture, tmp_path, config, until="track")
    assert "--overwrite" in refused.value.remedy
    recipes.run(capture, tmp_path, config, until="track", overwrite=True)


@pytest.mark.parametrize("source", ["ava256", "photos"])
def test_a_flame_that_cannot_be_fitted_is_refused_before_any_work(
    capture: Path, flame: Path, tmp_path: Path, source: str
):
    with np.load(flame) as whole:
        arrays = dict(whole)
    pictures = tmp_path / "raw"
    pictures.mkdir()
    Image.new("RGB", (8, 8)).save(pictures / "a.png")
    raw = capture if source == "ava256" else pictures
    files = {
        "untied": {name: x for name, x in arrays.items() if not name.startswith("tie_")},
        "unmarked": {name: x for name, x in arrays.items() if name not in ("corners", "shares")},
        "open": arrays | {"version": np.array("2023-open")},
    }
    said: dict[str, FastGHAError] = {}
    for name, these in files.items():
        np.savez(tmp_path / f"{name}.npz", **these)
        config = PrepConfig(
            source, size=64, detector="studio", face=str(tmp_path / f"{name}.npz"),
            need_codes=source == "ava256",
        )  # fmt: skip
        with pytest.raises(FastGHAError) as refused:
            recipes.run(raw, tmp_path / "out", config)
        said[name] = refused.value
    for name in ("untied", "unmarked"):
        assert f"{name}.npz" in said[name].problem and "Convert it again" in said[name].remedy
        assert "--landmarks landmark_embedding.npy" in said[name].remedy
    assert "has no layout of expression codes" in said["open"].problem
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("head", ["makehuman", "flame"])
def test_the_fit_gives_the_same_bytes_on_any_number_of_workers_and_threads(
    capture: Path, flame: Path, tmp_path: Path, head: str
):
    face = str(flame) if head == "flame" else head
    config = PrepConfig("ava256", size=64, detector="studio", face=face, every=2)
    before = torch.get_num_threads()
    try:
        for workers, threads in ((1, 2), (2, 1)):
            torch.set_num_threads(threads)
            recipes.run(capture, tmp_path / f"{workers}", config, workers=workers)
    finally:
        torch.set_num_threads(before)
    one, two = (tmp_path / f"{n}" / f"{ava.NAME}.h5" for n in (1, 2))
    assert one.read_bytes() == two.read_bytes()


def test_full_nersemble_has_neither_pose_nor_codes_and_gets_both_from_the_fit(tmp_path: Path):
    raw, out = nersemble.write_v2(tmp_path / "raw", shoot(**NERSEMBLE)), tmp_path / "out"
    with pytest.raises(InputError, match="no head pose"):
        recipes.run(raw, out, PrepConfig("nersemble", size=64, cameras=0, detector="nersemble"))
    assert not out.exists()
    config = PrepConfig(
        "nersemble", size=64, cameras=0, detector="nersemble", face="makehuman", matting="wall"
    )
    recipes.run(raw, out, config)
    studio = shoot(**NERSEMBLE)
    with Shard(out / "074.h5") as shard:
        assert (shard.timesteps, shard.layout) == (7, MAKEHUMAN)
        angles = []
        for t in range(4):
            view = shard.provenance["cameras"].index(nersemble.SERIALS[0])
            E = shard.cameras(t).world_to_camera[view].double().numpy()
            truth = studio.rig.world_to_camera[0].numpy() @ studio.head_to_world[t]
            turn = Rotation.from_matrix(truth[:3, :3].T @ E[:3, :3]).magnitude()
            angles.append(np.degrees(turn))
        assert max(angles) < 5
        assert (np.diff(jaws(shard)[:4]) > 1).all()
    assert [one.problems for one in check.run(out)] == [[]]


def codes(frames: list[int], layout: str = FLAME2020) -> dict[str, np.ndarray]:
    values = np.zeros((len(frames), 120), np.float32)
    values[:, 0] = frames
    values[:, 100:118] = np.tile([1, 0, 0, 0, 1, 0], 3)
    return {"codes": values / 1000, "layout": np.array(layout), "frames": np.array(frames)}


def test_trackings_are_matched_by_capture_sentence_and_frame_and_gaps_are_said(
    capture: Path, tmp_path: Path
):
    tracked = tmp_path / "tracked"
    (tracked / "BDF920").mkdir(parents=True)
    np.savez(tracked / "BDF920" / "EXP_neutral_peak.npz", **codes([67, 68]))
    np.savez(tracked / "BDF920" / "SEN_a_b.npz", **codes([1203]))
    config = PrepConfig("ava256", size=64, detector="none", tracking=str(tracked))
    said: list[str] = []
    recipes.run(capture, tmp_path / "out", config, announce=said.append)
    assert any("3 of 4 timesteps" in line for line in said)
    with Shard(tmp_path / "out" / f"{ava.NAME}.h5") as shard:
        assert shard.layout == FLAME2020 and shard.timesteps == 3
        np.testing.assert_allclose(shard.code(range(3)).values[:, 0], [0.067, 0.068, 1.203])
    report = json.loads((tmp_path / "out" / "reports" / f"{ava.NAME}.json").read_text())
    assert "no frame of SEN_a_b_001204" in report["dropped_timesteps"]["SEN_a_b_001204"]
    assert report["missing"]["SEN_a_b_001204"] == "the tracking has no such frame"


def test_a_tracking_of_nobody_here_or_of_other_frames_is_refused_at_once(
    capture: Path, tmp_path: Path
):
    (tmp_path / "other").mkdir()
    np.savez(tmp_path / "other" / "XYZ999.npz", **codes([67]))
    held = open_capture("ava256", capture / ava.NAME)
    with pytest.raises(InputError, match="no tracking of .*; it has trackings of XYZ999"):
        Trackings(tmp_path / "other", held, alone=False)
    config = PrepConfig("ava256", size=64, detector="none", tracking=str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"^The tracking in .* has no frame of"):
        plan_all(capture, replace(config, segments="SEN*"))
    np.savez(tmp_path / "other" / "XYZ999.npz", **codes([0, 1, 2]))
    with pytest.raises(InputError, match="which is which cannot be told"):
        plan_all(capture, config)


def test_frames_that_a_tracker_counted_anew_are_matched_by_their_order(
    capture: Path, tmp_path: Path
):
    np.savez(tmp_path / "BDF920.npz", **codes([0, 1, 2, 3]))
    # One of somebody else is none of this capture's, even if it is the only one left of a run.
    np.savez(tmp_path / "XYZ999.npz", **codes([0, 1, 2, 5]))
    found = Trackings(tmp_path, open_capture("ava256", capture / ava.NAME), alone=True)
    got = [
        float(found.code(Timestep(s, f)).values[0])
        for s, f in zip(["EXP_neutral_peak"] * 2 + ["SEN_a_b"] * 2, ava.FRAMES, strict=True)
    ]
    np.testing.assert_allclose(got, [0, 0.001, 0.002, 0.003])


def test_two_trackings_of_one_sentence_are_refused_but_the_second_version_is_taken(tmp_path: Path):
    raw = nersemble.write_benchmark(tmp_path / "raw", shoot(**NERSEMBLE))
    held = open_capture("nersemble", raw)
    folder = tmp_path / "t" / "393" / nersemble.SEQUENCES[0]
    folder.mkdir(parents=True)
    second = nersemble.tracking(shoot(**NERSEMBLE))
    first = {**second, "expression": second["expression"] + 1}
    np.savez(folder / "flame2023_tracking.npz", **first)
    np.savez(folder / "flame2023_tracking_v2.npz", **second)
    found = Trackings(tmp_path / "t", held, alone=True)
    step = held.timesteps[2]
    np.testing.assert_allclose(found.code(step).values[:100], second["expression"][2], atol=1e-5)
    np.savez(folder / "a.npz", **codes([0, 1]))
    np.savez(folder / "b.npz", **codes([0, 1]))
    for name in ("flame2023_tracking.npz", "flame2023_tracking_v2.npz"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="trackings of one sentence"):
        Trackings(tmp_path / "t", held, alone=True)


def test_a_vhap_export_is_brought_to_the_captures_world_by_the_cameras_of_both(
    tmp_path: Path, flame: Path
):
    """VHAP turns and moves the world of a capture, and numbers its frames anew."""
    studio = shoot(**NERSEMBLE)
    raw = nersemble.write_v2(tmp_path / "raw", studio)
    shutil.rmtree(raw / "sequences" / nersemble.SEQUENCES[1])
    moved = np.eye(4)
    moved[:3, :3] = Rotation.from_euler("xyz", (4, 20, 3), degrees=True).as_matrix()
    moved[:3, 3] = 0.02, -0.1, 0.05
    export = vhap.write(tmp_path / "t", studio)
    whole = json.loads((export / "transforms.json").read_text())
    for frame in whole["frames"]:
        frame["transform_matrix"] = (moved @ np.array(frame["transform_matrix"])).tolist()
        frame["camera_id"] = nersemble.SERIALS[frame["camera_index"]]
        frame["timestep_id"] = f"frame_{frame['timestep_index']:05d}"
    (export / "transforms.json").write_text(json.dumps(whole))
    for t in range(4):
        file = export / "flame_param" / f"{t:05d}.npz"
        with np.load(file) as arrays:
            values = dict(arrays)
        H = moved @ studio.head_to_world[t]
        values["rotation"] = Rotation.from_matrix(H[:3, :3]).as_rotvec()[None]
        values["translation"] = H[:3, 3][None]
        np.savez(file, **values)
    held = open_capture("nersemble", raw)
    found = Trackings(tmp_path / "t", held, alone=True)
    step = held.timesteps[2]
    tracked = found.fit(step)
    assert tracked is not None
    fit, world = tracked
    np.testing.assert_allclose(world, np.linalg.inv(moved), atol=1e-6)
    np.testing.assert_allclose(
        world[:3, :3] @ fit.rotations[0], studio.head_to_world[2, :3, :3], atol=1e-5
    )
    # One camera that stands elsewhere: it is another recording.
    whole["frames"][0]["transform_matrix"][0][3] += 0.02
    (export / "transforms.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match="are not those of"):
        Trackings(tmp_path / "t", held, alone=True).fit(step)
