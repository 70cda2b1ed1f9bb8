"""Who a rig's fit takes a person for, corrected."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import FormatError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.faces.makehuman import Head
from pipeline.io.tensors import write_tensors
from pipeline.perception.points import PointsSeen
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.people import sample_identity
from pipeline.system.assets import CORRECTION
from pipeline.tracking.correction import KIND, VERSION, IdentityCorrection, predictors
from pipeline.tracking.surface import STATE
from pipeline.tracking.tracker import HeadTracker
from tests.tracking.test_bundle import IDS
from tests.tracking.test_tracker import Counting

MOMENTS, VIEWS, SIZE = 2, 3, 512


class Finder(Counting):
    vertices = IDS

    def __init__(self) -> None:
        pass


def rig() -> tuple[list[PointsSeen], list[Camera], list[int]]:
    """What is seen of a drawn person by cameras that stand still."""
    rng = np.random.default_rng(4)
    head, cameras = Head(sample_identity(rng)), sample_cameras(rng, 1, VIEWS, SIZE)[0]
    seen: list[PointsSeen] = []
    for _ in range(MOMENTS):
        mesh = torch.from_numpy(head.vertices(sample_expression(rng))[IDS])
        for v in range(VIEWS):
            points = project(cameras[v], mesh)[0].double().numpy()
            numbers = np.zeros(STATE + 60)
            seen.append(PointsSeen(points, np.full(len(IDS), 0.5), numbers, numbers + 3.0))
    every = [cameras[v] for v in range(VIEWS)] * MOMENTS
    return seen, every, np.repeat(np.arange(MOMENTS), VIEWS).tolist()


def test_a_regression_adds_what_it_tells(tmp_path: Path):
    rng = np.random.default_rng(0)
    slope, shift = rng.normal(0, 0.1, (3, 6)), rng.normal(0, 1, 3)
    path = tmp_path / "correction.safetensors"
    tensors = {"slope": torch.from_numpy(slope), "shift": torch.from_numpy(shift)}
    write_tensors(path, tensors, {"format": KIND, "version": VERSION})
    who, told = rng.normal(0, 1, 3), rng.normal(0, 1, 3)
    expected = who + slope[:, :3] @ who + slope[:, 3:] @ (told - who) + shift
    np.testing.assert_allclose(IdentityCorrection(path)(who, told), expected)
    assert predictors(who, told).shape == (6,)


def test_a_rig_shows_the_corrected_person_and_the_head_sits_accordingly():
    seen, cameras, moments = rig()
    tracker = HeadTracker(Finder())  # pyright: ignore[reportArgumentType]
    asked: list[np.ndarray] = []
    who = np.random.default_rng(1).normal(0, 0.3, 60)

    def correct(identity: np.ndarray, told: np.ndarray) -> np.ndarray:
        asked.append(identity)
        return who

    tracker._correct = correct  # pyright: ignore[reportAttributeAccessIssue]
    sizes = [(SIZE, SIZE)] * len(seen)
    found = tracker.fit(seen, sizes, cameras=cameras, moments=moments)
    np.testing.assert_array_equal(found.bundle.identity, who)
    known = tracker.know(seen, sizes, cameras, moments)
    np.testing.assert_array_equal(known.identity, who)
    same = tracker.fit(seen, sizes, cameras=cameras, moments=moments, identity=asked[0])
    np.testing.assert_array_equal(same.bundle.identity, asked[0])
    assert len(asked) == 2  # a known person is not corrected
    # The points of another person sit best where the head is moved a little.
    way = found.bundle.poses[:, :3, 3] - same.bundle.poses[:, :3, 3]
    assert (np.linalg.norm(way, axis=1) > 1e-4).all()
    assert found.bundle.errors.mean() > same.bundle.errors.mean()


def test_photographs_are_not_corrected():
    seen, _, _ = rig()
    tracker = HeadTracker(Finder())  # pyright: ignore[reportArgumentType]
    before = tracker.fit(seen[:2], [(SIZE, SIZE)] * 2).bundle.identity
    tracker._correct = lambda identity, told: identity + 9.0  # pyright: ignore
    after = tracker.fit(seen[:2], [(SIZE, SIZE)] * 2).bundle.identity
    np.testing.assert_array_equal(before, after)


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "correction.safetensors"
    write_tensors(path, {"slope": torch.zeros(2)}, {"format": "else", "version": 1})
    with pytest.raises(FormatError):
        IdentityCorrection(path)


def test_the_shipped_regression_is_that_of_its_provenance():
    facts = json.loads((CORRECTION.parent / "PROVENANCE.json").read_text())
    assert facts[CORRECTION.name] == f"sha256 {sha256(CORRECTION.read_bytes()).hexdigest()}"
    assert facts["people_fitted"] == 1200
    # It is small beside a person's own numbers, and nothing for the mean head but its shift.
    correct, none = IdentityCorrection(), np.zeros(60)
    assert np.linalg.norm(correct(none, none)) < 3
