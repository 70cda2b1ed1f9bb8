"""FLAME's surface is tied to the built-in head's by its landmarks, whatever its size and place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError
from pipeline.faces.flame import Flame, convert, load_flame
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.faces.makehuman import load_asset
from pipeline.tracking.ties import tie_surface
from tests.faces import flames


def bent(x: np.ndarray) -> np.ndarray:
    """Another size, axes, origin, and a smooth difference of some millimetres."""
    waves = [np.sin(25 * x[:, 1] + 1), np.sin(22 * x[:, 2]), np.sin(20 * x[:, 0] + 15 * x[:, 1])]
    R = Rotation.from_euler("xyz", (5, -4, 3), degrees=True).as_matrix()
    return 0.93 * (x + 0.003 * np.stack(waves, 1)) @ R.T + [0.01, 0.03, -0.02]


def missed(model: Flame) -> tuple[np.ndarray, np.ndarray]:
    """How far a tie is from the vertex that it is of, on the built-in head, mm; and its sigma."""
    assert model.ties is not None
    kept, ties = flames.kept(), model.ties
    truth = flames.like_makehuman()["v_template"]
    found = (truth[ties.corners.numpy()] * ties.shares.numpy()[..., None]).sum(1)[kept]
    sigma = ties.sigma.numpy()[kept]
    face = np.isfinite(sigma) & (truth[:, 2] > 0.02) & (truth[:, 1] > -0.1)
    return 1000 * np.linalg.norm(found - truth, axis=1)[face], 1000 * sigma[face]


def test_a_vertex_that_both_heads_have_is_tied_to_itself(model: Flame):
    off, sigma = missed(model)
    assert len(off) > 1500 and np.median(off) < 0.3 and np.quantile(off, 0.95) < 1
    assert (off < 3 * sigma).mean() > 0.95
    assert model.ties is not None and model.ties.topology == head_model(MAKEHUMAN).topology
    assert np.isfinite(model.ties.sigma.numpy()[load_asset().landmarks]).sum() > 60


def test_a_face_of_another_size_place_and_shape_is_tied_as_well(model: Flame):
    template = torch.from_numpy(bent(model.template.double().numpy())).float()
    off, sigma = missed(replace(model, ties=tie_surface(replace(model, template=template))))
    assert len(off) > 1500 and np.median(off) < 0.5 and np.quantile(off, 0.9) < 2.5
    assert (off < 3 * sigma).mean() > 0.9


def test_what_flame_has_not_is_tied_to_nothing(model: Flame):
    assert model.ties is not None
    sigma, mean = model.ties.sigma.numpy(), load_asset().mean
    beyond = np.ones(len(mean), bool)
    beyond[flames.kept()] = False
    assert np.isfinite(sigma[beyond]).mean() < 0.02
    eyes = np.concatenate([load_asset().left_eye, load_asset().right_eye])
    assert np.isinf(sigma[eyes]).all()


def test_eyeballs_take_no_skin(model: Flame):
    """Lids lie upon them: what is nearest to a lid may be an eyeball, here one that stands out."""
    template = model.template.clone()
    for joint in (3, 4):
        own = model.weights[:, joint] > 0.5
        middle = template[own].mean(0)
        template[own] = middle + 1.2 * (template[own] - middle)
    ties = tie_surface(replace(model, template=template))
    corners = ties.corners[torch.isfinite(ties.sigma)]
    assert not (model.weights[corners][..., 3:].sum(-1) > 0.5).any()


def test_a_surface_that_looks_the_other_way_takes_none(model: Flame):
    middles = model.template[model.faces].mean(1)
    cheek = (middles - torch.tensor([0.045, -0.05, 0.06])).norm(dim=1) < 0.02
    assert 20 < int(cheek.sum()) < 500
    faces = torch.where(cheek[:, None], model.faces.flip(1), model.faces)
    ties = tie_surface(replace(model, faces=faces))
    assert model.ties is not None
    ids = flames.kept()[np.setdiff1d(model.faces[cheek], model.faces[~cheek])]
    assert torch.isfinite(model.ties.sigma[ids]).sum() >= 3 and torch.isinf(ties.sigma[ids]).all()


def test_how_unsure_a_tie_is_is_told_in_flames_own_metres(model: Flame):
    half = tie_surface(replace(model, template=model.template / 2))
    assert model.ties is not None
    both = torch.isfinite(half.sigma) & torch.isfinite(model.ties.sigma)
    assert int(both.sum()) > 2500
    torch.testing.assert_close(half.sigma[both], model.ties.sigma[both] / 2, rtol=0.02, atol=1e-6)


def test_what_is_no_face_is_refused(model: Flame):
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(rng.normal(0, 0.1, model.template.shape)).float()
    with pytest.raises(InputError, match="mm off those of a face"):
        tie_surface(replace(model, template=noise))
    with pytest.raises(InputError, match="mm off those of a face"):
        tie_surface(replace(model, template=model.template * torch.tensor([1, 1, -1])))
    few = replace(model, faces=model.faces[:100])
    with pytest.raises(InputError, match="places of this FLAME's surface"):
        tie_surface(few)
    with pytest.raises(InputError, match="lie on a line"):
        tie_surface(replace(model, template=model.template * torch.tensor([1.0, 0, 0])))
    with pytest.raises(InputError, match="no landmarks"):
        tie_surface(replace(model, embedding=None))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tie_corners", lambda x: x + 5023),
        ("tie_corners", lambda x: x.astype(np.int32)),
        ("tie_shares", lambda x: 2 * x),
        ("tie_shares", lambda x: x[:, :2]),
        ("tie_sigma", lambda x: x * np.nan),
        ("tie_sigma", lambda x: x - 1),
        ("tie_sigma", lambda x: x[:-1]),
        ("tie_sigma", lambda x: np.full_like(x, np.inf)),
    ],
)  # fmt: skip
def test_a_damaged_table_is_refused(file: Path, tmp_path: Path, name: str, change):
    with np.load(file) as whole:
        arrays = dict(whole)
    np.savez(tmp_path / "bad.npz", **arrays | {name: change(arrays[name])})
    with pytest.raises(InputError, match=r"ties of .*bad.npz"):
        load_flame(tmp_path / "bad.npz")


def test_a_version_without_codes_is_converted_without_a_table(file: Path, tmp_path: Path):
    """No fit can use it."""
    marks = file.parent / "landmark_embedding.npy"
    out = tmp_path / "open.npz"
    convert(file.parent / "flame.pkl", out, "2023-open", None, marks, tie_surface)
    open_model = load_flame(out)
    assert open_model.embedding is not None and open_model.ties is None
