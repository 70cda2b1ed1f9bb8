"""Other trackers' files: each read as its writer means it, or refused."""

from __future__ import annotations

import pickle  # noqa: TID251  the tests write what the program must read
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError, LayoutError
from pipeline.faces.layouts import EYELIDS, FLAME2020, FLAME2023, JAW, LEFT_EYE, RIGHT_EYE
from pipeline.tracking.importers import Frame, frames_of, is_tracking, read_tracking

RNG = np.random.default_rng(0)
VECTORS = RNG.normal(0, 0.3, (4, 5, 3))
MATRICES = Rotation.from_rotvec(VECTORS.reshape(-1, 3)).as_matrix().reshape(4, 5, 3, 3)
EXPRESSION = RNG.normal(0, 1, (4, 100)).astype(np.float32)
SHAPE = RNG.normal(0, 1, 300).astype(np.float32)


def same_codes(path: Path, layout: str, lids: float = 0.0) -> None:
    codes = read_tracking(path).codes()
    assert codes.layout == layout
    np.testing.assert_allclose(codes.values[:, :100], EXPRESSION, atol=1e-6)
    for part, joint in ((JAW, 2), (LEFT_EYE, 3), (RIGHT_EYE, 4)):
        want = MATRICES[:, joint, :2].reshape(4, 6)
        np.testing.assert_allclose(codes.values[:, part], want, atol=1e-5)
    assert (codes.values[:, EYELIDS] == lids).all()


def vhap(frames: slice = slice(None)) -> dict[str, np.ndarray]:
    v = VECTORS[frames]
    return {
        "rotation": v[:, 0], "neck_pose": v[:, 1], "jaw_pose": v[:, 2],
        "eyes_pose": v[:, 3:].reshape(-1, 6), "translation": v[:, 0] * 0 + 0.1,
        "shape": SHAPE, "expr": EXPRESSION[frames],
        "static_offset": np.zeros((1, 5143, 3), np.float32),
    }  # fmt: skip


def test_vhap_is_read_from_its_tracker_and_from_exports(tmp_path: Path):
    (tmp_path / "run").mkdir()
    (tmp_path / "export" / "flame_param").mkdir(parents=True)
    np.savez(tmp_path / "run" / "tracked_flame_params_30.npz", **vhap())
    np.savez(tmp_path / "run" / "tracked_flame_params_9.npz", wrong=np.zeros(1))
    for i in range(4):
        np.savez(tmp_path / "export" / "flame_param" / f"{i:05d}.npz", **vhap(slice(i, i + 1)))
    (tmp_path / "export" / "transforms.json").write_text("{}")
    for path in ("run", "export", "export/flame_param", "run/tracked_flame_params_30.npz"):
        same_codes(tmp_path / path, FLAME2023)


def test_the_benchmarks_rotation_matrices_count_and_not_its_euler_angles(tmp_path: Path):
    np.savez(
        tmp_path / "t.npz", shape=SHAPE[None], expression=EXPRESSION, rotation=VECTORS[:, 0] + 1,
        rotation_matrices=MATRICES[:, 0], translation=VECTORS[:, 0], jaw=VECTORS[:, 2],
        frames=np.arange(4) * 3, scale=np.full((1, 1), 1.2), neck=VECTORS[:, 1],
        eyes=VECTORS[:, 3:].reshape(4, 6),
    )  # fmt: skip
    same_codes(tmp_path / "t.npz", FLAME2023)
    tracking = read_tracking(tmp_path / "t.npz")
    assert tracking.names == ("0", "3", "6", "9")
    np.testing.assert_allclose(tracking.fits[1].rotations[0], MATRICES[1, 0])


def rows(R: np.ndarray) -> np.ndarray:
    """Six numbers as an optimiser leaves them: neither of unit length nor orthogonal."""
    return np.concatenate([1.9 * R[0], 1.3 * R[1] + 0.4 * R[0]]).astype(np.float32)[None]


