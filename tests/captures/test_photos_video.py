"""Promises of the readers of plain photographs and videos."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.captures.capture import Timestep
from pipeline.captures.registry import find_captures, open_capture
from pipeline.core.errors import InputError, MissingItemError
from pipeline.io.video import write_mp4
from pipeline.io.video_frames import VideoFrames


def bars(i: int) -> np.ndarray:
    """A landscape picture whose left part tells the number, with a red top."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, : 4 * i + 2] = 200
    picture[:8, :, 0] = 255
    return picture


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "anna.mp4"
    write_mp4(path, (bars(i) for i in range(20)), 30)
    return path


def number(picture: np.ndarray) -> int:
    return round(((picture[32, :, 1] > 100).sum() - 2) / 4)


def turned(path: Path, to: Path) -> Path:
    """Mark a video as a phone held upright does: stored lying, shown a quarter turn clockwise."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") - 4 + 48
    upright = (0, 65536, 0, -65536, 0, 0, 64 * 65536, 0, 0x40000000)
    data[at : at + 36] = struct.pack(">9i", *upright)
    to.write_bytes(data)
    return to


def test_a_video_is_frames_of_one_camera(video):
    assert find_captures("video", video) == {"anna": video}
    assert find_captures("video", video.parent) == {"anna": video}
    capture = open_capture("video", video)
    assert len(capture.timesteps) == 20
    assert capture.fps == 30
    for i in (3, 4, 11, 2, 19, 0):
        view = capture.view(Timestep("anna", i), "video")
        assert number(view.image) == i
        assert view.camera is None
    with pytest.raises(MissingItemError, match="no frame 20"):
        capture.view(Timestep("anna", 20), "video")


def test_a_phones_upright_video_is_upright(video, tmp_path):
    picture = VideoFrames(turned(video, tmp_path / "b.mp4")).read(5)
    assert picture.shape == (96, 64, 3)
    wanted = np.rot90(bars(5), -1)
    assert np.abs(picture.astype(int) - wanted).mean() < 4


def test_a_video_that_broke_off_is_refused_or_ends_early(video, tmp_path):
    part = tmp_path / "cut.mp4"
    part.write_bytes(video.read_bytes()[:800])
    with pytest.raises(MissingItemError, match="not a whole video"):
        open_capture("video", part)
    (tmp_path / "not.mp4").write_text("hello")
    with pytest.raises(MissingItemError, match="not a whole video"):
        open_capture("video", tmp_path / "not.mp4")


def test_photographs_are_upright_moments_of_one_person(tmp_path):
    folder = tmp_path / "bert"
    folder.mkdir()
    exif = Image.Exif()
    exif[274] = 6  # lying; to be shown a quarter turn clockwise
    Image.fromarray(bars(3)).save(folder / "p10.jpg", exif=exif, quality=95)
    Image.fromarray(bars(4)).save(folder / "p9.png")
    rgba = np.dstack([bars(5), np.full((64, 96), 255, np.uint8)])
    rgba[40:, :, 3] = 0
    Image.fromarray(rgba).save(folder / "p11.webp", lossless=True)
    (folder / "p12.HEIC").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    assert find_captures("photos", tmp_path) == {"bert": folder}
    capture = open_capture("photos", folder)
    assert [f.name for f in capture.files] == ["p9.png", "p10.jpg", "p11.webp"]
    assert capture.missing() == {"p12.HEIC": "not read; export it as JPEG"}
    views = [capture.view(t, "photo") for t in capture.timesteps]
    assert number(views[0].image) == 4
    assert np.abs(views[1].image.astype(int) - np.rot90(bars(3), -1)).mean() < 4
    assert (views[2].matte == rgba[..., 3]).all()
    assert views[2].backdrop == "white"
    assert (views[2].image[50] == 255).all()


def test_a_picture_with_an_alpha_channel_that_nobody_used_has_no_matte(tmp_path):
    rgba = np.dstack([bars(5), np.full((64, 96), 255, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    capture = open_capture("photos", tmp_path)
    assert capture.view(capture.timesteps[0], "photo").matte is None


def test_a_folder_without_photographs_says_what_it_needs(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(InputError, match="1 raw or HEIC"):
        open_capture("photos", tmp_path)
    with pytest.raises(InputError, match="no photos capture"):
        find_captures("photos", tmp_path)
