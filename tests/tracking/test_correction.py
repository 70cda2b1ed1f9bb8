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
from pipeline.tracking.correction import (
    KIND,
    SETTINGS,
    VERSION,
    IdentityCorrection,
    Setting,
)
from pipeline.tracking.surface import STATE
from pipeline.tracking.tracker import VIDEO, HeadTracker
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


def write(path: Path, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    parts = {
        f"{setting}.{part}": rng.normal(0, 0.1, shape)
        for setting in SETTINGS
        for part, shape in (("slope", (3, 6)), ("shift", (3,)))
    }
    tensors = {name: torch.from_numpy(part) for name, part in parts.items()}
    write_tensors(path, tensors, {"format": KIND, "version": VERSION})
    return parts


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_regression_adds_what_it_tells(setting: Setting, tmp_path: Path):
    path = tmp_path / "correction.safetensors"
    parts = write(path, 0)
    slope, shift = parts[f"{setting}.slope"], parts[f"{setting}.shift"]
    rng = np.random.default_rng(1)
    who, told = rng.normal(0, 1, 3), rng.normal(0, 1, 3)
    expected = who + slope[:, :3] @ who + slope[:, 3:] @ (told - who) + shift
    np.testing.assert_allclose(IdentityCorrection(path)(setting, who, told), expected)


def test_a_rig_shows_the_corrected_person_and_the_head_sits_accordingly():
    seen, cameras, moments = rig()
    tracker = HeadTracker(Finder())  # pyright: ignore[reportArgumentType]
    asked: list[tuple[str, np.ndarray]] = []
    who = np.random.default_rng(1).normal(0, 0.3, 60)

    def correct(setting: str, identity: np.ndarray, told: np.ndarray) -> np.ndarray:
        asked.append((setting, identity))
        return who

    tracker._correct = correct  # pyright: ignore[reportAttributeAccessIssue]
    sizes = [(SIZE, SIZE)] * len(seen)
    found = tracker.fit(seen, sizes, cameras=cameras, moments=moments)
    np.testing.assert_array_equal(found.bundle.identity, who)
    known = tracker.know(seen, sizes, cameras, moments)
    np.testing.assert_array_equal(known.identity, who)
    same = tracker.fit(seen, sizes, cameras=cameras, moments=moments, identity=asked[0][1])
    np.testing.assert_array_equal(same.bundle.identity, asked[0][1])
    assert [setting for setting, _ in asked] == ["rig"] * 2  # a known person is not corrected
    # The points of another person sit best where the head is moved a little.
    way = found.bundle.poses[:, :3, 3] - same.bundle.poses[:, :3, 3]
    assert (np.linalg.norm(way, axis=1) > 1e-4).all()
    assert found.bundle.errors.mean() > same.bundle.errors.mean()


def test_several_photographs_are_corrected_and_videos_are_not():
    seen, _, _ = rig()
    tracker = HeadTracker(Finder())  # pyright: ignore[reportArgumentType]
    asked: list[str] = []

    def correct(setting: str, identity: np.ndarray, told: np.ndarray) -> np.ndarray:
        asked.append(setting)
        return identity + 0.1

    tracker._correct = correct  # pyright: ignore[reportAttributeAccessIssue]
    tracker.fit(seen[:2], [(SIZE, SIZE)] * 2)
    tracker.fit(seen[:1], [(SIZE, SIZE)])
    tracker.fit(seen[:2], [(SIZE, SIZE)] * 2, config=VIDEO)
    assert asked == ["photographs"]


def test_points_of_another_network_are_not_corrected_unasked():
    own = HeadTracker(Finder())  # pyright: ignore[reportArgumentType]
    assert own._correct is None and isinstance(HeadTracker()._correct, IdentityCorrection)
    asked = IdentityCorrection()
    given = HeadTracker(Finder(), correction=asked)  # pyright: ignore[reportArgumentType]
    assert given._correct is asked


def test_a_file_of_something_else_is_refused(tmp_path: Path):
    path = tmp_path / "correction.safetensors"
    write_tensors(path, {"slope": torch.zeros(2)}, {"format": "else", "version": 1})
    with pytest.raises(FormatError):
        IdentityCorrection(path)
    write_tensors(path, {"slope": torch.zeros(2)}, {"format": KIND, "version": VERSION})
    with pytest.raises(FormatError, match="no correction"):
        IdentityCorrection(path)


def test_the_shipped_regression_is_that_of_its_provenance():
    facts = json.loads((CORRECTION.parent / "PROVENANCE.json").read_text())
    assert facts[CORRECTION.name] == f"sha256 {sha256(CORRECTION.read_bytes()).hexdigest()}"
    # It is small beside a person's own numbers, of size one.
    correct, none = IdentityCorrection(), np.zeros(60)
    assert all(np.linalg.norm(correct(setting, none, none)) < 3 for setting in SETTINGS)
