"""Foreign pickles, read without executing anything: numbers, arrays and containers only.

A pickle is a program: it names functions and calls them. Here it can name a closed list of
things, each replaced by a guarded one of ours; everything else is refused by its name.
"""

from __future__ import annotations

import io
import pickle  # noqa: TID251  the one place that needs it
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.core.errors import InputError

MAX_BYTES = 2**30
"""A larger file is none of those that are read here."""
ENTRIES = 10**9
"""A larger array likewise."""
TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class _Refused(Exception):
    """A pickle asks for something that is not on the list."""


class _Holder:
    """Stands for an object of a class that is not here; remembers its state only."""

    state: Any = None

    def __new__(cls, *_: Any) -> _Holder:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


class Chumpy(_Holder):
    """An array of chumpy: its value is the entry `x`."""


class ChumpySelect(_Holder):
    """Entries of another array: a.ravel()[idxs].reshape(preferred_shape)."""


class Sparse(_Holder):
    """A scipy matrix in compressed columns."""


def read_pickle(path: Path) -> Any:
    """Read a pickle, or a file of torch.save, made of containers, numbers and arrays.

    Arrays of chumpy and sparse matrices become plain arrays.

    Raises:
        InputError: If the file is missing, damaged, or asks for anything else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Refused("more than a gigabyte")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}).", "Check the name and the download."
        ) from error
    except _Refused as error:
        raise InputError(f"{path} holds {error}.", "It is none of the files read here.") from error
    return load_pickle(data, path)


def load_pickle(data: bytes, where: object) -> Any:
    """Read the bytes of a pickle or of torch.save.

    Raises:
        InputError: If they are damaged or ask for something that is not on the list.
    """
    try:
        if data[:4] == b"PK\x03\x04":
            return plain(_Unpickler(io.BytesIO(_torch_member(data))).load())
        if data[:6] == b"\x93NUMPY":
            return plain(_Unpickler(_after_header(data)).load())
        stream = io.BytesIO(data)
        first = _Unpickler(stream).load()
        if first == TORCH_MAGIC:  # then version, system, and the object
            for _ in range(3):
                first = _Unpickler(stream).load()
        return plain(first)
    except _Refused as error:
        raise InputError(
            f"{where} asks for {error}, which plain data does not need.",
            "It was not opened any further. Get the file from its owner's site.",
        ) from error
    except Exception as error:  # noqa: BLE001  damaged bytes raise anything
        raise InputError(
            f"{where} is no whole pickle of plain arrays ({type(error).__name__}).",
            "Download or export it again.",
        ) from error


def plain(value: Any, depth: int = 0) -> Any:
    """Turn what stands for foreign objects into arrays, through all containers."""
    if depth > 20:
        raise _Refused("containers in containers without end")
    if isinstance(value, Chumpy):
        return plain(value.state["x"], depth + 1)
    if isinstance(value, ChumpySelect):
        source = np.asarray(plain(value.state["a"], depth + 1))
        shape = tuple(int(n) for n in value.state["preferred_shape"])
        return source.ravel()[np.asarray(value.state["idxs"])].reshape(shape)
    if isinstance(value, Sparse):
        return _dense({str(k): v for k, v in value.state.items()})
    if isinstance(value, dict):
        return {k: plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(plain(v, depth + 1) for v in value)
    if isinstance(value, np.ndarray) and value.dtype.hasobject and value.size == 1:
        return plain(value.item(), depth + 1)  # how numpy.save writes a dictionary
    return value


def _dense(state: dict[str, Any]) -> np.ndarray:
    rows, columns = (int(n) for n in state["_shape" if "_shape" in state else "shape"])
    values = np.asarray(state["data"], np.float64)
    inner = np.asarray(state["indices"], np.int64)
    starts = np.asarray(state["indptr"], np.int64)
    if rows * columns > ENTRIES // 10 or len(starts) != columns + 1 or min(rows, columns) < 1:
        raise _Refused(f"a sparse matrix of {rows} x {columns}")
    if len(inner) != len(values) or starts[0] != 0 or starts[-1] != len(values):
        raise ValueError("sparse matrix")
    if (inner < 0).any() or (inner >= rows).any():
        raise ValueError("sparse matrix")
    dense = np.zeros((rows, columns))
    np.add.at(dense, (inner, np.repeat(np.arange(columns), np.diff(starts))), values)
    return dense


def _torch_member(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = [i for i in file.infolist() if i.filename.endswith("data.pkl")]
        if len(members) != 1 or members[0].file_size > MAX_BYTES:
            raise ValueError("no data.pkl")
        return file.read(members[0])


def _after_header(data: bytes) -> io.BytesIO:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    read(stream)
    return stream


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the known things, never what the module itself has."""
        found = _known(module, name)
        if found is None:
            raise _Refused(f"{module}.{name}")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Refuse torch's storages outside of the pickle."""
        raise _Refused("tensors of torch in separate members")


