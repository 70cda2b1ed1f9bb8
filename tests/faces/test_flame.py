"""FLAME: converted without running anything, and evaluated as its paper says."""

from __future__ import annotations

import os
import pickle  # noqa: TID251  the tests write what the program must read
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError, LayoutError
from pipeline.faces.flame import Flame, convert, load_flame
from pipeline.faces.flame_fit import FlameFit
from tests.faces.flames import numbers, write_pickle


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flame")
    with pytest.MonkeyPatch.context() as patch:
        write_pickle(folder / "flame.pkl", numbers(), patch)
    lids = np.random.default_rng(5).normal(0, 0.001, (2, 5023, 3))
    np.save(folder / "l.npy", lids[0])
    np.save(folder / "r.npy", lids[1])
    command = [sys.executable, "-m", "fastgha_cli", "flame", "convert", folder / "flame.pkl"]
    command += ["--version", "2023", "-o", folder / "f.npz"]
    command += ["--eyelids", folder / "l.npy", folder / "r.npy"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "f.npz"


def literally(
    shape: np.ndarray, expression: np.ndarray, R: np.ndarray, lids: np.ndarray, eyelids: np.ndarray
) -> np.ndarray:
    """The formulas with one 4x4 matrix a joint and a vertex, from the owners' own arrays."""
    raw = numbers()
    shaped = raw["v_template"] + raw["shapedirs"] @ np.concatenate([shape, expression])
    joints = raw["J_regressor"] @ shaped
    bends = np.concatenate([(R[j] - np.eye(3)).reshape(-1) for j in (1, 2, 3, 4)])
    corrected = shaped + raw["posedirs"] @ bends
    world: list[np.ndarray] = []
    for j, parent in enumerate([-1, 0, 1, 1, 1]):
        local = np.eye(4)
        local[:3, :3] = R[j]
        local[:3, 3] = joints[j] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    out = np.zeros_like(shaped)
    for j in range(5):
        rest = np.eye(4)
        rest[:3, 3] = -joints[j]
        A = world[j] @ rest
        out += raw["weights"][:, j, None] * (corrected @ A[:3, :3].T + A[:3, 3])
    return out + np.einsum("l,lvc->vc", lids, eyelids)


@pytest.mark.parametrize("seed", range(3))
def test_the_layer_agrees_with_the_formulas_written_out(converted: Path, seed: int):
    model = load_flame(converted, "2023")
    rng = np.random.default_rng(seed)
    shape, expression = rng.normal(0, 1, 300), rng.normal(0, 1, 100)
    R = Rotation.from_rotvec(rng.normal(0, 0.5, (5, 3))).as_matrix()
    lids = rng.uniform(0, 1, 2)
    assert model.eyelids is not None
    got = model.vertices(
        *(torch.from_numpy(x).float()[None] for x in (shape, expression, R, lids))
    )  # fmt: skip
    want = literally(shape, expression, R, lids, model.eyelids.numpy())
    assert np.abs(got[0].numpy() - want).max() < 2e-6
    joints = model.joints(torch.from_numpy(shape).float(), torch.from_numpy(expression).float())
    raw = numbers()
    shaped = raw["v_template"] + raw["shapedirs"] @ np.concatenate([shape, expression])
    np.testing.assert_allclose(joints.numpy(), raw["J_regressor"] @ shaped, atol=1e-6)


def fit(about: str, version: str = "2023") -> FlameFit:
    rng = np.random.default_rng(3)
    R = Rotation.from_rotvec(rng.normal(0, 0.4, (5, 3))).as_matrix()
    return FlameFit(
        version, rng.normal(0, 1, 300), rng.normal(0, 1, 100), R, np.array([0.1, 0.2, 1.0]),  # pyright: ignore
        np.zeros(2), 1.1 if about == "origin" else 1.0, about,  # pyright: ignore
    )  # fmt: skip


@pytest.mark.parametrize("about", ["joint", "origin"])
def test_a_vertex_of_the_skull_moves_with_the_head_pose(converted: Path, about: str):
    model = load_flame(converted)
    weights = model.weights.clone()
    weights[0] = torch.tensor([0, 1.0, 0, 0, 0])  # hangs on the neck joint only, as a skull does
    still = Flame(**{**model.__dict__, "weights": weights, "poses": model.poses * 0})
    one = fit(about)
    pose = still.head_to_world(one)
    shape, expression = (torch.from_numpy(x).float() for x in (one.shape, one.expression))
    rest = still.vertices(shape, expression, torch.eye(3).expand(5, 3, 3))[0].double().numpy()
    want = pose[:3, :3] @ (rest * one.scale) + pose[:3, 3]
    np.testing.assert_allclose(still.of(one)[0], want, atol=1e-6)


def test_parameters_of_another_version_are_refused(converted: Path):
    model = load_flame(converted)
    with pytest.raises(LayoutError, match="FLAME 2020"):
        model.of(fit("joint", "2020"))
    with pytest.raises(LayoutError, match="2023-open"):
        load_flame(converted, "2023-open")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)  # noqa: PTH102


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_runs_something_is_refused_and_does_not_run_it(tmp_path: Path, protocol: int):
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol))
    with pytest.raises(InputError, match="asks for"):
        convert(tmp_path / "evil.pkl", tmp_path / "out.npz", "2020")
    assert [p.name for p in tmp_path.iterdir()] == ["evil.pkl"]


