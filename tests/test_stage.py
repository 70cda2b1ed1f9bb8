import errno
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import InputError, StaleOutputError
from pipeline.stage import claim, run_items, write_whole


@dataclass(frozen=True)
class Toy:
    a: int = 1


def test_a_full_disk_leaves_the_old_file_and_no_half_new_one(tmp_path: Path):
    path = tmp_path / "x.txt"
    path.write_text("old")

    def full(part: Path) -> None:
        part.write_text("ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"x\.txt: No space left"):
        write_whole(path, full)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_leaves_nothing(tmp_path: Path):
    def interrupted(part: Path) -> None:
        part.write_text("ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "x.txt", interrupted)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_other_settings_is_refused_and_kept(tmp_path: Path):
    claim(tmp_path, Toy(1), made="*.h5", overwrite=False)
    (tmp_path / "a.h5").write_text("result")
    with pytest.raises(StaleOutputError, match="other settings"):
        claim(tmp_path, Toy(2), made="*.h5", overwrite=False)
    assert (tmp_path / "a.h5").exists()
    claim(tmp_path, Toy(1), made="*.h5", overwrite=False)
    assert (tmp_path / "a.h5").exists()


def test_overwrite_deletes_what_other_settings_made_and_nothing_else(tmp_path: Path):
    claim(tmp_path, Toy(1), made="*.h5", overwrite=False)
    (tmp_path / "a.h5").write_text("result")
    (tmp_path / "notes.txt").write_text("mine")
    claim(tmp_path, Toy(2), made="*.h5", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "stage.json"]


def test_a_strangers_files_are_neither_trusted_nor_deleted(tmp_path: Path):
    (tmp_path / "a.h5").write_text("somebody's")
    for overwrite in (False, True):
        with pytest.raises(StaleOutputError, match="no stage made"):
            claim(tmp_path, Toy(), made="*.h5", overwrite=overwrite)
    assert (tmp_path / "a.h5").read_text() == "somebody's"


def fail_on_three(item: int) -> None:
    if item == 3:
        raise InputError("three is bad.", "Leave it out.")


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_a_worker_reaches_the_user(workers: int):
    with pytest.raises(InputError, match="three is bad"):
        run_items(range(5), fail_on_three, workers)


def test_progress_counts_every_item():
    seen: list[tuple[int, int]] = []
    run_items([1, 2], fail_on_three, 1, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
