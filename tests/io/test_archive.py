"""Archives of numbered members: what no number can be is no member."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipeline.core.errors import MissingItemError
from pipeline.io.archive import Archive


def test_members_are_known_by_their_numbers_and_others_left_out(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for name in ("7.png", "000012.png", "9" * 30 + ".png", "\u0663.png", "x.png"):
            file.writestr(name, name.encode())
    archive = Archive(tmp_path / "a.zip", r"(\d+)\.png")
    assert archive.numbers().tolist() == [7, 12]
    assert archive.read(12) == b"000012.png" and 3 not in archive
    with pytest.raises(MissingItemError, match="does not exist"):
        archive.read(3)
