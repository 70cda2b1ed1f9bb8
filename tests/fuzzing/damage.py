"""Ways to damage a file: bits of any, and the structure of each kind that a user can hand over."""

from __future__ import annotations

import io
import json
import pickle  # noqa: TID251  the tests write what the program must read
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from safetensors.torch import load, save

from tests.captures import mutations as captures

Way = Callable[[bytes, np.random.Generator, Path], bytes | None]
"""Gets the content, random numbers, and a path that only a trap makes; None is a folder."""

STRANGE: list[Any] = [
    None, True, False, "x", "", "../../x", "/etc/passwd", "\0", "a\nb", "[red]", "=1+1", -1, 0, 1,
    2, 7, 0.5, 1e-300, 1e308, -1e308, 2**31, 2**53, 10**20, 10**400, 99999999, float("nan"),
    float("inf"), [], {}, [[]], [None], {"a": 1}, "é" * 300, "x" * 5000, [0] * 2000, "99999999",
]  # fmt: skip
"""Values where others belong."""


def pick(values: list[Any], rng: np.random.Generator) -> Any:
    """Return one of some values."""
    return values[int(rng.integers(len(values)))]


def swap_value(root: Any, rng: np.random.Generator) -> Any:
    """Change, drop or add one value anywhere in nested containers."""
    box: list[Any] = [root]
    parent: Any = box
    key: Any = 0
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        key = pick(list(parent) if isinstance(parent, dict) else list(range(len(parent))), rng)
    choice = rng.random()
    if choice < 0.15 and parent is not box:
        del parent[key]
    elif choice < 0.25 and isinstance(parent, dict):
        parent[str(pick(STRANGE, rng))[:40]] = pick(STRANGE, rng)
    elif choice < 0.35 and isinstance(parent[key], (int, float)) and parent[key] is not True:
        parent[key] = pick([-parent[key], parent[key] * 1000, parent[key] + 1, [parent[key]]], rng)
    else:
        parent[key] = pick(STRANGE, rng)
    return box[0]


