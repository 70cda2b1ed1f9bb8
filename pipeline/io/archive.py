"""Zip archives of numbered members, read by name and never extracted.

A capture of Ava-256 has 80 archives of 5,000 pictures for each of its assets, so the index is
kept in arrays: the directory objects of the standard library would fill half a gigabyte.
"""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from pipeline.core.errors import MissingItemError
from pipeline.io.raw_files import BROKEN, MAX_BYTES
from pipeline.system.files import is_file

_ROW = np.dtype(
    [
        ("number", "i8"), ("offset", "i8"), ("packed", "i8"), ("size", "i8"),
        ("crc", "u4"), ("method", "u2"), ("flags", "u2"), ("name", "S64"),
    ]
)  # fmt: skip


class Archive:
    """One archive; opened when first asked. Members are known by the number in their name."""

    def __init__(self, path: Path, member: str) -> None:
        """Name the archive.

        Args:
            path: The zip file; need not be there.
            member: Pattern of the members' names, whose group 1 is the number.
        """
        self.path = path
        self._member = re.compile(member)
        self._open: tuple[zipfile.ZipFile, np.ndarray] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: a worker opens its own."""
        return {**self.__dict__, "_open": None}

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return is_file(self.path)

    def looks_whole(self) -> bool:
        """Say whether the archive has an end; a download that broke off has none."""
        try:
            return self.exists and zipfile.is_zipfile(self.path)
        except OSError:
            return False

    def numbers(self) -> Int64[np.ndarray, "n"]:
        """Return the numbers of all members, sorted.

        Raises:
            MissingItemError: If the archive is missing or broken.
        """
        return self._index()[1]["number"]

    def __contains__(self, number: int) -> bool:
        """Say whether there is such a member; a broken archive has none."""
        try:
            return self._row(number) is not None
        except MissingItemError:
            return False

    def read(self, number: int) -> bytes:
        """Read one member, checking its checksum.

        Raises:
            MissingItemError: If it is not there or damaged, or the archive is broken.
        """
        row = self._row(number)
        where = f"{self.path}, member {number:06d}"
        if row is None:
            raise MissingItemError(f"{where} does not exist.", "The data set dropped this frame.")
        info = zipfile.ZipInfo(row["name"].decode("ascii"))
        info.header_offset, info.CRC = int(row["offset"]), int(row["crc"])
        info.compress_size, info.file_size = int(row["packed"]), int(row["size"])
        info.compress_type, info.flag_bits = int(row["method"]), int(row["flags"])
        if info.file_size > MAX_BYTES:
            raise MissingItemError(
                f"{where} would have {info.file_size / 1e6:.0f} MB.", "Download it again."
            )
        try:
            with self._index()[0].open(info) as file:
                return file.read(MAX_BYTES)
        except BROKEN as error:
            raise MissingItemError(f"{where} is damaged.", "Download the archive again.") from error

    def close(self) -> None:
        """Close the file; it is opened again when asked."""
        if self._open is not None:
            self._open[0].close()
            self._open = None

    def _row(self, number: int) -> Any:
        rows = self._index()[1]
        at = int(np.searchsorted(rows["number"], number))
        return rows[at] if at < len(rows) and rows["number"][at] == number else None

    def _index(self) -> tuple[zipfile.ZipFile, np.ndarray]:
        if self._open is None:
            if not self.exists:
                raise MissingItemError(f"{self.path} does not exist.", "Download it.")
            try:
                file = zipfile.ZipFile(self.path)
            except BROKEN as error:
                raise MissingItemError(
                    f"{self.path} is not a whole zip archive.",
                    "Delete it and download it again; an interrupted download leaves such files.",
                ) from error
            rows = [
                (int(found[1]), i.header_offset, i.compress_size, i.file_size, i.CRC,
                 i.compress_type, i.flag_bits, i.filename.encode("ascii"))
                for i in file.infolist()
                if (found := self._member.fullmatch(i.filename))
                and len(i.filename) <= 64 and i.filename.isascii()
                and max(int(found[1]), i.header_offset, i.compress_size, i.file_size) < 2**63
            ]  # fmt: skip
            index = np.array(rows, _ROW)
            file.filelist.clear()
            file.NameToInfo.clear()
            _, first = np.unique(index["number"], return_index=True)
            self._open = file, index[first]
        return self._open
