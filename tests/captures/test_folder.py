"""Promises of the reader of transforms.json exports."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from pipeline.captures.capture import Timestep, factor_head_pose
from pipeline.captures.registry import find_captures, open_capture
from pipeline.core.errors import ConfigError, InputError, MissingItemError
from pipeline.faces.layouts import FLAME2023, JAW, matrix_from_rot6d
from tests.captures import vhap
from tests.captures.studio import shoot

T0 = Timestep("074_EMO-1_whiteBg", 0)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vhap.write(tmp_path_factory.mktemp("vhap"), shoot())


def edited(tmp_path: Path, change) -> Path:
    out = vhap.write(tmp_path, shoot())
    values = json.loads((out / "transforms.json").read_text())
    change(values)
    (out / "transforms.json").write_text(json.dumps(values))
    return out


def test_an_export_is_found_and_described(export):
    assert find_captures("folder", export.parent) == {export.name: export}
    assert find_captures("folder", export) == {export.name: export}
    capture = open_capture("folder", export)
    assert (capture.subject, capture.name) == ("074", export.name)
    assert capture.cameras == ("222200036", "222200037", "222200038")
    assert capture.timesteps == tuple(Timestep(export.name, t) for t in range(4))
    assert capture.missing() == {}
    assert capture.layout == FLAME2023
    assert "bottom" in capture.facts["cy"]


def test_cameras_are_those_that_took_the_pictures(export):
    capture, studio = open_capture("folder", export), shoot()
    for i, name in enumerate(capture.cameras):
        camera = capture.camera(T0, name)
        torch.testing.assert_close(camera.K, studio.rig.K[i])
        torch.testing.assert_close(camera.world_to_camera, studio.rig.world_to_camera[i])
        view = capture.view(T0, name)
        assert (view.image == studio.frames[0][i].rgb).all()
        assert (view.matte == studio.frames[0][i].alpha).all()
        assert view.backdrop == "white"
        torch.testing.assert_close(view.camera.K, camera.K)


def test_an_export_in_parts_reads_as_the_whole(export, tmp_path):
    whole, parts = open_capture("folder", export), vhap.write(tmp_path, shoot(), split=True)
    capture = open_capture("folder", parts)
    assert capture.timesteps == whole.timesteps
    assert capture.cameras == whole.cameras


def test_a_union_reads_its_neighbours_and_nothing_further_up(export, tmp_path):
    other = vhap.write(tmp_path, shoot())
    union = tmp_path / "UNION10_074_EMO1234EXP234589"
    union.mkdir()
    text = (other / "transforms.json").read_text()
    for part in ("images", "fg_masks", "flame_param"):
        text = text.replace(f'"{part}/', f'"../{other.name}/{part}/')
    (union / "transforms_train.json").write_text(text)
    capture = open_capture("folder", union)
    assert capture.subject == "074"
    assert capture.timesteps[0] == T0
    assert capture.view(T0, "222200036").matte is not None
    (union / "transforms_train.json").write_text(text.replace("../", "../../"))
    with pytest.raises(InputError, match="outside the export"):
        open_capture("folder", union)


def test_codes_are_the_trackers_and_teeth_are_cut_off(export):
    capture = open_capture("folder", export)
    fit = capture.flame(capture.timesteps[2])
    arrays = vhap.flame_arrays(2, shoot().head_to_world[2])
    code = capture.code(capture.timesteps[2])
    assert fit.static_offset.shape == (5023, 3)
    np.testing.assert_allclose(code.values[:100], arrays["expr"][0])
    jaw = matrix_from_rot6d(code.values[JAW]).double().numpy()
    np.testing.assert_allclose(Rotation.from_matrix(jaw).as_rotvec(), [0.2, 0, 0], atol=1e-6)


def test_the_head_pose_is_that_of_a_skinned_skull(export):
    joints = np.array([[0, -0.15, -0.02], [0, -0.009, -0.054], *[[0, 0, 0]] * 3])
    capture = open_capture("folder", export)
    fit = capture.flame(T0)
    H = fit.head_to_world(joints)
    point = np.array([0.03, 0.02, 0.08])
    neck, root = fit.rotations[1], fit.rotations[0]
    turned = neck @ (point - joints[1]) + joints[1]
    turned = root @ (turned - joints[0]) + joints[0] + fit.translation
    np.testing.assert_allclose(H[:3, :3] @ point + H[:3, 3], turned)
    assert capture.head_to_world(T0) is None  # without the joints, it cannot be known


def test_factoring_the_head_pose_leaves_every_pixel_where_it_was():
    studio = shoot()
    H = studio.head_to_world[1]
    camera = factor_head_pose(studio.rig[0], H)
    # By hand: a point 10 cm before the face, in the camera's frame.
    point = np.array([0, 0, 0.1])
    world = H[:3, :3] @ point + H[:3, 3]
    E = studio.rig.world_to_camera[0].numpy()
    inside = camera.world_to_camera.numpy() @ [*point, 1]
    np.testing.assert_allclose(inside[:3], E[:3, :3] @ world + E[:3, 3])


def test_a_lens_is_taken_out(tmp_path):
    k1, studio = 2.0, shoot()

    def with_lens(values):
        for frame in values["frames"]:
            frame["k1"] = k1

    out = edited(tmp_path, with_lens)
    ideal, K = studio.frames[0][0].rgb, studio.rig.K[0]
    Image.fromarray(vhap.distort(ideal, K, k1)).save(out / "images/00000_00.png")
    seen = open_capture("folder", out).view(T0, "222200036").image
    wrong = np.abs(vhap.distort(ideal, K, k1).astype(int) - ideal).mean()
    assert wrong > 1
    assert np.abs(seen.astype(int) - ideal).mean() < 0.45 * wrong


def test_a_missing_picture_is_listed_and_the_rest_is_read(tmp_path):
    out = vhap.write(tmp_path, shoot())
    (out / "images/00001_02.png").unlink()
    (out / "flame_param/00003.npz").write_bytes(b"PK")
    capture = open_capture("folder", out)
    assert list(capture.missing()) == [f"{out.name}/images/00001_02.png"]
    assert not capture.has(capture.timesteps[1], "222200038")
    assert capture.has(capture.timesteps[1], "222200037")
    with pytest.raises(MissingItemError, match="00001_02"):
        capture.view(capture.timesteps[1], "222200038")
    with pytest.raises(MissingItemError, match="00003.npz is not a whole npz"):
        capture.code(capture.timesteps[3])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v["frames"][1].pop("transform_matrix"), "frame 1 has no 'transform_matrix'"),
        (lambda v: v["frames"][2].update(cy=900.0), "frame 2: the principal point"),
        (lambda v: v["frames"][0].update(file_path="/etc/passwd"), "outside the export"),
        (lambda v: v.update(frames={}), "'frames' is a dict"),
        (lambda v: v.update(frames=[]), "lists no frames"),
        (lambda v: v["frames"][0]["transform_matrix"][0].pop(), "not 4x4 finite numbers"),
        (lambda v: v["frames"][0].update(transform_matrix=np.diag([1, 1, -1, 1]).tolist()),
         "mirrors"),
    ],
)  # fmt: skip
def test_a_drifted_layout_is_refused_by_name(tmp_path, change, words):
    with pytest.raises(InputError, match=words):
        open_capture("folder", edited(tmp_path, change))


def test_a_capture_can_be_sent_to_a_worker(export):
    capture = copy.deepcopy(open_capture("folder", export))  # goes the way of pickling
    assert capture.view(T0, "222200037").image.shape == (140, 96, 3)


def test_nothing_to_read_says_what_was_expected(tmp_path):
    (tmp_path / "stray").mkdir()
    with pytest.raises(InputError, match="it holds: stray.*transforms.json"):
        find_captures("folder", tmp_path)
    with pytest.raises(ConfigError, match=r"no data set 'fodler'. Did you mean folder\?"):
        find_captures("fodler", tmp_path)
