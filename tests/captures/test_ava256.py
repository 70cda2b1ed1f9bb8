"""Promises of the reader of Ava-256."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.captures import ava256
from pipeline.captures.capture import Timestep
from pipeline.captures.frontal import camera_angles, frontal_cameras
from pipeline.captures.registry import find_captures, open_capture
from pipeline.captures.splits import (
    AVA256_EVALUATED,
    AVA256_HELD_OUT,
    held_out_ava256,
    held_out_nersemble,
)
from pipeline.core.errors import InputError, MissingItemError
from pipeline.core.geometry import project
from tests.captures import ava
from tests.captures.studio import WALL, over, shoot

T0, DROPPED = Timestep("EXP_neutral_peak", 67), Timestep("EXP_neutral_peak", 68)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ava.write(tmp_path_factory.mktemp("ava"), shoot(116, 178))


def test_a_capture_is_found_and_described(raw):
    assert find_captures("ava256", raw.parent) == {ava.NAME: raw}
    capture = open_capture("ava256", raw)
    assert (capture.subject, capture.name) == ("BDF920", ava.NAME)
    assert capture.cameras == ava.CAMERAS
    assert capture.timesteps[2:] == (Timestep("SEN_a_b", 1203), Timestep("SEN_a_b", 1204))
    assert capture.sentences() == ("EXP_neutral_peak", "SEN_a_b")
    assert capture.facts["matte"] == "segmentation_parts of 3 cameras, hard edges"


def test_broken_archives_and_lost_frames_are_reported_by_name(raw):
    capture = open_capture("ava256", raw)
    missing = dict(capture.missing())
    assert missing == {
        "image/cam400941.zip": "1 of 4 frames, the first 000068",
        "segmentation_parts/cam400941.zip": "1 of 4 frames, the first 000068",
        "image/cam401999.zip": "not a whole zip archive.",
        "kinematic_tracking/registration_vertices.zip": "1 of 4 frames, the first 001204",
    }
    assert not capture.has(DROPPED, "400941")
    assert capture.has(DROPPED, "400940")
    with pytest.raises(MissingItemError, match=r"cam400941\.zip, member 000068 does not exist"):
        capture.view(DROPPED, "400941")
    with pytest.raises(MissingItemError, match="registration_vertices"):
        capture.mesh(capture.timesteps[3])
    with pytest.raises(MissingItemError, match="no camera 7"):
        capture.view(T0, "7")


def test_pictures_are_what_was_shot_in_srgb(raw):
    capture, studio = open_capture("ava256", raw), shoot(116, 178)
    for i, camera in enumerate(capture.cameras):
        view = capture.view(T0, camera)
        wanted = over(studio.frames[0][i]).astype(int)
        assert np.abs(view.image - wanted).mean() < 4
        # The dark end of a linear byte is coarse; a channel that is swapped is far off.
        assert np.abs(view.image - wanted[..., ::-1]).mean() > 8
        body = studio.frames[0][i].alpha > 127
        body[-6:, :6] = False
        assert (view.matte == 255 * body).all()
        assert view.backdrop == "scene"
    assert capture.color == "ava256-srgb-v1"


def test_the_published_colour_formula_by_hand():
    x = np.array([0.25, 0.5, 0.1])
    y = (x * [1.279545, 1.1059, 1.6] - np.array([4.4, 3.1, 4.2]) / 255) / 1.1059
    y /= 1 - np.array([4.4, 3.1, 4.2]) / 255
    np.testing.assert_allclose(ava256.to_srgb(x), y ** (1 / 1.5254))
    np.testing.assert_allclose(ava256.to_srgb(ava256.LINEAR_WHITE), 1)


def test_a_soft_matte_is_composited_in_linear_light_without_the_wall(tmp_path):
    studio = shoot(116, 178, supersample=2)
    capture = open_capture("ava256", ava.write(tmp_path, studio, soft=True))
    view = capture.view(T0, "400940")
    alpha = studio.frames[0][0].alpha
    assert view.backdrop == "white"
    assert np.abs(view.matte.astype(int) - alpha).mean() < 1.5
    assert np.median(view.image[alpha == 0]) == 255
    assert "subtracted" in capture.facts["background"]
    edge = (alpha > 60) & (alpha < 200)
    assert edge.sum() > 50
    light = ava.mixed(studio.frames[0][0], 255 * ava256.LINEAR_WHITE.clip(0, 1))[edge] / 255
    wanted = 255 * ava256.to_srgb(light)
    assert abs(view.image[edge].mean() - wanted.mean()) < 3
    walled = 255 * ava256.to_srgb(ava.mixed(studio.frames[0][0], ava.linear(np.array(WALL))) / 255)
    assert abs(walled[edge].mean() - wanted.mean()) > 10


def test_cameras_poses_and_meshes_fit_each_other(raw):
    capture, studio = open_capture("ava256", raw), shoot(116, 178)
    for t, timestep in enumerate(capture.timesteps[:3]):
        H, mesh = capture.head_to_world(timestep), capture.mesh(timestep)
        np.testing.assert_allclose(H, ava.head_pose(studio, t), atol=1e-6)
        points = capture.keypoints(timestep)
        assert points.shape == (274, 3)
        assert np.isnan(points[[1, 20]]).all()
        for i, name in enumerate(capture.cameras):
            camera = capture.camera(timestep, name)
            truth, _ = project(
                studio.rig[i], torch.from_numpy(studio.in_world(studio.frames[t][0].vertices, t))
            )
            seen, _ = project(camera, torch.from_numpy(mesh[: len(truth)]).double())
            assert float((seen - truth).abs().max()) < 0.01
            marks, _ = project(
                studio.rig[i], torch.from_numpy(studio.in_world(studio.frames[t][0].landmarks, t))
            )
            seen, _ = project(camera, torch.from_numpy(points[4 * 30]).double()[None])
            assert float((seen - marks[30]).abs().max()) < 0.01


def test_the_most_frontal_cameras_are_chosen_by_geometry(raw):
    capture = open_capture("ava256", raw)
    assert frontal_cameras(capture, 1) == ("400940",)
    angles = camera_angles(capture)
    assert sorted(angles, key=lambda c: angles[c]) == list(frontal_cameras(capture))
    assert 20 < angles["400941"] < 50


def test_the_held_out_people_are_thirty_and_frozen():
    assert len(set(AVA256_HELD_OUT)) == 30
    assert AVA256_EVALUATED[::11] == ("BDF920", "UIQ957")
    assert held_out_ava256("BDF920") and held_out_ava256("ZUE409")
    assert not held_out_ava256("AAA000")
    assert held_out_nersemble("074") == held_out_nersemble("74")
    share = np.mean([held_out_nersemble(f"{i:03d}") for i in range(1000)])
    assert 0.25 < share < 0.34


def test_a_worker_gets_a_closed_copy(raw):
    capture = open_capture("ava256", raw)
    capture.view(T0, "400940")
    other = copy.deepcopy(capture)  # goes the way of pickling
    capture.close()
    assert other.view(T0, "400940").image.shape == (178, 116, 3)
    assert capture.view(T0, "400940").image.shape == (178, 116, 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda k: k["KRT"][0].update(K=np.array(k["KRT"][0]["K"]).T.tolist()), "transposed"),
        (lambda k: k["KRT"][1].update(T=np.array(k["KRT"][1]["T"]).T.tolist()), "transposed"),
        (lambda k: [c["T"][3].__setitem__(slice(0, 3), [0.1, 0.2, 1.0]) for c in k["KRT"]],
         "millimetres"),
        (lambda k: k["KRT"][2].update(projectionModel="Fisheye"), "'Fisheye'"),
        (lambda k: k["KRT"][0].pop("cameraId"), "has no 'cameraId'"),
        (lambda k: k.update(KRT={}), "'KRT' is a dict"),
        (lambda k: k["KRT"][0]["K"][2].__setitem__(0, 5000.0), "principal point"),
    ],
)  # fmt: skip
def test_a_drifted_calibration_is_refused_by_name(raw, tmp_path, change, words):
    values = json.loads((raw / "decoder/camera_calibration.json").read_text())
    change(values)
    (tmp_path / "camera_calibration.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words):
        ava256.read_calibration(tmp_path / "camera_calibration.json")


@pytest.mark.parametrize("text", ["frame_id,seg_id\n1,a\n", "", "seg_id,frame_id\na,x1\n"])
def test_a_drifted_frame_list_is_refused(tmp_path, text):
    (tmp_path / "frame_list.csv").write_text(text)
    with pytest.raises(InputError, match=r"frame_list\.csv"):
        ava256.read_frames(tmp_path / "frame_list.csv")