@pytest.mark.parametrize("strange", [{"a": 1}, "x", None, [0], b"x"])
@pytest.mark.parametrize("key", ["kintree_table", "f", "v_template", "shapedirs"])
def test_what_stands_where_an_array_belongs_is_refused(tmp_path: Path, key: str, strange: object):
    small: dict[str, object] = {
        "v_template": np.zeros((9, 3)), "f": np.zeros((4, 3), np.uint32),
        "shapedirs": np.zeros((9, 3, 4)), "posedirs": np.zeros((9, 3, 36)),
        "J_regressor": np.zeros((5, 9)), "weights": np.zeros((9, 5)),
        "kintree_table": np.zeros((2, 5), np.uint32),
    }  # fmt: skip
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(small | {key: [strange]}))
    with pytest.raises(InputError):
        convert(tmp_path / "bad.pkl", tmp_path / "out.npz", "2020")


def test_damaged_pickles_give_an_error_and_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = {key: value[:50] for key, value in numbers().items()}
    write_pickle(tmp_path / "whole.pkl", small, monkeypatch)
    data = (tmp_path / "whole.pkl").read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        bad = bytearray(data[: rng.integers(1, len(data))] if rng.uniform() < 0.3 else data)
        for at in rng.integers(0, min(len(bad), 3000), 3):
            bad[at] = rng.integers(256)
        (tmp_path / "bad.pkl").write_bytes(bad)
        with pytest.raises(InputError):
            convert(tmp_path / "bad.pkl", tmp_path / "out.npz", "2020")
    assert not (tmp_path / "out.npz").exists()


def test_landmarks_are_kept_with_the_model_and_what_is_none_is_refused(
    tmp_path: Path, converted: Path, monkeypatch: pytest.MonkeyPatch
):
    assert load_flame(converted).embedding is None
    raw = numbers()
    rng = np.random.default_rng(4)
    triangles, shares = rng.integers(0, 40, (1, 70)), rng.dirichlet(np.ones(3), (1, 70))
    table = {
        "full_lmk_faces_idx": triangles, "full_lmk_bary_coords": shares,
        "dynamic_lmk_faces_idx": torch.zeros(79, 17, dtype=torch.int64),
    }  # fmt: skip
    np.save(tmp_path / "e.npy", np.array(table, object), allow_pickle=True)
    write_pickle(tmp_path / "flame.pkl", raw, monkeypatch)
    convert(tmp_path / "flame.pkl", tmp_path / "f.npz", "2023", None, tmp_path / "e.npy")
    found = load_flame(tmp_path / "f.npz").embedding
    assert found is not None  # the irises that VHAP adds are left out
    np.testing.assert_array_equal(found.corners, raw["f"].astype(int)[triangles[0, :68]])
    np.testing.assert_allclose(found.shares, shares[0, :68], atol=1e-6)
    for bad in (triangles[:, :60], triangles + 5023):
        np.save(tmp_path / "b.npy", np.array({**table, "full_lmk_faces_idx": bad}, object))
        with pytest.raises(InputError, match="68"):
            convert(tmp_path / "flame.pkl", tmp_path / "g.npz", "2023", None, tmp_path / "b.npy")
    assert not (tmp_path / "g.npz").exists()
