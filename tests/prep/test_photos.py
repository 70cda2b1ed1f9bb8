"""Tests of photographs whose head is tracked by many points, with and without known cameras."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.avatar.camera_path import read_path, write_path
from pipeline.core.errors import CameraError, InputError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.faces.makehuman import Head, Identity, load_asset
from pipeline.io.camera_file import CameraFile, read_cameras
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen
from pipeline.prep import photos
from pipeline.tracking.tracker import HeadTracker
from tests.conftest import dome
from tests.prep.test_synthetic import weights

IDS = np.concatenate(
    [load_asset().landmarks, np.setdiff1d(np.arange(0, 5000, 40), load_asset().landmarks)]
).astype(np.int64)
SIZE = 320


class Knowing:
    """Sees the points of pictures as they were projected; a picture's grey is its number."""

    vertices = IDS

    def __init__(self, points: list[np.ndarray]) -> None:
        self.points = points

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        points = self.points[int(rgb[0, 0, 0])]
        size = len(points)
        numbers = np.zeros(47 + 60)
        return PointsSeen(points, np.full(size, 1.0), numbers, np.full(len(numbers), 3.0))


@pytest.fixture(scope="module")
def cameras() -> Camera:
    return dome(3, SIZE, seed=2)


@pytest.fixture(scope="module")
def points(cameras: Camera) -> list[np.ndarray]:
    head = Head(Identity())
    acts = [weights(), weights(jawOpen=0.5), weights(browInnerUp=1.0)]
    return [
        project(cameras[i], torch.from_numpy(head.vertices(w)[IDS]))[0].double().numpy()
        for i, w in enumerate(acts)
    ]


@pytest.fixture(scope="module")
def tracker(points: list[np.ndarray]) -> HeadTracker:
    return HeadTracker(Knowing(points))  # pyright: ignore[reportArgumentType]


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{i}.png" for i in range(3)]
    for i, path in enumerate(found):
        Image.fromarray(np.full((SIZE, SIZE, 3), i, np.uint8)).save(path)
    return found


def run(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker, **options: object
) -> photos.Photos:
    def detect(rgb: np.ndarray) -> list[Face]:
        marks = points[int(rgb[0, 0, 0])][:68]
        (left, top), (right, bottom) = marks.min(0).tolist(), marks.max(0).tolist()
        return [Face((left, top, right, bottom), marks, 1.0), Face((1, 1, 70, 70), marks, 0.9)]

    def matting(rgb: np.ndarray) -> np.ndarray:
        return np.ones(rgb.shape[:2], np.float32)

    return photos.estimate_views(
        paths, 64, matting=matting, detector=detect, tracker=tracker, **options
    )


def degrees(a: torch.Tensor, b: torch.Tensor) -> float:
    cosine = ((a[:3, :3] * b[:3, :3]).sum() - 1) / 2
    return float(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))))


def test_a_tracked_head_comes_with_its_mesh_cameras_and_codes(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker, cameras: Camera
):
    notes: list[str] = []
    found = run(paths, points, tracker, note=notes.append)
    assert len(found.tracked.codes) == 3
    for i in range(3):
        turn = degrees(found.view.camera.world_to_camera[i], cameras.world_to_camera[i])
        assert turn < 2
        mesh = torch.from_numpy(found.tracked.mesh.posed[i][load_asset().landmarks])
        drawn = project(found.view.camera[i], mesh)[0].double().numpy()
        assert np.abs(drawn - found.landmarks[i]).mean() < 1
    assert "0.png shows 2 faces: number 1" in notes[0]


def test_cameras_of_a_world_tell_where_the_head_is_in_it(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker, cameras: Camera,
    tmp_path: Path,
):  # fmt: skip
    place = torch.eye(4)
    place[:3, :3] = torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    place[:3, 3] = torch.tensor([1.0, 2, 3])
    world = Camera(
        cameras.world_to_camera @ torch.inverse(place), cameras.K, cameras.width, cameras.height
    )
    write_path(tmp_path / "rig.json", world)
    data = json.loads((tmp_path / "rig.json").read_text())
    (tmp_path / "rig.json").write_text(json.dumps({**data, "frame": "world"}))
    known = read_cameras(tmp_path / "rig.json")
    found = run(paths, points, tracker, known=known)
    pose = torch.from_numpy(found.tracked.bundle.poses[0]).float()
    assert degrees(pose, place) < 0.5 and float((pose - place)[:3, 3].norm()) < 0.005
    # The same file draws the head where it was seen.
    again = read_path(tmp_path / "rig.json", pose)
    assert degrees(again.world_to_camera[1], cameras.world_to_camera[1]) < 0.5
    with pytest.raises(InputError, match="no place"):
        read_path(tmp_path / "rig.json")


def test_cameras_of_the_head_frame_are_believed(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker, cameras: Camera
):
    found = run(paths, points, tracker, known=CameraFile(cameras))
    for i in range(3):
        turn = degrees(found.view.camera.world_to_camera[i], cameras.world_to_camera[i])
        assert turn < 0.05


def test_cameras_that_contradict_the_pictures_are_refused_by_name(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker, cameras: Camera
):
    swapped = cameras[[1, 2, 0]]
    with pytest.raises(CameraError, match=r"camera given for .*\.png .* off by \d+ pixels"):
        run(paths, points, tracker, known=CameraFile(swapped, "world"))
    with pytest.raises(InputError, match="2 cameras for 3 pictures"):
        run(paths, points, tracker, known=CameraFile(cameras[[0, 1]], "world"))
    tall = Camera(cameras.world_to_camera, cameras.K, SIZE, 2 * SIZE)
    with pytest.raises(InputError, match="320x320 pixels, its camera 320x640"):
        run(paths, points, tracker, known=CameraFile(tall, "world"))


def test_the_face_that_was_asked_for_is_taken(
    paths: list[Path], points: list[np.ndarray], tracker: HeadTracker
):
    notes: list[str] = []
    run(paths[:1], points, tracker, which=2, note=notes.append)
    assert "number 2, at (36, 36)" in notes[0]
    with pytest.raises(InputError, match="2 faces; there is no face 3"):
        run(paths[:1], points, tracker, which=3)


def test_a_head_on_its_side_is_said(paths: list[Path], tracker: HeadTracker):
    def detect(rgb: np.ndarray) -> list[Face]:
        lying = rgb[0, 0, 0] == 0
        return [] if lying else [Face((0, 0, 90, 90), np.zeros((68, 2)), 1.0)]

    rgb = np.zeros((SIZE, SIZE, 3), np.uint8)
    rgb[-1, 0] = 9  # comes to the top left where the picture is turned
    Image.fromarray(rgb).save(paths[0])
    with pytest.raises(InputError, match="lies on its side"):
        photos.estimate_views(
            paths[:1], 64, detector=detect, tracker=tracker, matting=lambda x: np.ones(x.shape[:2])
        )
