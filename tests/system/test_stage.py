import errno
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.errors import InputError, StaleOutputError, WorkerError
from pipeline.system.executor import run_items
from pipeline.system.files import sweep, write_whole
from pipeline.system.locks import locked
from pipeline.system.stage import claim


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


def take_lock(folder: str) -> str:
    """What another process says that wants the same folder."""
    code = (
        "import sys; from pathlib import Path; from pipeline.system.locks import locked\n"
        "from pipeline.core.errors import StaleOutputError\n"
        "try:\n    with locked(Path(sys.argv[1])): print('mine')\n"
        "except StaleOutputError as error: print(error.problem)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True
    ).stdout


def test_a_second_run_in_one_folder_refuses_and_a_dead_ones_lock_is_taken_over(tmp_path: Path):
    with locked(tmp_path):
        assert f"Process {os.getpid()} is working in" in take_lock(str(tmp_path))
    code = (
        "import os, sys; from pathlib import Path; from pipeline.system.locks import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert take_lock(str(tmp_path)) == "mine\n"


def test_what_a_killed_process_half_wrote_is_swept_and_nothing_else(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    (tmp_path / "work").mkdir()
    left = [f".x.npz.{dead.pid}.part", f"work/.y.npz.{dead.pid}.part", f".z.{os.getpid()}.part"]
    kept = [
        f".x.npz.{living.pid}.part", ".film.mkv.part", ".draft.v2.part", f"x.{dead.pid}.part",
        f"{dead.pid}.part", ".x.0.part", f".x.{'9' * 10}9.part",
    ]  # fmt: skip
    for name in left + kept:
        (tmp_path / name).touch()
    sweep(tmp_path)
    living.communicate(b"\n")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == sorted(kept)


def test_a_lock_alone_deletes_nothing_of_a_strangers_folder(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {".film.mkv.part", f".x.npz.{dead.pid}.part", "a.h5"}
    for name in names:
        (tmp_path / name).touch()
    with locked(tmp_path), pytest.raises(StaleOutputError, match="no stage made"):
        claim(tmp_path, Toy(), made="*.h5", overwrite=True)
    assert names <= {p.name for p in tmp_path.iterdir()}


def die_on_two(item: int) -> None:
    if item == 2:
        os.kill(os.getpid(), 9)


def test_a_killed_worker_is_an_error_with_a_remedy():
    with pytest.raises(WorkerError, match="fewer --workers"):
        run_items(range(4), die_on_two, 2)
