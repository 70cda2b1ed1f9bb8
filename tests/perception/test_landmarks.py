from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import MissingPackageError, MissingWeightsError
from pipeline.perception.landmarks import MESH_TO_IBUG, MeshDetector


@pytest.fixture(scope="module")
def detector() -> MeshDetector:
    try:
        return MeshDetector()
    except (MissingPackageError, MissingWeightsError) as missing:
        pytest.skip(missing.problem)


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    return pytest.importorskip("skimage.data").astronaut()


def test_the_table_names_a_place_of_the_mesh_for_each_landmark():
    assert len(MESH_TO_IBUG) == 68
    assert all(0 <= i < 468 for ids in MESH_TO_IBUG for i in ids)


def test_landmarks_stand_in_the_ibug_order(detector: MeshDetector, astronaut: np.ndarray):
    (face,) = detector(astronaut)
    p = face.landmarks
    assert p[36:42, 0].mean() < p[27, 0] < p[42:48, 0].mean()  # her right eye is at the left
    assert p[17:27, 1].mean() < p[36:48, 1].mean() < p[30, 1] < p[48:68, 1].mean() < p[8, 1]
    assert (np.diff(p[:17, 0]) > -5).all()
    pupil = [204, 101]  # read off the picture
    np.testing.assert_allclose(p[36:42].mean(0), pupil, atol=3)


def test_a_tilted_head_has_tilted_landmarks(detector: MeshDetector, astronaut: np.ndarray):
    turned = np.asarray(Image.fromarray(astronaut).rotate(30, Image.Resampling.BICUBIC))
    (upright,), (tilted,) = detector(astronaut), detector(turned)
    a = np.radians(30)
    back = (tilted.landmarks - 256) @ np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])
    misses = np.linalg.norm(back + 256 - upright.landmarks, axis=1)
    assert misses.mean() < 0.03 * upright.size


def test_a_small_face_in_a_large_picture_is_found(detector: MeshDetector, astronaut: np.ndarray):
    large = np.full((3600, 4800, 3), 128, np.uint8)
    large[1500:2012, 2300:2812] = astronaut
    (face,) = detector(large)
    (alone,) = detector(astronaut)
    assert np.abs(face.landmarks - alone.landmarks - [2300, 1500]).mean() < 0.03 * alone.size


def test_a_face_that_moved_a_little_is_seen_again(detector: MeshDetector, astronaut: np.ndarray):
    first = detector(astronaut)[0]
    moved = np.roll(astronaut, (6, -9), (0, 1))
    again = detector.again(moved, first)
    assert again is not None
    anew = detector(moved)[0].landmarks
    assert np.abs(again.landmarks - anew).max() < 0.03 * first.size
    assert np.abs((again.landmarks - first.landmarks).mean(0) - [-9, 6]).max() < 1.0
    assert detector.again(np.full_like(astronaut, 90), first) is None


def test_a_wall_has_no_face(detector: MeshDetector):
    assert detector(np.full((300, 400, 3), 128, np.uint8)) == []


def test_without_weights_the_error_names_file_folder_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ai_edge_litert")
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeightsError) as error:
        MeshDetector()
    assert "face_detection_back.tflite" in error.value.problem
    assert str(tmp_path) in error.value.remedy
    assert "fastgha weights fetch" in error.value.remedy
