"""A model of FLAME's shape with random numbers, and pickles as its owners write them."""

from __future__ import annotations

import functools
import pickle  # noqa: TID251  the tests write what the program must read
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csc_matrix
from scipy.spatial import ConvexHull

from pipeline.faces import layouts, makehuman
from pipeline.faces.flame import convert
from pipeline.system.assets import HEAD
from pipeline.tracking.models import FaceState, MakeHumanFace
from pipeline.tracking.ties import tie_surface

JOINTS = np.array(
    [(0, -0.05, -0.06), (0, -0.009, -0.054), (0, -0.014, -0.058), (0.031, 0.021, 0.023),
     (-0.031, 0.022, 0.022)]
)  # fmt: skip


def numbers(seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers under the names of the owners' files."""
    rng = np.random.default_rng(seed)
    template = rng.uniform(-0.1, 0.1, (5023, 3))
    regressor = np.zeros((5, 5023))
    for j, joint in enumerate(JOINTS):
        near = np.argsort(((template - joint) ** 2).sum(1))[:8]
        regressor[j, near] = 1 / 8
    weights = rng.dirichlet(np.ones(5), 5023)
    return {
        "v_template": template,
        "f": rng.integers(0, 5023, (40, 3)).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.001, (5023, 3, 400)),
        "posedirs": rng.normal(0, 0.001, (5023, 3, 36)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


def write_pickle(path: Path, arrays: dict[str, np.ndarray], patch: pytest.MonkeyPatch) -> None:
    """Write a model with a chumpy array and a sparse matrix, protocol 2, as python 2 did."""
    module = types.ModuleType("chumpy.ch")

    class Ch:
        pass

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch  # pyright: ignore
    patch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    patch.setitem(sys.modules, "chumpy.ch", module)
    shapes = Ch()
    shapes.__dict__.update(x=arrays["shapedirs"], _dirty_vars=set(), _status="new")
    whole = {
        **arrays,
        "shapedirs": shapes,
        "J_regressor": csc_matrix(arrays["J_regressor"]),
        "bs_style": "lbs",
    }
    with path.open("wb") as file:
        pickle.dump(whole, file, protocol=2)


@functools.cache
def like_makehuman() -> dict[str, np.ndarray]:
    """A model of FLAME's shape and names that is a face: the MakeHuman head's, told in its way.

    Its vertices are the front and top of that head, its first numbers of shape its principal
    people, its expression a mixture of the face units that are no rotation of jaw or eye.
    """
    asset, face, neutral, ids = makehuman.load_asset(), MakeHumanFace(), _neutral(), kept()
    rng = np.random.default_rng(8)
    place = {int(old): new for new, old in enumerate(ids)}
    template = neutral[ids]
    joints = np.array([(0, -0.09, 0), (0, -0.05, 0), (0, 0.0, 0.03), *_eyes(neutral)])
    weights = np.zeros((5023, 5))
    weights[:, 1] = 1
    drop = np.linalg.norm(asset.units[layouts.ARKIT["jawOpen"]][ids], axis=1)
    weights[:, 2] = (drop / np.quantile(drop, 0.99)).clip(0, 1)
    weights[:, 1] -= weights[:, 2]
    for joint, some in ((3, asset.left_eye), (4, asset.right_eye)):
        weights[[place[int(i)] for i in some if int(i) in place]] = np.eye(5)[joint]
    regressor = np.zeros((5, 5023))
    for j, joint in enumerate(joints):  # an affine mixture of vertices that gives the joint
        near = np.argsort(np.linalg.norm(template - joint, axis=1))[:40]
        system = np.concatenate([template[near].T, np.ones((1, len(near)))])
        regressor[j, near] = np.linalg.lstsq(system, np.append(joint, 1), rcond=None)[0]
    units = [asset.units[layouts.ARKIT[name]][ids] for name in layouts.EXPRESSION_UNITS]
    mixture = rng.normal(0, 0.15, (39, 39))
    shapes = np.zeros((5023, 3, 400))
    basis = face._basis.numpy()[:, ids]  # pyright: ignore
    shapes[..., : len(basis)] = np.moveaxis(basis, 0, -1)
    shapes[..., 300:339] = np.einsum("uk,uvc->vck", mixture, np.stack(units))
    triangles = [_skin_triangles(place)]
    for some in (asset.left_eye, asset.right_eye):
        own = np.array([place[int(i)] for i in some])
        hull = own[ConvexHull(template[own]).simplices]
        a, b, c = template[hull].transpose(1, 0, 2)
        inward = (np.cross(b - a, c - a) * (a - template[own].mean(0))).sum(1) < 0
        hull[inward] = hull[inward][:, ::-1]
        triangles.append(hull)
    return {
        "v_template": template,
        "f": np.concatenate(triangles).astype(np.uint32),
        "shapedirs": shapes,
        "posedirs": np.zeros((5023, 3, 36)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


def _skin_triangles(place: dict[int, int]) -> np.ndarray:
    """The triangles of the MakeHuman head's control mesh, as far as its vertices are kept."""
    with np.load(HEAD / "head.npz") as file:
        quads = file["quads"].astype(int)
    both = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    return np.array([[place[i] for i in one] for one in both.tolist() if place.keys() >= set(one)])


def _neutral() -> np.ndarray:
    face = MakeHumanFace()
    return face.vertices(torch.zeros(face.identity_size), FaceState.neutral(39))[0].numpy()


def kept() -> np.ndarray:
    """Which of the MakeHuman head's vertices `like_makehuman` has."""
    return np.sort(np.argsort(np.linalg.norm(_neutral() - [0, -0.01, 0.03], axis=1))[:5023])


def _eyes(neutral: np.ndarray) -> list[np.ndarray]:
    asset = makehuman.load_asset()
    return [neutral[ids].mean(0) for ids in (asset.left_eye, asset.right_eye)]


def write_landmarks(path: Path, model: dict[str, np.ndarray]) -> None:
    """Write the landmarks' embedding as trackers ship it: a pickled dict in an npy."""
    faces, shares = [], []
    for vertex in np.searchsorted(kept(), makehuman.load_asset().landmarks):
        row = int(np.flatnonzero((model["f"] == vertex).any(1))[0])
        faces.append(row)
        shares.append((model["f"][row] == vertex).astype(float))
    table = {
        "full_lmk_faces_idx": np.array([faces]),
        "full_lmk_bary_coords": np.array([shares]),
        "dynamic_lmk_faces_idx": torch.zeros(79, 17, dtype=torch.int64),
    }
    np.save(path, np.array(table, object), allow_pickle=True)


def write_converted(folder: Path, version: str = "2023", **changes: np.ndarray) -> Path:
    """Write a converted model that is a face, with its landmarks and lids."""
    arrays = {**like_makehuman(), **changes}
    asset, units = makehuman.load_asset(), layouts.ARKIT
    write_landmarks(folder / "landmark_embedding.npy", arrays)
    for side in ("Left", "Right"):
        lid = asset.units[units[f"eyeBlink{side}"]][kept()]
        np.save(folder / f"{side[0].lower()}_eyelid.npy", lid)
    with pytest.MonkeyPatch.context() as patch:
        write_pickle(folder / "flame.pkl", arrays, patch)
    out = folder / f"flame{version}.npz"
    lids = (folder / "l_eyelid.npy", folder / "r_eyelid.npy")
    marks = folder / "landmark_embedding.npy"
    convert(folder / "flame.pkl", out, version, lids, marks, tie_surface)  # pyright: ignore
    return out
