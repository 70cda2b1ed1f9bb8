"""Self-reenactment of a video whose head is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError, StaleOutputError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera, View
from pipeline.evaluate.reenactment import (
    COLUMNS,
    NEAREST,
    REFINED,
    Reenactment,
    choose,
    compare,
    reenact,
)
from pipeline.faces.makehuman import load_asset, mean_landmarks
from pipeline.io.video import write_mp4
from pipeline.model.fastgha import FastGHA
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen, Square
from pipeline.tracking.track_file import TrackFile, read_track
from pipeline.tracking.tracker import HeadTracker
from pipeline.train.checkpoint import save
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT, dome

SIZE, COUNT, STEP = 160, 10, 20
"""Of the frames; how many; the grey of each is its number times the step."""
REACH = 0.18
"""Radians to each side that the head turns, slowly."""


def camera(i: int) -> Camera:
    yaw = torch.tensor(REACH * (2 * i / (COUNT - 1) - 1))
    center = torch.stack([yaw.sin(), torch.tensor(0.0), yaw.cos()])
    K = torch.tensor([[320.0, 0, 80], [0, 320.0, 80], [0, 0, 1]])
    return Camera(look_at(center, torch.zeros(3)), K, SIZE, SIZE)


class Knowing:
    """Sees the mean head's landmarks where they are; a frame's grey tells its camera."""

    vertices = load_asset().landmarks.astype(np.int64)

    def __init__(self) -> None:
        self.looks = 0

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        return self._seen(float(rgb.mean()))

    def look(self, picture, square: Square) -> PointsSeen:
        return self._seen(float(np.asarray(picture).mean()))

    def square(self, seen: PointsSeen) -> Square:
        return Square(seen.points.mean(0), 100.0)

    def _seen(self, grey: float) -> PointsSeen:
        self.looks += 1
        marks = torch.from_numpy(mean_landmarks()).float()
        points = project(camera(round(grey / STEP)), marks)[0].double().numpy()
        return PointsSeen(points, np.ones(68), np.zeros(107), np.full(107, 0.1))


def detect(rgb: np.ndarray) -> list[Face]:
    return [Face((40, 40, 120, 120), np.zeros((68, 2)), 1.0)]


def everything(rgb: np.ndarray) -> np.ndarray:
    return np.ones(rgb.shape[:2], np.float32)


@pytest.fixture(scope="module")
def request_(tmp_path_factory: pytest.TempPathFactory) -> Reenactment:
    folder = tmp_path_factory.mktemp("video")
    frames = (np.full((SIZE, SIZE, 3), STEP * i, np.uint8) for i in range(COUNT))
    write_mp4(folder / "eve.mp4", frames, 25)
    torch.manual_seed(0)
    net = FastGHA(tiny(), "float32")
    save(folder / "tiny.safetensors", net, None, {"layout": LAYOUT, "step": 0})
    return Reenactment(folder / "eve.mp4", folder / "tiny.safetensors", targets=4)


def test_a_video_is_tracked_once_cut_once_and_compared_with_its_nearest_input(
    request_: Reenactment, tmp_path: Path
):
    finder = Knowing()
    tools = {
        "detector": detect, "matting": everything,
        "tracker": HeadTracker(finder),  # pyright: ignore[reportArgumentType]
    }  # fmt: skip
    report = reenact(request_, tmp_path, **tools)
    assert report.values["inputs"] == [0, 3, 6, 9] and len(report.values["targets"]) == 4
    assert not set(report.values["inputs"]) & set(report.values["targets"])
    yaw = np.array(report.values["input_yaw_degrees"])
    np.testing.assert_allclose(yaw, np.degrees(REACH) * np.array([-1, -1 / 3, 1 / 3, 1]), atol=3)
    # A frame's grey is told from its nearest input's by two thirds of a step or more.
    pictures = report.values["frames"][NEAREST]
    assert len(pictures) == 4 and all(20 < row[2] < 25 for row in pictures)
    assert set(report.values["figures"]["avatar"]) == set(COLUMNS)
    assert (tmp_path / "sheet.png").is_file()
    kept = sorted(path.name for path in (tmp_path / "frames").glob("*.png"))
    assert len(kept) == 8
    # A second run goes on where the first was: nothing is tracked or cut again.
    looks, finder.looks = finder.looks, 0

    def nobody(rgb: np.ndarray) -> np.ndarray:
        raise AssertionError("cut again")

    again = reenact(request_, tmp_path, **{**tools, "matting": nobody})
    assert looks > 0 and finder.looks == 0
    assert again.values["frames"] == report.values["frames"]
    with pytest.raises(StaleOutputError, match="other settings"):
        reenact(replace(request_, size=32), tmp_path, **tools)
    track = read_track(tmp_path / "frames" / "track.npz")
    refuses(request_, track)


def test_a_refined_avatar_stands_beside_the_plain_one(request_: Reenactment, tmp_path: Path):
    tools = {
        "detector": detect, "matting": everything,
        "tracker": HeadTracker(Knowing()),  # pyright: ignore[reportArgumentType]
    }  # fmt: skip
    values = reenact(replace(request_, refine_s=60.0), tmp_path, **tools).values
    assert list(values["figures"]) == ["avatar", REFINED, NEAREST] and values["refine_s"] == 60
    plain, refined = (np.array(values["frames"][name]) for name in ("avatar", REFINED))
    assert (plain != refined).any() and refined[:, 0].mean() > plain[:, 0].mean() - 0.5


def refuses(asked: Reenactment, track: TrackFile) -> None:
    assert choose(track, replace(asked, frames=(5, 2), targets=99)) == (
        [5, 2], [0, 1, 3, 4, 6, 7, 8, 9],
    )  # fmt: skip
    with pytest.raises(InputError, match="No face is tracked in frame 10"):
        choose(track, replace(asked, frames=(10,)))
    with pytest.raises(InputError, match="7 frames make no avatar"):
        choose(track, replace(asked, frames=tuple(range(7))))


def test_figures_of_the_head_leave_out_what_is_around_it():
    truth = torch.full((1, 3, 32, 32), 0.5)
    alpha = torch.zeros(1, 1, 32, 32)
    alpha[..., 8:24, 8:24] = 1
    drawn = truth.clone()
    drawn[..., :4] = 1  # beside the head, and beyond the reach of a window of SSIM
    rows = compare(drawn, View(truth, alpha, dome(1, 32)))
    assert rows[0, 0] < 20 and rows[2, 0] == 100
    drawn = truth + 0.1 * alpha
    rows = compare(drawn, View(truth, alpha, dome(1, 32)))
    assert rows[2, 0] == pytest.approx(20, abs=1e-3) and rows[0, 0] > 25
