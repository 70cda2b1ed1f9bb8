"""The frame of a shard file: HDF5 makes its metadata, plain writes put the content in place.

HDF5 that meets a full disk leaves open handles and crashes later, and it would want a whole file
in memory otherwise. So it never sees the disk here: it lays the datasets out in a file that only
remembers what was written, and the content goes to the places it chose.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

PAGE = 4096


class SparseFile(io.RawIOBase):
    """A file in memory that holds only the pages that were written."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._at = 0
        self.size = 0

    def seekable(self) -> bool:
        """Say that it is."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        self._at = offset + (0, self._at, self.size)[whence]
        return self._at

    def tell(self) -> int:
        """Return the place."""
        return self._at

    def truncate(self, size: int | None = None) -> int:
        """Set the size."""
        self.size = self._at if size is None else size
        return self.size

    def write(self, data: Any) -> int:
        """Remember bytes at the place."""
        data = bytes(data)
        done = 0
        while done < len(data):
            page, start = divmod(self._at + done, PAGE)
            part = data[done : done + PAGE - start]
            self._pages.setdefault(page, bytearray(PAGE))[start : start + len(part)] = part
            done += len(part)
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def readinto(self, buffer: Any) -> int:
        """Return bytes back; zeros where nothing was written."""
        wanted = max(min(len(buffer), self.size - self._at), 0)
        done = 0
        while done < wanted:
            page, start = divmod(self._at + done, PAGE)
            part = self._pages.get(page, bytes(PAGE))[start : start + wanted - done]
            buffer[done : done + len(part)] = part
            done += len(part)
        self._at += wanted
        return wanted

    def pages(self) -> list[tuple[int, bytes]]:
        """Return offset and content of what was written, in order."""
        return [(page * PAGE, bytes(data)) for page, data in sorted(self._pages.items())]


def lay_out(
    arrays: Mapping[str, tuple[tuple[int, ...], str]], attributes: Mapping[str, Any]
) -> tuple[SparseFile, dict[str, int]]:
    """Return the metadata of a file, and where the content of each array starts.

    Args:
        arrays: Shape and type by name. The first ones' places do not depend on the last one's
            size; attributes of equal lengths give equal places.
        attributes: Of the file.
    """
    sparse = SparseFile()
    with h5py.File(sparse, "w") as file:
        file.attrs.update(attributes)
        for name, (shape, dtype) in arrays.items():
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_layout(h5py.h5d.CONTIGUOUS)
            plan.set_obj_track_times(False)  # the same content gives the same bytes
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            kind = h5py.h5t.py_create(np.dtype(dtype))
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, name.encode(), kind, space, plan)
        places = {name: file[name].id.get_offset() for name in arrays}
    return sparse, {name: place or 0 for name, place in places.items()}
