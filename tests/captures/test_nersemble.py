"""Promises of the reader of NeRSemble, in each of its layouts."""

import json

import numpy as np
import pytest
import torch
from colour.characterisation import matrix_augmented_Cheung2004

from pipeline.captures.capture import Timestep
from pipeline.captures.color import Cheung
from pipeline.captures.nersemble import fit_intrinsics
from pipeline.captures.registry import find_captures, open_capture
from pipeline.core.errors import InputError, MissingItemError
from pipeline.core.geometry import project
from pipeline.core.srgb import encode, linearize
from pipeline.faces.layouts import FLAME2023
from tests.captures import nersemble
from tests.captures.nersemble import SEQUENCES, SERIALS
from tests.captures.studio import Studio, over, shoot

T0 = Timestep(SEQUENCES[0], 0)
ORDER = ("221501007", "222200036", "222200037")


def studio() -> Studio:
    return shoot(110, 160)


def unlike(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def seen_where_it_was(camera, i: int, t: int = 0) -> float:
    """The largest distance of the face's points from where the true camera sees them, px."""
    points = torch.from_numpy(studio().in_world(studio().frames[t][i].landmarks, t))
    return float((project(camera, points)[0] - project(studio().rig[i], points)[0]).abs().max())


def test_version_2_is_read_and_its_losses_reported(tmp_path):
    out = nersemble.write_v2(tmp_path, studio())
    assert find_captures("nersemble", tmp_path) == {"074": out}
    capture = open_capture("nersemble", out)
    assert capture.subject == "074"
    assert capture.cameras == ORDER
    assert capture.sentences() == SEQUENCES
    assert [t.index for t in capture.timesteps] == [0, 1, 2, 3, 0, 1, 2]
    assert capture.color == "nersemble-v2-cheung4"
    assert capture.facts["matte"] == "none shipped"
    missing = dict(capture.missing())
    assert missing.pop(f"{SEQUENCES[0]}, camera {SERIALS[2]}") == "not there"
    assert "is not a whole video" in missing.pop(f"{SEQUENCES[1]}, camera {SERIALS[2]}")
    assert missing == {}
    assert not capture.has(T0, SERIALS[2])
    assert not capture.has(Timestep(SEQUENCES[1], 1), SERIALS[2])
    view = capture.view(T0, SERIALS[0])
    assert view.matte is None
    assert unlike(view.image, over(studio().frames[0][0])) < 4
    assert seen_where_it_was(view.camera, 0) < 0.3  # 160 rows are not quite a 20th of 3208
    assert capture.background(SERIALS[0]).shape == (160, 110, 3)
    assert capture.background(SERIALS[1]) is None


def test_frames_of_a_video_come_in_any_order(tmp_path):
    capture = open_capture("nersemble", nersemble.write_v2(tmp_path, studio()))
    for t in (0, 2, 3, 1, 0):
        image = capture.view(Timestep(SEQUENCES[0], t), SERIALS[1]).image
        errors = [unlike(image, over(row[1])) for row in studio().frames]
        assert int(np.argmin(errors)) == t
    capture.close()
    with pytest.raises(MissingItemError, match="no frame 9"):
        capture.view(Timestep(SEQUENCES[0], 9), SERIALS[1])


def test_version_1_is_read_with_its_colours_and_unpadded_id(tmp_path):
    out = nersemble.write_v1(tmp_path, studio())
    assert find_captures("nersemble", tmp_path) == {"074": out}
    capture = open_capture("nersemble", out)
    assert capture.color == "nersemble-v1-affine"
    assert capture.missing() == {}
    view = capture.view(T0, SERIALS[0])
    assert unlike(view.image, over(studio().frames[0][0])) < 4
    np.save(tmp_path / f"color_correction/074/{SERIALS[0]}.npy", np.eye(3))
    with pytest.raises(MissingItemError, match="not an affine colour matrix"):
        open_capture("nersemble", out).view(T0, SERIALS[0])


@pytest.mark.parametrize("documented", [False, True])
def test_the_papers_zips_are_read_by_either_folder_name(tmp_path, documented):
    capture = open_capture(
        "nersemble", nersemble.write_zips(tmp_path, studio(), documented=documented)
    )
    assert [t.index for t in capture.timesteps] == [0, 3, 6, 9]
    assert ("73fps" in capture.facts["pictures"]) != documented
    view = capture.view(Timestep(SEQUENCES[0], 6), SERIALS[1])
    assert (view.matte == studio().frames[2][1].alpha).all()
    assert unlike(view.image, over(studio().frames[2][1])) < 2
    assert list(capture.missing()) == [f"{SEQUENCES[0]}, camera {SERIALS[2]}"]
    (gap,) = capture.missing().values()
    assert gap.startswith("3 frames, another camera has 4")
    with pytest.raises(MissingItemError, match="no picture of frame 3"):
        capture.view(Timestep(SEQUENCES[0], 3), SERIALS[2])


def test_the_benchmark_has_mattes_a_black_backdrop_and_a_tracking(tmp_path):
    out = nersemble.write_benchmark(tmp_path, studio())
    capture = open_capture("nersemble", out)
    assert capture.layout == FLAME2023
    assert capture.facts["intrinsics"] == "a K for each camera"
    for i, serial in enumerate(SERIALS):
        view = capture.view(Timestep(SEQUENCES[0], 2), serial)
        assert unlike(view.matte, studio().frames[2][i].alpha) < 3
        assert view.backdrop == "black"
        assert seen_where_it_was(view.camera, i, 2) < 1e-6
    step = Timestep(SEQUENCES[0], 1)
    # The file's `rotation` are Euler angles; taken for a rotation vector they would be wrong.
    np.testing.assert_allclose(capture.head_to_world(step), studio().head_to_world[1])
    code = capture.code(step)
    wanted = nersemble.tracking(studio())["expression"][1]
    np.testing.assert_allclose(code.values[:100], wanted, rtol=1e-6)
    with pytest.raises(MissingItemError, match="no frame 7"):
        capture.flame(Timestep(SEQUENCES[0], 7))
    file = next(out.rglob("flame2023_tracking_v2.npz"))
    np.savez(file, **(dict(np.load(file)) | {"frames": np.full(4, np.nan)}))
    with pytest.raises(MissingItemError, match="no frame 1"):  # and no warning
        open_capture("nersemble", out).flame(step)


def test_what_vhap_left_beside_a_video_is_read_with_its_mattes(tmp_path):
    out = nersemble.write_v1(tmp_path, studio())
    nersemble.write_vhap_stills(out / SEQUENCES[0], studio())
    capture = open_capture("nersemble", out)
    assert capture.facts["pictures"] == "images_2 (VHAP)"
    assert [t.index for t in capture.timesteps] == [1, 2, 3]
    view = capture.view(Timestep(SEQUENCES[0], 2), SERIALS[0])
    assert view.matte.shape == view.image.shape[:2] == (80, 55)
    assert (view.camera.width, view.camera.height) == (55, 80)


def test_intrinsics_fit_the_full_picture_a_half_and_a_crop():
    K = np.array([[8200.0, 0, 1090], [0, 8200, 1620], [0, 0, 1]])
    np.testing.assert_allclose(fit_intrinsics(K, 2200, 3208, ""), K)
    half = fit_intrinsics(K, 1100, 1604, "")
    np.testing.assert_allclose(half[:2], K[:2] / 2)
    np.testing.assert_allclose(fit_intrinsics(half, 1100, 1604, ""), half)
    crop = np.array([[2000.0, 0, 300], [0, 2000, 180], [0, 0, 1]])
    np.testing.assert_allclose(fit_intrinsics(crop, 512, 512, ""), crop)
    with pytest.raises(MissingItemError, match="turned or cut"):
        fit_intrinsics(K, 3208, 2200, "")
    with pytest.raises(MissingItemError, match="does not fit"):
        fit_intrinsics(K, 512, 512, "")


@pytest.mark.parametrize("terms", [3, 5, 11, 35])
def test_the_second_versions_colours_follow_its_polynomial(terms):
    M = np.random.default_rng(terms).normal(0, 0.2, (3, terms))
    M[:, :3] += np.eye(3)
    pixel = np.array([[[120, 80, 200]]], np.uint8)
    light = matrix_augmented_Cheung2004(np.asarray(linearize(pixel[0, 0] / 255.0)), terms=terms)
    wanted = 255 * np.asarray(encode((M @ light).clip(0, 1)))
    np.testing.assert_allclose(Cheung(M, "")(pixel)[0, 0], wanted, atol=1.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.pop("world_2_cam"), "has no 'world_2_cam'; it has intrinsics"),
        (lambda v: v.update(intrinsics={SERIALS[0]: np.eye(3).tolist()}), "no intrinsics of"),
        (lambda v: [E[i].__setitem__(3, 1000 * E[i][3]) for E in v["world_2_cam"].values()
                    for i in range(3)], "Lengths are metres"),
        (lambda v: v["world_2_cam"].update({SERIALS[0]: np.eye(3).tolist()}), "not 4x4"),
        (lambda v: v["world_2_cam"].update({SERIALS[0]: (2 * np.eye(4)).tolist()}), "rotation"),
        (lambda v: v.update(distortion=[0.1]), "not 4 or 5 numbers"),
    ],
)  # fmt: skip
def test_a_drifted_calibration_is_refused_by_name(tmp_path, change, words):
    out = nersemble.write_zips(tmp_path, studio())
    values = json.loads((out / "camera_params.json").read_text())
    change(values)
    (out / "camera_params.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words):
        open_capture("nersemble", out)


def test_a_stored_distortion_is_taken_out_and_said(tmp_path):
    out = nersemble.write_zips(tmp_path, studio())
    plain = open_capture("nersemble", out).view(T0, SERIALS[0]).image
    values = json.loads((out / "camera_params.json").read_text())
    values["distortion"] = {serial: [0.5, 0, 0, 0] for serial in SERIALS}
    (out / "camera_params.json").write_text(json.dumps(values))
    capture = open_capture("nersemble", out)
    assert capture.facts["distortion"] == "taken out"
    assert unlike(capture.view(T0, SERIALS[0]).image, plain) > 0.1
