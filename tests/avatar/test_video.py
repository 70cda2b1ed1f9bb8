"""What is taken of a video, and what each frame is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pipeline.avatar import video
from pipeline.avatar.video import Footage, VideoConfig, held_back, read_footage, thinned
from pipeline.core.errors import FastGHAError, InputError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.faces.layouts import ARKIT, arkit_weights
from pipeline.faces.makehuman import load_asset, mean_landmarks
from pipeline.io.video import write_mp4
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen, Square
from pipeline.tracking.tracker import Followed, HeadTracker

SIZE, COUNT, STEP = 160, 24, 8
"""Of the frames; how many; the grey of each is its number times the step."""


def test_every_tenth_frame_and_the_last_fifth_are_held_back():
    judges, unseen = held_back(100)
    assert judges == (5, 15, 25, 35, 45, 55, 65, 75) and unseen == tuple(range(80, 100))


def test_no_frame_is_fitted_to_and_held_back(footage: Footage):
    back = {*footage.judges, *footage.unseen}
    assert back and not back & {*footage.supervise}
    assert {*footage.inputs} <= {*footage.supervise} and len(footage.inputs) == 6
    assert back | {*footage.supervise} == set(range(len(footage)))


def test_frames_for_the_network_are_spread_and_say_why(footage: Footage):
    yaw, _ = video.directions(footage.cameras)
    rows = list(footage.supervise)
    ends = {rows[int(np.argmin(yaw[rows]))], rows[int(np.argmax(yaw[rows]))]}
    assert ends <= {*footage.inputs}
    units = torch.stack([arkit_weights(code) for code in footage.codes.values])
    widest = max(rows, key=lambda row: float(units[row, ARKIT["jawOpen"]]))
    why = dict(zip(footage.inputs, footage.reasons, strict=True))
    open_ = [row for row, reason in why.items() if "mouth open" in reason]
    assert (
        len(open_) == 1
        and units[open_[0], ARKIT["jawOpen"]] > 0.8 * units[widest, ARKIT["jawOpen"]]
    )
    assert len(set(footage.inputs)) == 6 and all(footage.reasons)


def test_blurred_frames_teach_nothing(footage: Footage):
    bad = footage.inputs[1]
    pixels = footage.pixels.clone()
    soft = functional.avg_pool2d(pixels[bad, :3].float(), 9, 1, 4)
    pixels[bad, :3] = soft.to(torch.uint8)
    said: list[str] = []
    found = replace(footage, pixels=pixels, sharpness=video.sharpness(pixels))
    found = video.with_roles(found, VideoConfig(), said.append)
    assert bad not in found.supervise and bad not in found.inputs
    assert said == ["1 blurred frames are left out."]


def test_a_long_video_is_thinned_evenly():
    rows = thinned(45_000, 300)
    assert len(rows) == 300 and set(np.diff(rows)) == {150}
    assert thinned(252, 300) == list(range(252))
    assert len(thinned(301, 300)) <= 300


def test_the_longest_shot_is_taken():
    assert video.longest_shot(Followed([None] * 10, [3, 8], {})) == range(3, 8)
    assert video.longest_shot(Followed([None] * 10, [], {})) == range(10)


def test_the_sheet_shows_each_frame_of_the_network(footage: Footage):
    drawn = video.sheet(footage)
    assert drawn.shape[1] == 6 * 256 and drawn.shape[0] > 256
    assert len({tuple(c) for c in drawn[-20, ::7]}) >= 3  # network, fitted, held back


# Files, with a tracker that knows.


def camera(i: int) -> Camera:
    yaw = torch.tensor(0.3 * (2 * i / (COUNT - 1) - 1))
    center = torch.stack([yaw.sin(), torch.tensor(0.0), yaw.cos()])
    K = torch.tensor([[320.0, 0, 80], [0, 320.0, 80], [0, 0, 1]])
    return Camera(look_at(center, torch.zeros(3)), K, SIZE, SIZE)


class Knowing:
    """Sees the mean head's landmarks where they are; a frame's grey tells its camera."""

    vertices = load_asset().landmarks.astype(np.int64)

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        return self._seen(float(rgb.mean()))

    def look(self, picture: Image.Image, square: Square) -> PointsSeen:
        return self._seen(float(np.asarray(picture).mean()))

    def square(self, seen: PointsSeen) -> Square:
        return Square(seen.points.mean(0), 100.0)

    def _seen(self, grey: float) -> PointsSeen:
        marks = torch.from_numpy(mean_landmarks()).float()
        points = project(camera(round(grey / STEP)), marks)[0].double().numpy()
        return PointsSeen(points, np.ones(68), np.zeros(107), np.full(107, 0.1))


def one(rgb: np.ndarray) -> list[Face]:
    return [Face((40, 40, 120, 120), np.zeros((68, 2)), 1.0)]


def everything(rgb: np.ndarray) -> np.ndarray:
    return np.ones(rgb.shape[:2], np.float32)


def read(path: Path, detector: Callable[[np.ndarray], list[Face]] = one, **options) -> Footage:
    tracker = HeadTracker(Knowing())  # pyright: ignore[reportArgumentType]
    return read_footage(path, 32, detector=detector, tracker=tracker, matting=everything, **options)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "me.mp4"
    write_mp4(path, (np.full((SIZE, SIZE, 3), STEP * i, np.uint8) for i in range(COUNT)), 25)
    return path


def test_a_video_and_a_folder_of_its_frames_give_the_same(film: Path, tmp_path: Path):
    for i in range(COUNT):
        Image.new("RGB", (SIZE, SIZE), (STEP * i,) * 3).save(tmp_path / f"{i:03d}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    a, b = read(film), read(tmp_path)
    assert a.frames.tolist() == b.frames.tolist() == list(range(COUNT))
    assert a.judges == b.judges and a.unseen == b.unseen
    torch.testing.assert_close(a.cameras.centers, b.cameras.centers, atol=0.02, rtol=0)


def test_a_face_that_leaves_the_picture_leaves_frames_out(film: Path):
    said: list[str] = []

    def gone(rgb: np.ndarray) -> list[Face]:
        return [] if 10 * STEP - 4 < rgb.mean() < 12 * STEP - 4 else one(rgb)

    found = read(film, gone, note=said.append)
    assert found.frames.tolist() == [i for i in range(COUNT) if i not in (10, 11)]
    assert any(line == "2 of 24 frames show no face and are left out." for line in said)


def test_what_the_frame_does_not_show_is_known(film: Path):
    found = read(film)
    shown = found.inside
    # A crop of 40 cm at 1 m with this lens is 128 of 160 pixels: all of it is in the picture.
    assert shown[:, 0].max() == 0 and shown[:, 2].min() == 1


def test_only_the_longest_shot_is_taken(tmp_path: Path):
    def frames(i: int) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), STEP * i, np.uint8)

    order = [23, 22, 21, 20, *range(0, 20), 0]
    write_mp4(tmp_path / "cut.mp4", (frames(i) for i in order), 25)
    said: list[str] = []
    found = read(tmp_path / "cut.mp4", config=VideoConfig(least=10), note=said.append)
    assert found.frames.tolist() == list(range(4, 24))
    assert "longest shot" in said[0]


def two(rgb: np.ndarray) -> list[Face]:
    return [*one(rgb), Face((0, 40, 70, 110), np.full((68, 2), 35.0), 1.0)]


def small(rgb: np.ndarray) -> list[Face]:
    return [Face((40, 40, 70, 70), np.zeros((68, 2)), 1.0)]


@pytest.mark.parametrize(
    ("detector", "problem"),
    [
        (lambda rgb: [], "No frame of me.mp4 shows a face"),
        (lambda rgb: one(rgb) if rgb.mean() < 60 else [], "Only 8 frames of me.mp4 show a face"),
        (two, "shows two people"),
        (small, "only 30 pixels large"),
    ],
)
def test_a_video_of_no_use_is_refused(film: Path, detector, problem: str):
    with pytest.raises(InputError, match=problem) as caught:
        read(film, detector)
    assert caught.value.remedy


def test_folders_of_no_use_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="has no pictures"):
        read(tmp_path)
    for i, side in enumerate((80, 90)):
        Image.new("RGB", (side, 80)).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match=r"1\.png is 90x80, the first frame 80x80"):
        read(tmp_path)
    (tmp_path / "x.mp4").write_text("no video")
    with pytest.raises(FastGHAError, match="not a whole video"):
        read(tmp_path / "x.mp4")
