"""Damage captures in many ways, and see that their readers say so and nothing worse."""

from __future__ import annotations

import functools
import io
import json
import os
import shutil
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.captures.capture import Capture, RawView, factor_head_pose
from pipeline.captures.registry import find_captures, open_capture
from pipeline.core.errors import FastGHAError
from pipeline.io.video import write_mp4
from pipeline.prep.stages.crop import Box, crop, square_at_head
from tests.captures import ava, nersemble, vhap
from tests.captures.studio import over, shoot

SOURCES = {
    "ava": "ava256", "ava-soft": "ava256", "v1": "nersemble", "v2": "nersemble",
    "zips": "nersemble", "benchmark": "nersemble", "vhap": "folder", "photos": "photos",
    "video": "video",
}  # fmt: skip


class Trap:
    """Pickled, it makes a file when a careless reader loads it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self.path,)


def write_all(root: Path) -> None:
    """Write one small capture of each layout."""
    small, wide = shoot(110, 160, timesteps=2), shoot(116, 178, timesteps=4)
    ava.write(root / "ava", wide)
    ava.write(root / "ava-soft", wide, soft=True)
    for name, write in (
        ("v1", nersemble.write_v1),
        ("v2", nersemble.write_v2),
        ("zips", nersemble.write_zips),
        ("benchmark", nersemble.write_benchmark),
        ("vhap", vhap.write),
    ):
        (root / name).mkdir()
        write(root / name, small)
    photos = root / "photos" / "anna"
    photos.mkdir(parents=True)
    shots = [over(row[0]) for row in wide.frames]
    for shot, name in zip(shots, ("a.jpg", "b.png", "c.webp", "d.avif"), strict=True):
        Image.fromarray(shot).save(photos / name)
    (root / "video").mkdir()
    write_mp4(root / "video" / "anna.mp4", shots * 3, 30)


def read_all(source: str, root: Path) -> Counter[str]:
    """Read whatever a capture has; count what was read and what was refused.

    Any error but the readers' own comes out.
    """
    outcome: Counter[str] = Counter()
    try:
        found = find_captures(source, root)
        captures = [open_capture(source, path) for path in found.values()]
    except FastGHAError as error:
        _worded(error)
        return Counter(refused=1)
    for capture in captures:
        for name, reason in capture.missing().items():
            assert name and reason
            outcome["missing"] += 1
        for timestep in capture.timesteps:
            for part in ("head_to_world", "mesh", "keypoints", "flame", "code"):
                value = _try(functools.partial(getattr(capture, part), timestep), outcome)
                if isinstance(value, np.ndarray):
                    assert np.isfinite(value).any() and np.abs(np.nan_to_num(value)).max() < 1e9
            for camera in capture.cameras:
                _picture(capture, timestep, camera, outcome)
        capture.close()
    return outcome


def _picture(capture: Capture, timestep: Any, camera: str, outcome: Counter[str]) -> None:
    capture.has(timestep, camera)
    view = _try(lambda: capture.view(timestep, camera), outcome)
    if view is None:
        return
    assert view.image.dtype == np.uint8 and view.image.shape[2] == 3
    assert view.matte is None or view.matte.dtype == np.uint8
    try:
        pose = capture.head_to_world(timestep)
    except FastGHAError:
        return
    _try(lambda: crop(view, _box(view, pose), 32), outcome)


def _box(view: RawView, pose: np.ndarray | None) -> Box:
    if view.camera is not None and pose is not None:
        return square_at_head(factor_head_pose(view.camera, pose))
    return Box(0, 0, max(view.image.shape[:2]))


def _try(read: Callable[[], Any], outcome: Counter[str]) -> Any:
    try:
        value = read()
    except FastGHAError as error:
        _worded(error)
        outcome["skipped"] += 1
        return None
    outcome["read"] += 1
    return value


def _worded(error: FastGHAError) -> None:
    assert len(error.problem) > 10 and len(error.remedy) > 5, error


def mutate(root: Path, rng: np.random.Generator, trap: Path) -> str:
    """Damage one file under a folder; says which and how."""
    files = sorted(p for p in root.rglob("*") if p.is_file())
    # Each kind of file counts alike, or pictures would be all that is ever damaged.
    endings = sorted({p.suffix for p in files})
    ending = endings[int(rng.integers(len(endings)))]
    some = [p for p in files if p.suffix == ending]
    file = some[int(rng.integers(len(some)))]
    ways: list[Callable[..., bytes | None]] = [truncated, flipped, overwritten, foreign]
    ways += {
        ".json": [_json] * 8,
        ".zip": [zipped] * 8,
        ".npz": [npz] * 4,
        ".npy": [npy] * 4,
    }.get(ending, [])
    ways += [gone]
    way = ways[int(rng.integers(len(ways)))]
    data = file.read_bytes()
    file.unlink()  # the tree's files are links to the whole ones
    changed = way(data, rng, trap)
    if changed is None:
        file.mkdir()
    else:
        file.write_bytes(changed)
    return f"{file.relative_to(root)}: {way.__name__.strip('_')}"


def truncated(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    return data[: int(rng.integers(len(data)))]


def flipped(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    changed = np.frombuffer(data, np.uint8).copy()
    # Headers are small and matter most.
    reach = len(changed) if rng.random() < 0.5 else min(len(changed), 400)
    for at in rng.integers(reach, size=int(rng.integers(1, 33))):
        changed[at] ^= np.uint8(1 << int(rng.integers(8)))
    return changed.tobytes()


def overwritten(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    at = int(rng.integers(len(data)))
    size = int(rng.integers(1, max(len(data) // 4, 2)))
    fill = bytes(size) if rng.random() < 0.5 else rng.bytes(size)
    return (data[:at] + fill + data[at + size :])[: len(data)]


def foreign(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """A whole file of another type."""
    return _others(trap)[int(rng.integers(len(_others(trap))))]


def gone(data: bytes, rng: np.random.Generator, trap: Path) -> None:
    """A folder where a file should be."""


def _others(trap: Path) -> list[bytes]:
    def saved(array: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        np.save(file, array, **options)
        return file.getvalue()

    def picture(kind: str, mode: str) -> bytes:
        file = io.BytesIO()
        Image.new(mode, (50, 30)).save(file, kind)
        return file.getvalue()

    npz, empty = io.BytesIO(), io.BytesIO()
    np.savez(npz, expr=np.zeros((1, 100)))
    zipfile.ZipFile(empty, "w").close()
    trapped = np.array([Trap(str(trap))], object)
    return [
        b"", b"null", b"[]", b"{}", b"[[[[", b"\xff\xfe\x00", b"seg_id,frame_id\n", b"1 2 3",
        saved(np.zeros((3, 4))), saved(np.array(["a"])), saved(trapped, allow_pickle=True),
        saved(np.zeros((5, 6)) * np.nan), picture("PNG", "I;16"), picture("PNG", "P"),
        picture("TIFF", "F"), picture("GIF", "L"), npz.getvalue(), empty.getvalue(),
        _trapped_npz(trapped), b"nan " * 12, b"9" * 400,
    ]  # fmt: skip


def _trapped_npz(trapped: np.ndarray) -> bytes:
    file = io.BytesIO()
    keys = ("translation", "rotation", "neck_pose", "jaw_pose", "eyes_pose", "shape", "expr")
    np.savez(file, **dict.fromkeys(keys, trapped))
    return file.getvalue()


def _json(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Change, drop or retype one value anywhere in a JSON file."""
    root = [json.loads(data)]
    parent: Any = root
    key: Any = 0
    while isinstance(parent[key], (dict, list)) and parent[key] and rng.random() < 0.85:
        parent = parent[key]
        names = list(parent) if isinstance(parent, dict) else range(len(parent))
        key = names[int(rng.integers(len(names)))]
    strange = [
        None, True, "x", "", "../../x", "/etc/passwd", "\0", -1, 0, 1e308, 1e-300, 10**400,
        float("nan"), float("inf"), [], {}, [[]], {"a": 1}, "é" * 300, 0.5,
    ]  # fmt: skip
    if rng.random() < 0.2 and parent is not root:
        del parent[key]
    else:
        parent[key] = strange[int(rng.integers(len(strange)))]
    return json.dumps(root[0]).encode()


