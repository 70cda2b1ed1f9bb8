"""Foreign pickles, read without executing anything: numbers, arrays and containers only.

A pickle is a program: it names functions and calls them. Here it can name a closed list of
things, each replaced by a guarded one of ours; everything else is refused by its name. It never
gets a class of numpy or torch in its hands, since their `__setstate__` believes what it is told:
stand-ins keep what was said, and arrays are made here, of exactly as many bytes as they need.
"""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251  the one place that needs it
import pickletools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from pipeline.core.errors import InputError
from pipeline.system.files import explain, require_file

MAX_BYTES = 2**30
"""A larger file is none of those that are read here."""
ENTRIES = 10**9
"""A larger array likewise."""
VALUES = 10**6
"""Values that any file may hold, those that it repeats counted each time; a larger file may hold
as many as it has bytes."""
SPARE_BYTES = 2**26
"""Memory that any file may ask for, besides `GROWTH` times its own size."""
GROWTH = 8
DEPTH = 20
"""Containers in containers."""
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
KIND = re.compile(r"b1|[iu][1248]|f[248]|[SU][1-9][0-9]{0,3}|O8?")
"""Types of numbers, without the byte order."""
STORAGES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8",
    "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1",
    "BoolStorage": "|b1",
}  # fmt: skip


class _Refused(Exception):
    """A pickle asks for something that is not on the list."""


@dataclass
class _Budget:
    """What a file may still take, by its size."""

    size: int
    bytes: int = field(init=False)
    values: int = field(init=False)

    def __post_init__(self) -> None:
        self.bytes = SPARE_BYTES + GROWTH * self.size
        self.values = max(VALUES, self.size)

    def take(self, count: int) -> None:
        """Count memory that is about to be used for good."""
        self.bytes -= count
        if self.bytes < 0:
            raise _Refused("more memory than a file of its size explains")


class _Holder:
    """Stands for an object of a class that is not here; remembers its state only."""

    __slots__ = ("state",)

    def __new__(cls, *_: Any) -> _Holder:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Name:
    """What a pickle gets for a name: it can be called or handed on, and not be changed."""

    __slots__ = ("_call", "target")

    def __init__(self, target: Any = None, call: Callable[..., Any] | None = None) -> None:
        self.target = target
        self._call = call

    def __call__(self, *args: Any) -> Any:
        if self._call is None:
            raise _Refused("an object of a class of its own")
        return self._call(*args)

    def __setstate__(self, _: Any) -> None:
        raise _Refused("a change of what it names")


class _Kind:
    """Stands for numpy.dtype: one plain type of numbers, and its byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: Any) -> None:
        text = name.decode("latin1") if isinstance(name, bytes) else name
        if not isinstance(text, str) or not KIND.fullmatch(text.lstrip("<>|=")[:8]):
            raise _Refused("an unusual type of numbers")
        self.name = text.lstrip("<>|=")
        self.order = text[0] if text[0] in "<>" else "<"
        if text not in (self.name, text[0] + self.name):
            raise _Refused("an unusual type of numbers")

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(cast("tuple[Any, ...]", state)) < 5:
            raise _Refused("an unusual type of numbers")
        _, order, *parts = cast("tuple[Any, ...]", state)
        order = order.decode("latin1") if isinstance(order, bytes) else order
        if order not in ("<", ">", "|", "=") or any(part is not None for part in parts[:3]):
            raise _Refused("an unusual type of numbers")
        self.order = ">" if order == ">" else "<"

    @property
    def objects(self) -> bool:
        return self.name.startswith("O")

    @property
    def dtype(self) -> np.dtype:
        if self.objects:
            raise _Refused("objects instead of numbers")
        return np.dtype(self.order + self.name)


class _Array:
    """Stands for numpy.ndarray: what a pickle said of it, checked when all is read."""

    __slots__ = ("_budget", "made", "said")

    def __init__(self, budget: _Budget, made: np.ndarray | None = None) -> None:
        self._budget = budget
        self.made = made
        self.said: tuple[tuple[int, ...], _Kind, bool, Any] | None = None

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, fortran, raw = state
        if not isinstance(kind, _Kind) or not isinstance(shape, tuple) or self.made is not None:
            raise _Refused("an unusual array")
        sizes = cast("tuple[Any, ...]", shape)
        if len(sizes) > 32 or any(type(n) is not int or not 0 <= n <= ENTRIES for n in sizes):
            raise _Refused(f"an array of {sizes}")
        if not kind.objects:
            raw = _raw(self._budget, raw)
        elif not isinstance(raw, list):
            raise _Refused("an unusual array of objects")
        self.said = (sizes, kind, bool(fortran), raw)

    def numbers(self) -> np.ndarray:
        """Return the array."""
        if self.made is None:
            if self.said is None:
                raise ValueError("array")
            shape, kind, fortran, raw = self.said
            self.made = _made(self._budget, raw, kind, shape, "F" if fortran else "C")
        return self.made


class _Scalar:
    """Stands for a number of numpy."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, _: Any) -> None:
        raise _Refused("a change of a number")