def _known(module: str, name: str) -> Any:
    arrays = ("numpy.core.multiarray", "numpy._core.multiarray")
    if module in arrays and name in ("_reconstruct", "scalar"):
        return _empty_array if name == "_reconstruct" else _scalar
    return KNOWN.get((module, name))


def _empty_array(*_: Any) -> np.ndarray:
    """Return the array whose content follows in the pickle."""
    return np.ndarray((0,), "b")


def _scalar(kind: Any, data: Any = b"") -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
    if not isinstance(kind, np.dtype) or kind.hasobject or len(raw) != kind.itemsize:
        raise ValueError("scalar")
    return np.frombuffer(raw, kind)[0]


def _dtype(name: Any, *_: Any) -> np.dtype:
    if not isinstance(name, str) or len(name) > 8:
        raise _Refused("an unusual type of numbers")
    return np.dtype(name)


def _encode(text: Any, codec: Any = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1") or not isinstance(text, str):
        raise _Refused(f"the codec {codec!r}")
    return text.encode("latin1")


def _bytes(*_: Any) -> bytes:
    return b""


def _new(cls: Any, *_: Any) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, _Holder)):
        raise _Refused("an object of a class of its own")
    return cls()


def _tensor(data: Any) -> Any:
    """Return the storage that old torch put into a pickle as a torch file of its own."""
    import torch  # noqa: PLC0415

    return torch.load(io.BytesIO(data), weights_only=True)  # noqa: TID251  opens no pickles


def _strided(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> np.ndarray:
    flat = np.asarray(storage.tolist())
    index = np.full(tuple(size), int(offset), np.int64)
    for axis, (n, step) in enumerate(zip(size, stride, strict=True)):
        shape = [1] * len(size)
        shape[axis] = int(n)
        index = index + (np.arange(int(n)) * int(step)).reshape(shape)
    if index.size > ENTRIES or (index < 0).any():
        raise ValueError("tensor")
    return flat[index]


def _hooks() -> OrderedDict[Any, Any]:
    return OrderedDict()


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("builtins", "bytes"): _bytes,
    ("builtins", "object"): object,
    ("__builtin__", "object"): object,
    ("collections", "OrderedDict"): _hooks,
    ("copy_reg", "_reconstructor"): _new,
    ("copyreg", "_reconstructor"): _new,
    ("chumpy.ch", "Ch"): Chumpy,
    ("chumpy.reordering", "Select"): ChumpySelect,
    ("scipy.sparse.csc", "csc_matrix"): Sparse,
    ("scipy.sparse._csc", "csc_matrix"): Sparse,
    ("scipy.sparse", "csc_matrix"): Sparse,
    ("torch._utils", "_rebuild_tensor_v2"): _strided,
    ("torch.storage", "_load_from_bytes"): _tensor,
}
"""What a pickle may name, and what it gets for it."""
