"""Tests of heads followed through videos, and of their files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.core.errors import CameraError, FormatError
from pipeline.core.geometry import project
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.layouts import MAKEHUMAN, code_to_arkit
from pipeline.faces.makehuman import Head, Identity, load_asset
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen, Square
from pipeline.synthetic.subject import Subject
from pipeline.tracking.track_file import read_track, write_track
from pipeline.tracking.tracker import ANEW, Followed, HeadTracker, landmarks_of
from tests.conftest import dome
from tests.prep.test_synthetic import weights

IDS = np.concatenate(
    [load_asset().landmarks, np.setdiff1d(np.arange(0, 5000, 40), load_asset().landmarks)]
).astype(np.int64)
SIZE = 200
MIDDLE = np.full((68, 2), 100.0)


def points(opening: float) -> np.ndarray:
    head, camera = Head(Identity()), dome(1, SIZE, seed=3)[0]
    mesh = torch.from_numpy(head.vertices(weights(jawOpen=opening))[IDS])
    return project(camera, mesh)[0].double().numpy()


class Counting:
    """Sees the same face everywhere, and counts how it was asked."""

    vertices = IDS

    def __init__(self) -> None:
        self.detected = self.looked = 0
        self._points = points(0.3)

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        self.detected += 1
        return self._seen()

    def look(self, picture: Image.Image, square: Square) -> PointsSeen:
        self.looked += 1
        return self._seen()

    def square(self, seen: PointsSeen) -> Square:
        return Square(seen.points.mean(0), 100.0)

    def _seen(self) -> PointsSeen:
        size = len(IDS)
        return PointsSeen(self._points, np.full(size, 1.0), np.zeros(107), np.full(107, 3.0))


def follow(greys: list[int], empty: set[int]) -> tuple[Followed, Counting, HeadTracker]:
    finder = Counting()
    tracker = HeadTracker(finder)  # pyright: ignore[reportArgumentType]
    frames = [np.full((SIZE, SIZE, 3), g, np.uint8) for g in greys]

    def detect(rgb: np.ndarray) -> list[Face]:
        return [] if int(rgb[0, 0, 0]) in empty else [Face((50, 50, 150, 150), MIDDLE, 1.0)]

    return tracker.follow(frames, detect), finder, tracker


def test_a_face_is_detected_once_and_then_followed_until_the_shot_changes():
    followed, finder, _ = follow([10] * 5 + [200] * 4, set())
    assert followed.cuts == [5] and (finder.detected, finder.looked) == (2, 7)


class Follower:
    """Knows a face again but where it is told that it is lost."""

    def __init__(self, lost: set[int]) -> None:
        self.lost, self.asked, self.again_asked = lost, 0, 0

    def __call__(self, rgb: np.ndarray) -> list[Face]:
        self.asked += 1
        return [Face((50, 50, 150, 150), MIDDLE, 1.0)] * 2

    def again(self, rgb: np.ndarray, face: Face) -> Face | None:
        self.again_asked += 1
        return None if int(rgb[0, 0, 0]) in self.lost else face


def test_faces_are_looked_for_only_now_and_then_and_where_one_is_lost():
    tracker = HeadTracker(Counting())  # pyright: ignore[reportArgumentType]
    frames = [np.full((SIZE, SIZE, 3), 10 + i, np.uint8) for i in range(ANEW + 3)]
    detect = Follower({14})
    followed = tracker.follow(frames, detect)
    assert sorted(followed.faces) == [0, 4, ANEW] and detect.asked == 3
    assert detect.again_asked == ANEW + 3 - 2
    assert [len(faces) for faces in followed.faces.values()] == [2, 2, 2]
    assert None not in followed.seen


def test_frames_without_a_face_are_left_out():
    followed, _, tracker = follow([10, 10, 200, 200, 10], {200})
    assert [one is None for one in followed.seen] == [False, False, True, True, False]
    head, frames = tracker.fit_video(followed, (SIZE, SIZE))
    assert frames == [0, 1, 4] and len(head.codes) == 3
    nothing, _, tracker = follow([10] * 3, {10})
    with pytest.raises(CameraError, match="No frame shows a face"):
        tracker.fit_video(nothing, (SIZE, SIZE))


def test_a_tracking_comes_back_from_its_file_and_drives_an_avatar(tmp_path: Path):
    followed, _, tracker = follow([10] * 4, set())
    head, frames = tracker.fit_video(followed, (SIZE, SIZE))
    path = tmp_path / "track.npz"
    write_track(path, head, frames, followed.cuts, 25.0)
    back = read_track(path)
    torch.testing.assert_close(back.codes.values, head.codes.values)
    torch.testing.assert_close(back.cameras.K[2], head.bundle.cameras[2].K)
    np.testing.assert_allclose(back.mesh().posed, head.mesh.posed, atol=1e-4)
    assert len(read_sequence(path, MAKEHUMAN)) == 4
    np.savez(tmp_path / "other.npz", codes=np.zeros(3))
    with pytest.raises(FormatError, match="not a tracking of ours"):
        read_track(tmp_path / "other.npz")
    with np.load(path) as file:
        np.savez(tmp_path / "else.npz", **{**file, "topology": np.array("x")})
    with pytest.raises(FormatError, match="another head model"):
        read_track(tmp_path / "else.npz")


@pytest.mark.parametrize("shut", [0.0, 1.0])
def test_the_fit_has_the_lids_of_the_picture(shut: float):
    subject, camera = Subject.sample(424_246), dome(6, 256, seed=3)[4]
    act = weights(eyeBlinkLeft=shut, eyeBlinkRight=shut)
    frame = subject.render(act, camera)
    marks = project(camera, torch.from_numpy(landmarks_of(frame.vertices)))[0].double().numpy()
    box = (*marks.min(0).tolist(), *marks.max(0).tolist())
    tracker = HeadTracker()
    seen = tracker.see(frame.rgb, Face(box, marks, 1.0))
    found = code_to_arkit(tracker.fit([seen], [(256, 256)]).codes)[0].double().numpy()
    assert np.abs(found[[0, 7]] - shut).max() < 0.5