class _Storage:
    """Stands for the numbers behind a tensor."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __setstate__(self, _: Any) -> None:
        raise _Refused("a change of a tensor")


class Chumpy(_Holder):
    """An array of chumpy: its value is the entry `x`."""

    __slots__ = ()


class ChumpySelect(_Holder):
    """Entries of another array: a.ravel()[idxs].reshape(preferred_shape)."""

    __slots__ = ()


class Sparse(_Holder):
    """A scipy matrix in compressed columns."""

    __slots__ = ()


def read_pickle(path: Path) -> Any:
    """Read a pickle, or a file of torch.save, made of containers, numbers and arrays.

    Arrays of chumpy and sparse matrices become plain arrays.

    Raises:
        InputError: If the file is missing, damaged, or asks for anything else.
    """
    require_file(path, "a pickle")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise _Refused("more than a gigabyte")
        data = path.read_bytes()
    except OSError as error:
        raise explain(error, f"Cannot read {path}") from error
    except _Refused as error:
        raise InputError(f"{path} holds {error}.", "It is none of the files read here.") from error
    return load_pickle(data, path)


def load_pickle(data: bytes, where: object) -> Any:
    """Read the bytes of a pickle or of torch.save.

    Raises:
        InputError: If they are damaged or ask for something that is not on the list.
    """
    try:
        budget = _Budget(len(data))
        if data[:4] == b"PK\x03\x04":
            data = _torch_member(data)
            budget = _Budget(len(data))
            return _Plain(budget)(_load(io.BytesIO(data), budget))
        if data[:6] == b"\x93NUMPY":
            return _Plain(budget)(_load(_after_header(data), budget))
        stream = io.BytesIO(data)
        first = _load(stream, budget)
        if first == TORCH_MAGIC:  # then version, system, and the object
            for _ in range(3):
                first = _load(stream, budget)
        return _Plain(budget)(first)
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


@dataclass(frozen=True)
class _Found:
    """A value of ours, and its size with everything repeated that it holds more than once."""

    value: Any
    values: int = 1
    bytes: int = 0
    widest: int = 0
    """Letters of its longest text: an array of texts gives each as much room."""


class _Plain:
    """Turns what was read into containers, numbers and arrays of ours, each thing once."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._done: dict[int, tuple[Any, _Found]] = {}

    def __call__(self, value: Any) -> Any:
        """Return the plain value."""
        return self._found(value, 0).value

    def _found(self, value: Any, depth: int) -> _Found:
        if depth > DEPTH:
            raise _Refused("containers in containers without end")
        if value is None or isinstance(value, (bool, int, float)):
            return _Found(value)
        if isinstance(value, (str, bytes)):
            return _Found(value, 1, len(value), len(value))
        known = self._done.get(id(value))
        if known is None:
            found = self._convert(value, depth)
            if isinstance(value, (list, tuple)):
                size = max(found.bytes, 4 * found.widest * found.values)
                found = _Found(found.value, found.values, size, found.widest)
            # The value is kept too, so that its identity stays its own.
            self._done[id(value)] = known = (value, found)
        found = known[1]
        if found.values > self._budget.values or found.bytes > self._limit():
            raise _Refused("more values than a file of its size explains")
        return found

    def _limit(self) -> int:
        return SPARE_BYTES + GROWTH * self._budget.size

    def _convert(self, value: Any, depth: int) -> _Found:
        if isinstance(value, _Array):
            if value.said is not None and value.said[1].objects:
                return self._objects(value, depth)
            return self._sized(value.numbers())
        if isinstance(value, _Scalar):
            return self._sized(value.value)
        if isinstance(value, Chumpy):
            return self._found(value.state["x"], depth + 1)
        if isinstance(value, ChumpySelect):
            return self._select(value.state, depth)
        if isinstance(value, Sparse):
            state = {str(k): self._found(v, depth + 1).value for k, v in value.state.items()}
            return self._sized(_dense(self._budget, state))
        if isinstance(value, dict):
            keys = [self._found(k, depth + 1) for k in cast("dict[Any, Any]", value)]
            items = [self._found(v, depth + 1) for v in cast("dict[Any, Any]", value).values()]
            whole = {k.value: v.value for k, v in zip(keys, items, strict=True)}
            return self._sum(whole, [*keys, *items])
        if type(value) in (list, tuple, set):
            parts = [self._found(v, depth + 1) for v in cast("list[Any]", value)]
            return self._sum(type(value)(part.value for part in parts), parts)
        raise _Refused(f"a value of the kind {type(value).__name__.strip('_')}")

    def _objects(self, array: _Array, depth: int) -> _Found:
        shape, _, _, items = array.said or ((), None, False, [])
        if math.prod(shape) != len(items) or (len(shape) > 1 and len(items) != 1):
            raise _Refused(f"an array of objects {shape}")
        if len(items) == 1:  # how numpy.save writes a dictionary
            return self._found(items[0], depth + 1)
        return self._found(items, depth + 1)

    def _select(self, state: Any, depth: int) -> _Found:
        source = np.asarray(self._found(state["a"], depth + 1).value)
        chosen = np.asarray(self._found(state["idxs"], depth + 1).value)
        shape = self._found(state["preferred_shape"], depth + 1).value
        self._budget.take(chosen.size * max(source.itemsize, 8))
        return self._sized(source.ravel()[chosen].reshape(tuple(int(n) for n in shape)))

    def _sized(self, value: Any) -> _Found:
        wide = value.itemsize // 4 if value.dtype.kind in "SU" else 0
        # Everything becomes a double or less.
        return _Found(value, 1, max(value.nbytes, 8 * value.size), wide)

    def _sum(self, value: Any, parts: list[_Found]) -> _Found:
        return _Found(
            value,
            1 + sum(part.values for part in parts),
            sum(part.bytes for part in parts),
            max((part.widest for part in parts), default=0),
        )


