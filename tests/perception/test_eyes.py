"""The network that looks at eyes, on people that it never saw."""

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import FormatError
from pipeline.core.geometry import project
from pipeline.faces.layouts import gaze_angles
from pipeline.perception.eyes import EyesFinder, EyesNet, faced, squares
from pipeline.perception.landmarks import MIRROR
from pipeline.synthetic.subject import Subject
from pipeline.system.assets import EYES
from pipeline.tracking.tracker import landmarks_of
from tests.conftest import dome
from tests.prep.test_synthetic import weights

PEOPLE = (424_242, 424_243, 424_244, 424_245)
ACTS = (
    {},
    {"eyeBlinkLeft": 1.0, "eyeBlinkRight": 1.0},
    {"eyeLookOutLeft": 0.9, "eyeLookInRight": 0.9},
    {"eyeLookInLeft": 0.9, "eyeLookOutRight": 0.9},
    {"eyeLookUpLeft": 0.8, "eyeLookUpRight": 0.8},
    {"eyeLookDownLeft": 0.8, "eyeLookDownRight": 0.8},
)


@pytest.fixture(scope="module")
def finder() -> EyesFinder:
    return EyesFinder()


def picture(person: int, act: dict[str, float], size: int = 256) -> tuple[Image.Image, np.ndarray]:
    """A head from the front and its landmarks."""
    subject, camera = Subject.sample(person), dome(6, size, seed=3)[4]
    frame = subject.render(weights(**act), camera)
    marks = project(camera, torch.from_numpy(landmarks_of(frame.vertices)))[0].double().numpy()
    return Image.fromarray(frame.rgb), marks


def test_lids_of_drawn_people_are_told_and_a_gaze_errs_as_it_says(finder: EyesFinder):
    off: list[float] = []
    for person in PEOPLE:
        for act in ACTS:
            numbers, sigma = finder(*picture(person, act))
            w = weights(**act)
            shut = w[0] > 0.5
            assert ((numbers[4:] > 0.5) == shut).all(), (person, act, numbers)
            true = np.radians([gaze_angles(w, side)[:2] for side in ("Left", "Right")]).ravel()
            off += (np.abs(numbers[:4] - true) / sigma[:4]).tolist()
    assert 0.2 < np.mean(off) < 1.6
    assert np.percentile(off, 95) < 3.5


def test_points_that_are_a_little_off_change_little(finder: EyesFinder):
    image, marks = picture(PEOPLE[0], ACTS[2])
    there, _ = finder(image, marks)
    rng = np.random.default_rng(0)
    size = float(np.ptp(marks, axis=0).max())
    off = [finder(image, marks + size * rng.normal(0, 0.02, 2))[0] - there for _ in range(8)]
    assert np.degrees(np.abs(np.array(off)[:, :4])).mean() < 4
    assert np.abs(np.array(off)[:, 4:]).mean() < 0.2


def test_a_face_in_a_mirror_looks_the_other_way(finder: EyesFinder):
    image, marks = picture(PEOPLE[1], ACTS[2])
    numbers, _ = finder(image, marks)
    back = np.ascontiguousarray(np.asarray(image)[:, ::-1])
    other = np.stack([image.width - marks[MIRROR, 0], marks[MIRROR, 1]], 1)
    turned, _ = finder(Image.fromarray(back), other)
    expected = numbers[[2, 3, 0, 1, 5, 4]] * [1, -1, 1, -1, 1, 1]
    assert np.degrees(np.abs(turned - expected)[:4]).max() < 5
    assert np.abs(turned - expected)[4:].max() < 0.15


def test_a_head_that_lies_has_the_same_squares():
    image, marks = picture(PEOPLE[0], ACTS[0])
    upright, angle = squares(image, marks)
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(image))))
    turned = np.stack([marks[:, 1], image.width - marks[:, 0]], 1)
    again, other = squares(lying, turned)
    assert np.abs(again - upright).mean() < 0.01
    assert np.degrees(other - angle) == pytest.approx(-90, abs=0.1)
    np.testing.assert_allclose(faced(turned, other), faced(marks, angle), atol=1e-4)


def test_weights_of_something_else_are_refused(tmp_path: Path):
    (tmp_path / "eyes.safetensors").write_bytes(b"no")
    with pytest.raises(FormatError):
        EyesFinder(tmp_path / "eyes.safetensors")


def test_the_shipped_weights_are_those_of_their_provenance():
    facts = json.loads((EYES.parent / "PROVENANCE.json").read_text())
    assert facts[EYES.name] == f"sha256 {sha256(EYES.read_bytes()).hexdigest()}"
    assert sum(p.numel() for p in EyesNet().parameters()) < 400_000