def as_json(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Change one or two values of a JSON file."""
    root = json.loads(data)
    for _ in range(int(rng.integers(1, 3))):
        root = swap_value(root, rng)
    return json.dumps(root).encode()


def as_lines(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Drop, double, cut or swap lines and words of a text."""
    lines = data.decode("utf-8", "replace").split("\n")
    at = int(rng.integers(len(lines)))
    choice = int(rng.integers(6))
    if choice == 0:
        del lines[at]
    elif choice == 1:
        lines.insert(at, lines[at])
    elif choice == 2:
        lines[at] = lines[at][: int(rng.integers(len(lines[at]) + 1))]
    else:
        separators = [c for c in ",= /:[" if c in lines[at]]
        mark = pick(separators, rng) if separators else " "
        words = lines[at].split(mark)
        word = pick([json.dumps(pick(STRANGE, rng)), str(pick(STRANGE, rng))[:80], "", "-1"], rng)
        words[int(rng.integers(len(words)))] = word
        lines[at] = mark.join(words)
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def as_safetensors(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Change our facts, the raw header, or one tensor."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    choice = rng.random()
    if choice < 0.4:
        facts = json.loads(header["__metadata__"]["json"])
        header["__metadata__"]["json"] = json.dumps(swap_value(facts, rng))
    elif choice < 0.55:
        header = swap_value(header, rng)
    else:
        return _tensors(data, rng)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _tensors(data: bytes, rng: np.random.Generator) -> bytes:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    tensors = load(data)
    name = pick(sorted(tensors), rng)
    value = tensors[name]
    choice = int(rng.integers(13))
    if choice == 0:
        del tensors[name]
    elif choice == 1:
        tensors[str(pick(["x", "shown.means", "rig.vertex", "deformation.x"], rng))] = value.clone()
    elif choice in (2, 3, 4) and value.numel():
        flat = value.flatten().clone()
        worst = [float("nan"), float("inf"), 1e30, -1.0, 2.0] if flat.is_floating_point() else [
            -1, 2**31 - 1, 99999, 10**5]  # fmt: skip
        flat[int(rng.integers(len(flat)))] = pick(worst, rng)
        tensors[name] = flat.reshape(value.shape)
    else:
        other = sorted(tensors)
        tensors[name] = pick([
            value[:0] if value.ndim else value, value[None], value.flatten(), value.to(torch.int64),
            value.to(torch.float16), value.to(torch.bool), torch.zeros(0), value.double() * 1e5,
            tensors[pick(other, rng)].clone(), torch.cat([value, value]) if value.ndim else value,
            value.to(torch.complex64), torch.full_like(value, 0),
        ], rng).contiguous()  # fmt: skip
    return save(tensors, header.get("__metadata__"))


def as_hdf5(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Change, drop or divert one dataset or attribute of a shard."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        if rng.random() < 0.4:
            name = pick(sorted(file.attrs), rng)
            del file.attrs[name]
            value = pick(STRANGE, rng)
            if rng.random() < 0.85:
                try:
                    file.attrs[name] = value
                except (TypeError, ValueError, OverflowError, RuntimeError):
                    file.attrs[name] = str(value)[:100].replace("\0", "")
            return _done(file, buffer)
        name = pick(sorted(file), rng)
        array = file[name][()] if file[name].dtype.kind != "O" else None
        del file[name]
        choice = int(rng.integers(9))
        if choice == 0:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        elif choice == 1:
            file[name] = h5py.SoftLink(pick(["/" + name, "/code", "/K"], rng))
        elif choice == 2:
            file.create_group(name)
        elif choice == 3 or array is None:
            pass
        elif choice == 4:
            file.create_dataset(name, data=array, compression="gzip") if array.ndim else None
        elif choice == 5:
            file.create_dataset(name, (10**6, *array.shape[1:]), array.dtype, chunks=True)
        else:
            file[name] = pick(_arrays(array), rng)
        return _done(file, buffer)


def _done(file: h5py.File, buffer: io.BytesIO) -> bytes:
    file.flush()
    return buffer.getvalue()


def _arrays(array: np.ndarray) -> list[np.ndarray]:
    numbers = array.astype(np.float64)
    flat = array.copy().ravel()
    if flat.size:
        flat[flat.size // 2] = 200 if array.dtype.kind in "iu" else np.nan
    return [
        np.full(array.shape, np.nan, np.float32), array[:0], array[None], array.ravel(), array * 0,
        numbers, (numbers * 1e9).astype(np.float32), flat.reshape(array.shape), array[::-1],
        np.full(array.shape, 2, array.dtype), np.array(1.0), np.zeros((0, 3)),
    ]  # fmt: skip


def as_pickle(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Change a value of a pickle, or lay a trap in it."""
    if data.startswith(b"PK"):  # of torch.save
        return captures.zipped(data, rng, trap)
    root = pickle.loads(data)
    choice = rng.random()
    if choice < 0.15:
        root = {**root, "trap": captures.Trap(str(trap))} if isinstance(root, dict) else root
    elif choice < 0.3:
        depth = int(pick([100, 5000, 200_000], rng))
        return b"\x80\x02" + b"]" * depth + b"a" * (depth - 1) + b"."
    else:
        strange: list[Any] = [np.array([np.nan]), np.zeros(0), np.array(["x"]), {1}, b"x", 1j]
        root = (
            swap_value(root, rng) if rng.random() < 0.6 else _swap_array(root, strange, rng, trap)
        )
    return pickle.dumps(root, protocol=int(rng.integers(0, 5)))


def _swap_array(root: Any, strange: list[Any], rng: np.random.Generator, trap: Path) -> Any:
    parent, key = {0: root}, 0
    while isinstance(parent[key], dict) and parent[key]:
        parent = parent[key]
        key = pick(list(parent), rng)
    old = parent[key]
    more = captures.strange_arrays(old, trap) if isinstance(old, np.ndarray) else []
    parent[key] = pick(strange + more, rng)
    return root


def as_torch(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Replace one tensor of a state dict, or lay a trap in it."""
    state = torch.load(io.BytesIO(data), weights_only=True)  # noqa: TID251
    name = pick(sorted(state), rng)
    value = state[name]
    state[name] = pick(
        [value[None], value.flatten(), value.double(), value * float("nan"), "x", None, 5,
         captures.Trap(str(trap)), {"a": value}, value.to(torch.int64)], rng
    )  # fmt: skip
    if rng.random() < 0.1:
        state = pick([[1], value, "x", None, captures.Trap(str(trap))], rng)
    out = io.BytesIO()
    torch.save(state, out)
    return out.getvalue()


def as_png(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Give a PNG another size or kind in a header whose checksum is right."""
    kind, length = data[12:16], int.from_bytes(data[8:12], "big")
    if kind != b"IHDR":
        return captures.flipped(data, rng, trap)
    fields = list(struct.unpack(">IIBBBBB", data[16 : 16 + length]))
    at = int(rng.integers(len(fields)))
    large = [0, 1, 2**31 - 1, 65535, 20_000, 2_000]
    fields[at] = pick(large if at < 2 else [0, 1, 2, 3, 4, 6, 8, 16, 255], rng)
    body = kind + struct.pack(">IIBBBBB", *fields)
    return data[:12] + body + zlib.crc32(body).to_bytes(4, "big") + data[20 + length :]


WAYS: dict[str, list[Way]] = {
    ".avatar": [as_safetensors] * 10,
    ".safetensors": [as_safetensors] * 10,
    ".json": [as_json] * 8 + [as_lines],
    ".jsonl": [as_lines] * 5,
    ".toml": [as_lines] * 10,
    ".csv": [as_lines] * 8,
    ".obj": [as_lines] * 6,
    ".txt": [as_lines] * 4,
    ".h5": [as_hdf5] * 10,
    ".npz": [captures.npz] * 6 + [captures.zipped] * 4,
    ".npy": [captures.npy] * 5,
    ".zip": [captures.zipped] * 8,
    ".frame": [as_pickle] * 6,
    ".pkl": [as_pickle] * 6,
    ".pth": [as_torch] * 6 + [captures.zipped] * 2,
    ".png": [as_png] * 3,
}
"""Ways that know the structure of a kind of file, beside those that any file can take."""
ANY: list[Way] = [
    captures.truncated, captures.flipped, captures.flipped, captures.overwritten, captures.foreign,
    captures.gone,
]  # fmt: skip


def damage(root: Path, rng: np.random.Generator, trap: Path) -> str:
    """Damage one file under a folder; says which and how."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    # Each kind of file counts alike, or pictures would be all that is ever damaged.
    ending = pick(sorted({p.suffix for p in files}), rng)
    file = pick([p for p in files if p.suffix == ending], rng)
    way: Way = pick(ANY + WAYS.get(ending, []), rng)
    data = file.read_bytes()
    file.unlink()  # the tree's files are links to the whole ones
    changed = way(data, rng, trap)
    if changed is None:
        file.mkdir()
    else:
        file.write_bytes(changed)
    return f"{file.relative_to(root)}: {way.__name__}"