def _dense(budget: _Budget, state: dict[str, Any]) -> np.ndarray:
    rows, columns = (int(n) for n in state["_shape" if "_shape" in state else "shape"])
    values = np.asarray(state["data"], np.float64)
    inner = np.asarray(state["indices"], np.int64)
    starts = np.asarray(state["indptr"], np.int64)
    if rows * columns > ENTRIES // 10 or len(starts) != columns + 1 or min(rows, columns) < 1:
        raise _Refused(f"a sparse matrix of {rows} x {columns}")
    if len(inner) != len(values) or starts[0] != 0 or starts[-1] != len(values):
        raise ValueError("sparse matrix")
    if (inner < 0).any() or (inner >= rows).any() or (np.diff(starts) < 0).any():
        raise ValueError("sparse matrix")
    budget.take(rows * columns * 8)
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


def _load(stream: io.BytesIO, budget: _Budget, reader: type[_Unpickler] | None = None) -> Any:
    """Read one pickle of a stream, after a look at its operations."""
    start = stream.tell()
    for operation, value, _ in pickletools.genops(stream):
        # The unpickler makes room for as many numbered things as the highest number says.
        if "PUT" in operation.name and int(cast("Any", value)) > budget.size:
            raise ValueError("memo")
        if operation.name in ("EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"):
            raise _Refused(operation.name)
    stream.seek(start)
    return (reader or _Unpickler)(stream, budget).load()


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, budget: _Budget) -> None:
        super().__init__(stream, encoding="latin1")
        self._budget = budget

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the known things, never what the module itself has."""
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "numpy"
        if module == "torch" and name in STORAGES:
            return _Name(STORAGES[name])
        if (module, name) not in KNOWN:
            raise _Refused(f"{module}.{name}")
        found = KNOWN[module, name]
        if isinstance(found, type) or found is None:
            return _Name() if found is None else found
        return _Name(call=partial(found, self._budget))

    def persistent_load(self, pid: Any) -> Any:
        """Refuse torch's storages outside of the pickle."""
        raise _Refused("tensors of torch in separate members")


