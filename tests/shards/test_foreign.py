"""Shards that somebody else made, to read or write where they should not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from pipeline.core.errors import FormatError
from pipeline.shards.reader import Shard
from pipeline.shards.schema import PICTURES

SECRET = np.arange(4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    path = tmp_path / "mine" / "anna.h5"
    path.parent.mkdir()
    shutil.copyfile(shards / "anna.h5", path)
    (tmp_path / "secret.bin").write_bytes(SECRET.tobytes())
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["vertices"] = SECRET
    return path


def external(file: Any, folder: Path) -> None:
    secret = [(str(folder / "secret.bin"), 0, SECRET.nbytes)]
    file.create_dataset("vertices", SECRET.shape, "f4", external=secret)


def linked(file: Any, folder: Path) -> None:
    file["vertices"] = h5py.ExternalLink(str(folder / "secret.h5"), "vertices")


def soft(file: Any, _: Path) -> None:
    file["vertices"] = h5py.SoftLink("/elsewhere")
    file["elsewhere"] = SECRET


def virtual(file: Any, folder: Path) -> None:
    layout = h5py.VirtualLayout(SECRET.shape, "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "vertices", SECRET.shape)
    file.create_virtual_dataset("vertices", layout)


def packed(file: Any, _: Path) -> None:
    file.create_dataset("vertices", (4, 10**5, 3), "f4", chunks=(1, 10**5, 3), compression="gzip")
    file["vertices"][:] = 0


def unwritten(file: Any, _: Path) -> None:
    file.create_dataset("vertices", (4, 10**8, 3), "f4")


def unwritten_chunks(file: Any, _: Path) -> None:
    file.create_dataset("vertices", (4, 10**8, 3), "f4", chunks=(1, 10, 3))


def large_chunks(file: Any, _: Path) -> None:
    file.create_dataset("vertices", (4, 5, 3), "f4", chunks=(4, 10**7, 3), maxshape=(4, None, 3))


def group(file: Any, _: Path) -> None:
    file.create_group("vertices")


def doubles(file: Any, _: Path) -> None:
    file["vertices"] = SECRET.astype(np.float64)


def texts(file: Any, _: Path) -> None:
    file.create_dataset("vertices", SECRET.shape, h5py.string_dtype())
    file["vertices"][:] = "a"


def flat(file: Any, _: Path) -> None:
    file["vertices"] = SECRET[..., 0]


def shorter(file: Any, _: Path) -> None:
    file["vertices"] = SECRET[:3]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (external, "another file"), (linked, "leads elsewhere"), (soft, "leads elsewhere"),
        (virtual, "another file"), (packed, "compressed"), (unwritten, "larger than"),
        (unwritten_chunks, "larger than"), (large_chunks, "chunks of"),
        (group, "no array"), (doubles, "float64"),
        (texts, "object"), (flat, r"\[4, 5\]"), (shorter, r"\[3, 5, 3\]"),
    ],
)  # fmt: skip
def test_an_array_that_is_not_the_shards_own_is_refused(
    copy: Path, tmp_path: Path, how: Callable[[Any, Path], None], why: str
):
    with h5py.File(copy, "r+") as file:
        del file["vertices"]
        how(file, tmp_path)
    with pytest.raises(FormatError, match=why):
        Shard(copy)


@pytest.mark.parametrize("subject", ["../../../escape", "/tmp/escape", "..", "", "a\\b", "a\nb"])
def test_a_subject_that_is_no_name_is_refused(copy: Path, subject: str):
    with h5py.File(copy, "r+") as file:
        file.attrs["subject"] = subject
    with pytest.raises(FormatError, match="folder's name"):
        Shard(copy)


@pytest.mark.parametrize("field", PICTURES)
@pytest.mark.parametrize("where", [(2**63, 1), (2**64 - 1, 2), (0, 2**40)])
def test_a_picture_outside_of_the_bytes_is_refused(copy: Path, field: str, where: tuple[int, int]):
    with h5py.File(copy, "r+") as file:
        data: Any = file[field]
        data[0, 0] = np.array(where, np.uint64)
    with pytest.raises(FormatError, match="outside of its bytes"):
        Shard(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("width", 0), ("height", 10**6), ("width", "wide"), ("provenance", "{"), ("version", "x"),
     ("provenance", json.dumps([1]))],
)  # fmt: skip
def test_facts_that_cannot_be_are_refused(copy: Path, key: str, value: Any):
    with h5py.File(copy, "r+") as file:
        file.attrs[key] = value
    with pytest.raises(FormatError):
        Shard(copy)


@pytest.mark.parametrize("checksum", [[0] * 20, "x", "a" * 64, 1.5, np.zeros((2, 2)), b"x"])
def test_a_checksum_that_is_none_is_refused(copy: Path, checksum: Any):
    with h5py.File(copy, "r+") as file:
        file.attrs["checksum"] = checksum
    with Shard(copy) as shard, pytest.raises(FormatError, match="does not have the content"):
        shard.verify()
