import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import FormatError
from pipeline.core.geometry import project
from pipeline.perception.landmarks import Face
from pipeline.perception.mobilenet import MobileNetV2
from pipeline.perception.points import (
    CLOSE,
    CloseUp,
    PointsFinder,
    PointsSeen,
    Square,
    seen_arrays,
    seen_of,
    without_norms,
)
from pipeline.synthetic.subject import Subject
from pipeline.system.assets import POINTS
from tests.conftest import dome
from tests.prep.test_synthetic import weights


@pytest.fixture(scope="module")
def finder() -> PointsFinder:
    return PointsFinder()


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A picture of a head that the network never saw, and its vertices in it."""
    subject, camera = Subject.sample(424_242), dome(1, 256, seed=3)[0]
    frame = subject.render(weights(jawOpen=0.4), camera)
    return frame.rgb, project(camera, torch.from_numpy(frame.vertices))[0].double().numpy()


def box(pixels: np.ndarray) -> Face:
    """A face as the detector frames it, a little off."""
    (left, top), (right, bottom) = pixels.min(0).tolist(), pixels.max(0).tolist()
    return Face((left + 4, top - 3, right + 4, bottom - 3), pixels, 1.0)


def test_features_without_norms_are_those_with_them():
    net = MobileNetV2().eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = net.features(x)
        after = without_norms(net.features)(x)
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)
    assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in net.modules())


def test_a_drawn_head_is_seen_where_it_is(
    finder: PointsFinder, drawn: tuple[np.ndarray, np.ndarray]
):
    rgb, vertices = drawn
    truth = vertices[finder.vertices]
    seen = finder(rgb, box(truth[:68]))
    miss = np.linalg.norm(seen.points - truth, axis=1)
    size = float(np.ptp(truth[:68], axis=0).max())
    assert np.median(miss) < 0.06 * size
    assert 0.3 < np.sqrt((miss**2 / 2 / seen.sigma**2).mean()) < 3


def test_a_head_that_lies_is_seen_as_one_that_stands(
    finder: PointsFinder, drawn: tuple[np.ndarray, np.ndarray]
):
    rgb, vertices = drawn
    upright = finder(rgb, box(vertices[finder.vertices][:68]))
    lying = np.ascontiguousarray(np.rot90(rgb))
    turned = np.stack([vertices[:, 1], rgb.shape[1] - vertices[:, 0]], 1)
    seen = finder(lying, box(turned[finder.vertices][:68]))
    back = np.stack([rgb.shape[1] - seen.points[:, 1], seen.points[:, 0]], 1)
    assert np.median(np.linalg.norm(back - upright.points, axis=1)) < 8


def test_points_move_with_the_square(finder: PointsFinder, drawn: tuple[np.ndarray, np.ndarray]):
    rgb, vertices = drawn
    at = vertices[finder.vertices[:68]].mean(0)
    big = Image.fromarray(rgb).resize((512, 512), Image.Resampling.BILINEAR)
    small = finder.look(Image.fromarray(rgb), Square(at, 190))
    large = finder.look(big, Square(2 * at, 380))
    assert np.median(np.linalg.norm(large.points / 2 - small.points, axis=1)) < 2.5


def test_other_weights_are_refused(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(POINTS.read_bytes()[:1000])
    with pytest.raises(FormatError):
        PointsFinder(tmp_path / "w.safetensors")


def test_the_shipped_weights_are_those_of_their_provenance():
    facts = json.loads((POINTS.parent / "PROVENANCE.json").read_text())
    assert facts[POINTS.name].split()[-1] == sha256(POINTS.read_bytes()).hexdigest()


def test_what_views_see_comes_back_from_a_file_also_where_some_see_nothing():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (CLOSE, CLOSE)).astype(np.uint8)
    bare = PointsSeen(rng.normal(size=(9, 2)), rng.uniform(1, 2, 9), np.ones(5), np.ones(5))
    whole = replace(
        bare, points=bare.points + 1, marks=rng.normal(size=(68, 2)),
        close_up=CloseUp(grey, np.array([1.0, 2, 3])),
    )  # fmt: skip
    back = seen_of(seen_arrays([None, whole, bare, None]))
    assert back[0] is None and back[3] is None
    for one, again in zip((whole, bare), back[1:3], strict=True):
        assert again is not None
        for name in ("points", "sigma", "numbers", "numbers_sigma"):
            np.testing.assert_array_equal(getattr(again, name), getattr(one, name))
    assert back[1] is not None and back[1].marks is not None and back[1].close_up is not None
    np.testing.assert_array_equal(back[1].marks, whole.marks)
    np.testing.assert_array_equal(back[1].close_up.grey, grey)
    np.testing.assert_array_equal(back[1].close_up.place, [1, 2, 3])
    assert back[2] is not None and back[2].marks is None and back[2].close_up is None
    assert seen_arrays([None, None]) == {}
