"""Promises of the MakeHuman head."""

import numpy as np
import pytest

from pipeline.core.errors import FormatError, LayoutError, ShapeError
from pipeline.faces.layouts import ARKIT, FLAME2020, arkit_to_code, neutral_code
from pipeline.faces.makehuman import (
    ORIGIN,
    Head,
    Identity,
    load_asset,
    load_texture,
    mean_landmarks,
)
from pipeline.faces.subdivide import subdivide
from pipeline.synthetic.people import sample_identity
from pipeline.system.assets import HEAD


def weights(**units: float) -> np.ndarray:
    w = np.zeros(52, np.float32)
    for name, value in units.items():
        w[ARKIT[name]] = value
    return w


@pytest.fixture(scope="module")
def head() -> Head:
    return Head(sample_identity(np.random.default_rng(3)))


def test_the_asset_is_small_licensed_and_free_of_pickles():
    assert sum(p.stat().st_size for p in HEAD.rglob("*") if p.is_file()) < 6_000_000
    assert "CC0" in (HEAD / "LICENSE.md").read_text()
    assert (HEAD / "PROVENANCE.json").is_file()
    for path in HEAD.glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype != object for name in file.files)


def test_the_origin_is_behind_and_below_the_middle_of_the_eyes(head):
    asset = load_asset()
    middle = (head.neutral[asset.left_eye].mean(0) + head.neutral[asset.right_eye].mean(0)) / 2
    assert middle == pytest.approx(-ORIGIN, abs=1e-5)
    assert head.neutral[asset.left_eye].mean(0)[0] > 0.02


def test_landmarks_of_the_mean_head_lie_as_on_a_face():
    p = mean_landmarks()
    assert p.shape == (68, 3)
    assert p[0, 0] < -0.05 < 0.05 < p[16, 0]  # jaw from the subject's right to left
    eye_y = p[36:48, 1].mean()
    assert eye_y < p[17:27, 1].min() < p[17:27, 1].max() < eye_y + 0.03  # brows over the eyes
    assert p[30, 2] == p[:, 2].max()  # the tip of the nose is foremost
    assert p[8, 1] == p[:, 1].min()  # the chin is lowest
    assert p[51, 1] > p[57, 1]  # upper lip over lower lip
    # Left and right agree.
    pairs = [(0, 16), (17, 26), (19, 24), (36, 45), (39, 42), (31, 35), (48, 54)]
    for a, b in pairs:
        assert p[a] * [-1, 1, 1] == pytest.approx(p[b], abs=0.005)


def test_opening_the_jaw_lowers_the_chin_and_leaves_the_brows(head):
    closed = head.landmarks(head.vertices(weights()))
    opened = head.landmarks(head.vertices(weights(jawOpen=1)))
    assert opened[8, 1] < closed[8, 1] - 0.015
    assert np.abs(opened[17:27] - closed[17:27]).max() < 1e-4


def test_a_left_blink_shuts_the_eye_at_plus_x_only(head):
    open_, shut = (
        head.landmarks(head.vertices(weights(eyeBlinkLeft=b))) for b in (0, 1)
    )  # 42-47: the subject's left eye
    assert (open_[42:48, 0] > 0).all()

    def gap(p: np.ndarray, first: int) -> float:
        return float(p[[first + 1, first + 2], 1].mean() - p[[first + 4, first + 5], 1].mean())

    assert gap(shut, 42) < 0.35 * gap(open_, 42)
    assert gap(shut, 36) == pytest.approx(gap(open_, 36))


def test_a_gaze_turns_the_eyeball_without_changing_its_shape(head):
    ids = load_asset().left_eye
    still = head.vertices(weights())[ids]
    turned = head.vertices(weights(eyeLookOutLeft=1))[ids]
    assert np.linalg.norm(turned - turned.mean(0), axis=1) == pytest.approx(
        np.linalg.norm(still - still.mean(0), axis=1), abs=1e-5
    )
    # The vertices are not spread evenly, so their mean turns a little too.
    assert turned.mean(0) == pytest.approx(still.mean(0), abs=1e-4)
    front = still[:, 2].argmax()
    assert turned[front, 0] > still[front, 0] + 0.001


def test_a_code_poses_as_its_weights_do(head):
    w = weights(jawOpen=0.6, mouthSmileLeft=0.8, eyeLookUpLeft=0.5, browInnerUp=1)
    assert head.vertices(arkit_to_code(w)) == pytest.approx(head.vertices(w), abs=1e-5)


def test_a_code_of_another_layout_or_a_sequence_is_refused(head):
    with pytest.raises(LayoutError):
        head.vertices(neutral_code(FLAME2020))
    with pytest.raises(ShapeError):
        head.vertices(np.zeros((2, 52), np.float32))


def test_an_unknown_morph_or_texture_is_named():
    with pytest.raises(FormatError, match="no-such-morph"):
        Head(Identity(morphs=(("no-such-morph", 0.1),)))
    with pytest.raises(FormatError, match="nothing.jpg"):
        load_texture("nothing.jpg")


def test_subdivision_keeps_a_flat_grid_flat_and_its_rim_in_place():
    x, y = np.meshgrid(np.arange(4.0), np.arange(4.0))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(16)], 1)
    quads = np.array(
        [
            [r * 4 + c, r * 4 + c + 1, r * 4 + c + 5, r * 4 + c + 4]
            for r in range(3)
            for c in range(3)
        ]
    )
    matrix, fine = subdivide(quads, 16)
    assert np.asarray(matrix.sum(1)).ravel() == pytest.approx(np.ones(matrix.shape[0]))
    smooth = matrix @ points
    assert fine.shape == (36, 4)
    assert np.abs(smooth[:, 2]).max() == 0
    assert smooth[5] == pytest.approx(points[5])  # an inner vertex of a regular grid stays
    assert smooth[1] == pytest.approx(points[1])  # so does one on a straight rim
    a, b, c = (smooth[fine[:, i]] for i in range(3))
    assert (np.cross(b - a, c - a)[:, 2] > 0).all()  # the winding is kept
