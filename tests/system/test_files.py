"""Names from files as paths."""

import errno
import os
import sys
from pathlib import Path

import pytest

from pipeline.avatar.avatar import Avatar
from pipeline.core.errors import FormatError, InputError
from pipeline.expressions.read import read_expressions
from pipeline.faces.layouts import MAKEHUMAN
from pipeline.io.images import read_rgb
from pipeline.io.pickles import read_pickle
from pipeline.io.raw_files import read_npz
from pipeline.shards.reader import Shard
from pipeline.system.files import (
    inside,
    read_small,
    require_file,
    sweep_parts,
    write_folder,
    write_whole,
)


@pytest.mark.parametrize("name", ["../a", "..", ".", "", "/a", "a/b", "a\\b", "a\0b", "a" * 300])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="cannot be a file's name"):
        inside(tmp_path, "whole", name)


def test_names_are_joined_one_level_each(tmp_path: Path):
    found = inside(tmp_path, "2023--1352", "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS} ..b")
    assert found.parent.parent == tmp_path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.npz")
    for read in (
        lambda: require_file(tmp_path / "pipe.npz", "a file"),
        lambda: read_small(tmp_path / "pipe.npz", "a file"),
        lambda: read_npz(tmp_path / "pipe.npz"),
        lambda: read_expressions(tmp_path / "pipe.npz", MAKEHUMAN),
        lambda: read_rgb(tmp_path / "pipe.npz"),
        lambda: read_pickle(tmp_path / "pipe.npz"),
        lambda: Shard(tmp_path / "pipe.npz"),
        lambda: Avatar.load(tmp_path / "pipe.npz"),
    ):
        with pytest.raises(InputError, match="is a pipe or a device"):
            read()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows words it otherwise")
@pytest.mark.parametrize(
    ("name", "words"), [("a" * 300, "name too long"), ("a\0b", "cannot be the name"),
                        ("none", "does not exist"), ("file/x", "does not exist"),
                        ("loop", "symbolic links")],
)  # fmt: skip
def test_paths_that_cannot_be_are_two_lines(tmp_path: Path, name: str, words: str):
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match=f"(?i){words}") as caught:
        require_file(tmp_path / name, "a file")
    assert caught.value.remedy
    if name != "none":
        with pytest.raises(InputError) as caught:
            write_whole(tmp_path / name / "y", lambda part: part.write_text("x"))
        assert "space" not in caught.value.remedy


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "can only be read"), (errno.ENOSPC, "Free some space"), (errno.EACCES, "Let")],
)
def test_what_cannot_be_written_leaves_nothing_and_says_what_helps(
    tmp_path: Path, number: int, words: str
):
    def refused(part: Path) -> None:
        part.write_text("half")
        raise OSError(number, os.strerror(number), str(part))

    out = tmp_path / "new" / "site"
    with pytest.raises(InputError, match="Cannot write .*b.txt") as caught:
        write_folder(out, {"a.txt": lambda part: part.write_text("a"), "b.txt": refused})
    assert words in caught.value.remedy and ".part" not in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_only_parts_of_the_very_file_and_of_the_dead_are_swept(tmp_path: Path):
    dead, alive = 2**22 + 1, os.getppid()
    mine, other, living = (
        tmp_path / name
        for name in (f".a.mp4.{dead}.part", f".b.mp4.{dead}.part", f".a.mp4.{alive}.part")
    )
    for path in (mine, other, living):
        path.write_text("half")
    sweep_parts(tmp_path / "a.mp4")
    assert sorted(tmp_path.iterdir()) == sorted([other, living])


def test_a_name_of_the_longest_kind_can_be_written(tmp_path: Path):
    write_whole(tmp_path / ("a" * 255), lambda part: part.write_text("x"))
    assert (tmp_path / ("a" * 255)).read_text() == "x"


def test_an_absurdly_large_small_file_is_not_read(tmp_path: Path):
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(FormatError, match="over 256 MB"):
        read_small(tmp_path / "x.json", "a file")