def zipped(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Damage one member, or its name, in an archive that is whole otherwise."""
    try:
        members = _members(data)
    except zipfile.BadZipFile:
        return flipped(data, rng, trap)
    at = int(rng.integers(len(members)))
    name, content = members[at]
    choice = int(rng.integers(4))
    if choice == 0:
        content = _others(trap)[int(rng.integers(len(_others(trap))))]
    elif choice == 1:
        content = (truncated, flipped, overwritten)[int(rng.integers(3))](content, rng, trap)
    elif choice == 2:
        name = ["../../evil.png", "/abs.png", "x", "cam/" + name, "9" * 30 + ".avif", "é.png"][
            int(rng.integers(6))
        ]
    else:
        members.append((name, content[::-1]))
    members[at] = (name, content)
    out = io.BytesIO()
    deflate = rng.random() < 0.3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that comes twice is meant
        method = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        with zipfile.ZipFile(out, "w", method) as file:
            for member, content in members:
                file.writestr(member, content)
    return out.getvalue()


def _members(data: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        return [(name, file.read(name)) for name in file.namelist()]


def npz(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    """Replace or drop one array of an npz file."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = list(arrays)[int(rng.integers(len(arrays)))]
    strange = strange_arrays(arrays[name], trap)
    choice = int(rng.integers(len(strange) + 1))
    if choice == len(strange):
        del arrays[name]
    else:
        arrays[name] = strange[choice]
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def npy(data: bytes, rng: np.random.Generator, trap: Path) -> bytes:
    strange = strange_arrays(np.load(io.BytesIO(data)), trap)
    out = io.BytesIO()
    np.save(out, strange[int(rng.integers(len(strange)))])
    return out.getvalue()


def strange_arrays(array: np.ndarray, trap: Path) -> list[np.ndarray]:
    row = np.atleast_1d(array)
    numbers = array if array.dtype.kind in "biuf" else np.zeros(array.shape)
    return [
        np.full(array.shape, np.nan), row[:0], array[None], array.ravel(), array.astype("U8"),
        numbers.astype(complex), np.ones(array.shape, int), np.array([Trap(str(trap))], object),
        np.array(1.0), np.full(array.shape, 1e300), np.zeros((0, 3)), numbers.astype(bool), array.T,
    ]  # fmt: skip


def run(clean: Path, seed: int, count: int, first: int = 0) -> list[dict[str, Any]]:
    """Try mutations number `first` to `first + count` of a seed; one row of facts for each.

    A row has `error` if anything but the readers' own error came out, or something ran.
    """
    rows: list[dict[str, Any]] = []
    for i in range(first, first + count):
        rng = np.random.default_rng([seed, i])
        kind = list(SOURCES)[i % len(SOURCES)]
        with tempfile.TemporaryDirectory() as folder:
            root, trap = Path(folder) / "root", Path(folder) / "sprung"
            shutil.copytree(clean / kind, root, copy_function=os.link)
            row: dict[str, Any] = {"number": i, "layout": kind, "what": mutate(root, rng, trap)}
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    row |= read_all(SOURCES[kind], root)
            except Exception as error:  # noqa: BLE001  whatever it is, it is a finding
                row["error"] = f"{type(error).__name__}: {error}"
            if trap.exists():
                row["error"] = "code in a file was executed"
        rows.append(row)
    return rows
