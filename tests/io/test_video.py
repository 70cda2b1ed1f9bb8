"""Videos and folders of frames: the same bytes each time, whole or not there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import InputError
from pipeline.io.video import MARK, write_mp4, write_pngs, write_webm


def frames(count: int, channels: int = 3, side: int = 34) -> Iterator[np.ndarray]:
    for i in range(count):
        yield np.random.default_rng(i).integers(0, 255, (side, side, channels), np.uint8)


def broken(count: int) -> Iterator[np.ndarray]:
    yield from frames(count)
    raise KeyboardInterrupt


@pytest.mark.parametrize(("kind", "channels"), [("mp4", 3), ("webm", 4)])
def test_one_input_gives_one_video(tmp_path: Path, kind: str, channels: int):
    write = write_mp4 if kind == "mp4" else write_webm
    for name in ("a", "b"):
        write(tmp_path / f"{name}.{kind}", frames(6, channels), 25)
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_a_video_of_a_thing_that_moves_is_the_same_each_time(tmp_path: Path):
    x, y = np.meshgrid(np.arange(64), np.arange(64))

    def moving() -> Iterator[np.ndarray]:
        for i in range(80):
            disc = (x - 32 - 12 * np.sin(i / 9)) ** 2 + (y - 32) ** 2 < 150
            yield np.where(disc[..., None], [200, 150, 120 + i], 255).astype(np.uint8)

    seen: set[bytes] = set()
    for i in range(8):
        write_mp4(tmp_path / f"{i}.mp4", moving(), 25)
        seen.add((tmp_path / f"{i}.mp4").read_bytes())
    assert len(seen) == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux lends fewer cores")
@pytest.mark.parametrize(("kind", "channels"), [("mp4", 3), ("webm", 4)])
def test_a_video_does_not_depend_on_the_number_of_cores(tmp_path: Path, kind: str, channels: int):
    write = write_mp4 if kind == "mp4" else write_webm
    write(tmp_path / f"a.{kind}", frames(6, channels, 128), 25)
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        write(tmp_path / f"b.{kind}", frames(6, channels, 128), 25)
    finally:
        os.sched_setaffinity(0, cores)
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_stopped_frames_leave_nothing(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt):
        write_pngs(tmp_path / "out", broken(3))
    assert not (tmp_path / "out").exists()


def test_frames_of_a_killed_run_give_way_and_no_others(tmp_path: Path):
    write_pngs(tmp_path, frames(3))
    with pytest.raises(InputError, match="not an empty folder"):  # a whole one stays
        write_pngs(tmp_path, frames(2))
    (tmp_path / MARK).write_text(str(2**22 + 1))
    (tmp_path / f".frame_00003.png.{2**22 + 1}.part").write_text("half")
    write_pngs(tmp_path, frames(2))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["frame_00000.png", "frame_00001.png"]
    (tmp_path / MARK).write_text(str(os.getppid()))
    with pytest.raises(InputError, match="is drawing into"):
        write_pngs(tmp_path, frames(2))
    (tmp_path / MARK).write_text(str(2**22 + 1))
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not an empty folder"):
        write_pngs(tmp_path, frames(2))
    assert (tmp_path / "mine.txt").read_text() == "kept"