def frame(i: int, pixel3dmm: bool) -> dict[str, Any]:
    flame = {
        "exp": EXPRESSION[i][None], "shape": SHAPE[None], "jaw": rows(MATRICES[i, 2]),
        "eyes": np.concatenate([rows(MATRICES[i, 3]), rows(MATRICES[i, 4])], 1),
        "eyelids": np.full((1, 2), 0.5, np.float32),
    }  # fmt: skip
    size = np.array([256, 256])
    if pixel3dmm:
        flame |= {"R": rows(MATRICES[i, 0]), "neck": rows(MATRICES[i, 1])}
        flame |= {"t": np.full((1, 3), 0.1, np.float32)}
        camera = {"R_base_0": np.eye(3)[None], "t_base_0": np.array([[0, 0, -1.0]])}
        camera |= {"fl": np.array([[2.5]]), "pp": np.zeros((1, 2))}
        return {"flame": flame, "camera": camera, "img_size": size, "frame_id": i}
    K = np.array([[[600.0, 0, 128], [0, 600, 128], [0, 0, 1]]])
    opencv = {"R": np.diag([1.0, -1, -1])[None], "t": np.array([[0, 0, 1.0]]), "K": K}
    return {"flame": flame, "opencv": opencv, "img_size": size, "frame_id": f"{i:05d}"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("pixel3dmm", [False, True])
def test_frames_are_read_with_their_rotations_made_orthonormal(
    tmp_path: Path, pixel3dmm: bool, legacy: bool
):
    (tmp_path / "checkpoint").mkdir()
    for i in range(4):
        file = tmp_path / "checkpoint" / f"{i:05d}.frame"
        torch.save(frame(i, pixel3dmm), file, _use_new_zipfile_serialization=not legacy)
    same_codes(tmp_path, FLAME2020, lids=0.5)
    tracking = read_tracking(tmp_path)
    assert tracking.tracker == ("Pixel3DMM" if pixel3dmm else "metrical-tracker")
    assert tracking.cameras is not None
    head = tracking.cameras.world_to_camera[0] @ torch.tensor([0, 0, 0, 1.0]).double()
    np.testing.assert_allclose(head, [0, 0, 1, 1], atol=1e-9)  # a metre in front of the camera
    if pixel3dmm:
        np.testing.assert_allclose(tracking.fits[2].rotations[0], MATRICES[2, 0], atol=1e-5)


def test_a_jaw_that_never_turns_is_not_taken_for_flame_2020(tmp_path: Path):
    one = frame(0, True)
    one["flame"]["jaw"] = rows(np.eye(3)) * 0 + np.array([[1, 0, 0, 0, 1, 0]])
    torch.save(one, tmp_path / "0.frame")
    with pytest.raises(LayoutError, match="without jaw"):
        read_tracking(tmp_path / "0.frame")


def test_gagavatars_frames_come_in_the_order_of_their_numbers(tmp_path: Path):
    table = {
        f"clip_{i + 8}": {
            "shapecode": SHAPE, "expcode": EXPRESSION[i],
            "posecode": np.concatenate([np.zeros(3), VECTORS[i, 2]]),
            "eyecode": VECTORS[i, 3:].reshape(6), "transform_matrix": np.eye(4)[:3],
        }
        for i in (3, 1, 0, 2)
    }  # fmt: skip
    (tmp_path / "smoothed.pkl").write_bytes(pickle.dumps(table))
    same_codes(tmp_path, FLAME2020)
    assert read_tracking(tmp_path).names == ("clip_8", "clip_9", "clip_10", "clip_11")


def test_what_is_not_known_is_refused_by_what_it_has(tmp_path: Path):
    np.savez(tmp_path / "cap4d.npz", expr=np.zeros((2, 65)), eye_rot=np.zeros((2, 3)))
    np.savez(tmp_path / "other.npz", coefficients=np.zeros((2, 7)))
    with pytest.raises(LayoutError, match="CAP4D"):
        read_tracking(tmp_path / "cap4d.npz")
    with pytest.raises(InputError, match=r"coefficients \[2, 7\]"):
        read_tracking(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"cap4d\.npz, other\.npz"):
        read_tracking(tmp_path)


def test_a_rotation_without_length_is_refused_with_the_file(tmp_path: Path):
    one = frame(0, False)
    one["flame"]["jaw"] = np.zeros((1, 6))
    torch.save(one, tmp_path / "0.frame")
    with pytest.raises(InputError, match=r"0\.frame"):
        read_tracking(tmp_path / "0.frame")


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_that_are_not_finite_are_refused_without_a_warning(tmp_path: Path, legacy: bool):
    one = frame(0, False)
    # A signalling nan, as flipped bits leave it: numpy warns of it where it becomes a double.
    one["flame"]["exp"] = np.frombuffer(np.uint32(0x7FA00000).tobytes() * 100, np.float32)[None]
    torch.save(one, tmp_path / "0.frame", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"0\.frame"):
        read_tracking(tmp_path / "0.frame")


def test_our_own_file_gives_codes_by_the_numbers_of_its_frames(tmp_path: Path):
    codes = np.tile(np.eye(120, dtype=np.float32)[0], (3, 1))
    whole = {"codes": codes, "layout": np.array(FLAME2023), "frames": np.array([7, 9, 30])}
    np.savez(tmp_path / "ours.npz", **whole)
    found = read_tracking(tmp_path / "ours.npz")
    assert found.layout == FLAME2023 and found.names == ("7", "9", "30") and found.fits == ()
    np.testing.assert_array_equal(found.codes().values, codes)
    assert frames_of(tmp_path / "ours.npz")[9] == Frame(tmp_path / "ours.npz", 1)
    np.savez(tmp_path / "short.npz", **{**whole, "frames": np.arange(2)})
    with pytest.raises(InputError, match="of 2 frames"):
        read_tracking(tmp_path / "short.npz")
    np.savez(tmp_path / "large.npz", **{**whole, "codes": codes.astype(np.float64) * 1e300})
    with pytest.raises(InputError, match="no finite numbers"):
        read_tracking(tmp_path / "large.npz")
    np.savez(tmp_path / "strange.npz", **{**whole, "layout": np.array("arkit")})
    with pytest.raises(LayoutError, match="'arkit'"):
        read_tracking(tmp_path / "strange.npz")
    np.savez(tmp_path / "twice.npz", **{**whole, "frames": np.array([7, 7, 8])})
    with pytest.raises(InputError, match="no number of its own"):
        frames_of(tmp_path / "twice.npz")


def test_frames_are_found_by_their_numbers_without_reading_them(tmp_path: Path):
    (tmp_path / "checkpoint").mkdir()
    for i in (0, 12):
        (tmp_path / "checkpoint" / f"{i:05d}.frame").write_bytes(b"not read")
    assert is_tracking(tmp_path) and not is_tracking(tmp_path / "checkpoint" / "00000.frame")
    found = frames_of(tmp_path)
    assert found == {i: Frame(tmp_path / "checkpoint" / f"{i:05d}.frame") for i in (0, 12)}