class _StorageUnpickler(_Unpickler):
    """Reads what torch writes of a storage: what it is, before the numbers themselves."""

    def persistent_load(self, pid: Any) -> Any:
        """Return type and count of a storage's numbers."""
        what, kind, key, _, count, *views = pid
        if what != "storage" or not isinstance(kind, _Name) or any(v is not None for v in views):
            raise _Refused("an unusual tensor")
        return _Name((kind.target, str(key), int(count)))


def _raw(budget: _Budget, data: Any) -> bytes:
    if isinstance(data, str):  # of python 2
        budget.take(len(data))
        return data.encode("latin1")
    if not isinstance(data, bytes):
        raise _Refused("an unusual array")
    return data


def _made(
    budget: _Budget, raw: bytes, kind: _Kind, shape: tuple[int, ...], order: Any = "C"
) -> np.ndarray:
    """Return an array of its own, of exactly these bytes."""
    dtype = kind.dtype
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError("array")
    budget.take(len(raw))
    if dtype.kind == "b":
        return (np.frombuffer(raw, np.uint8) != 0).reshape(shape, order=order)
    if dtype.kind == "U" and (np.frombuffer(raw, f"{kind.order}u4") > 0x10FFFF).any():
        raise ValueError("text")
    return np.frombuffer(raw, dtype).reshape(shape, order=order).copy(order="K")


def _empty_array(budget: _Budget, *_: Any) -> _Array:
    """Return the array whose content follows in the pickle."""
    return _Array(budget)


def _scalar(budget: _Budget, kind: Any, data: Any = b"") -> _Scalar:
    if not isinstance(kind, _Kind):
        raise _Refused("an unusual number")
    return _Scalar(_made(budget, _raw(budget, data), kind, ())[()])


def _dtype(_: _Budget, name: Any, *__: Any) -> _Kind:
    return _Kind(name)


def _encode(budget: _Budget, text: Any, codec: Any = "latin1") -> bytes:
    if codec not in ("latin1", "latin-1") or not isinstance(text, str):
        raise _Refused(f"the codec {codec!r}")
    budget.take(len(text))
    return text.encode("latin1")


def _bytes(*_: Any) -> bytes:
    return b""


def _set(budget: _Budget, items: Any = ()) -> set[Any]:
    if not isinstance(items, (list, tuple)):
        raise _Refused("an unusual set")
    budget.take(64 * len(cast("list[Any]", items)))
    return set(cast("list[Any]", items))


def _new(_: _Budget, cls: Any, *__: Any) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, _Holder)):
        raise _Refused("an object of a class of its own")
    return cls()


def _tensor(budget: _Budget, data: Any) -> _Storage:
    """Return the storage that old torch put into a pickle as a torch file of its own."""
    stream = io.BytesIO(_raw(budget, data))
    if _load(stream, budget) != TORCH_MAGIC:
        raise ValueError("tensor")
    for _ in range(2):  # version, system
        _load(stream, budget)
    what = _load(stream, budget, _StorageUnpickler)
    keys = _load(stream, budget)
    kind, key, count = what.target
    if keys != [key] or int.from_bytes(stream.read(8), "little") != count:
        raise ValueError("tensor")
    raw = stream.read()
    return _Storage(_made(budget, raw, _Kind(kind), (count,)))


def _strided(budget: _Budget, storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> _Array:
    sizes = [int(n) for n in size]
    if not isinstance(storage, _Storage) or len(sizes) > 8 or min([0, *sizes]) < 0:
        raise _Refused("an unusual tensor")
    budget.take(3 * 8 * math.prod(sizes))
    index = np.full(sizes, int(offset), np.int64)
    for axis, (n, step) in enumerate(zip(sizes, stride, strict=True)):
        shape = [1] * len(sizes)
        shape[axis] = n
        index = index + (np.arange(n) * int(step)).reshape(shape)
    if (index < 0).any():
        raise ValueError("tensor")
    return _Array(budget, storage.numbers[index])


def _hooks(*_: Any) -> dict[Any, Any]:
    return {}


KNOWN: dict[tuple[str, str], Callable[..., Any] | None] = {
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
    ("numpy", "_reconstruct"): _empty_array,
    ("numpy", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("builtins", "set"): _set,
    ("__builtin__", "set"): _set,
    ("builtins", "bytes"): _bytes,
    ("__builtin__", "bytes"): _bytes,
    ("builtins", "object"): None,
    ("__builtin__", "object"): None,
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
"""What a pickle may name, and what it gets for it: a call with what it may take, a class of ours,
or nothing but the name."""
