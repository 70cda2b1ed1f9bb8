"""Writing shards: timestep by timestep, whole, checked, with a checksum and how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16

from pipeline.core.errors import ShapeError
from pipeline.io.images import encode_jpeg, encode_png
from pipeline.shards.layout import lay_out
from pipeline.shards.schema import DEPTH_UNIT, FIELDS, FORMAT, PICTURES, TIMED, VERSION, Split
from pipeline.system.files import write_whole


@dataclass(frozen=True)
class ShardData:
    """All pictures of one subject in memory: for captures that are small."""

    subject: str
    layout: str
    rgb: UInt8[np.ndarray, "t v h w 3"]
    alpha: UInt8[np.ndarray, "t v h w"]
    depth: Float32[np.ndarray, "t v h w"]
    """Metres along the camera's z axis; 0 where unknown."""
    world_to_camera: Float32[np.ndarray, "t v 4 4"]
    K: Float32[np.ndarray, "t v 3 3"]
    code: Float32[np.ndarray, "t 120"]
    sentence: Int32[np.ndarray, "t"]
    landmarks: Float32[np.ndarray, "t 68 3"]
    vertices: Float32[np.ndarray, "t n 3"]
    neutral: Float32[np.ndarray, "n 3"] | None = None
    """The person's neutral mesh, if it is known."""
    topology: str = ""
    """Which mesh it is, as the head model of the layout names it."""
    split: Split = ""
    """Whether the person is trained on or held out."""


@dataclass(frozen=True)
class ShardTimestep:
    """One timestep of a shard, its pictures encoded: `b""` where there is none."""

    rgb: tuple[bytes, ...]
    """For each view; without one, the view is missing."""
    alpha: tuple[bytes, ...]
    depth: tuple[bytes, ...]
    world_to_camera: Float32[np.ndarray, "v 4 4"]
    """A placeholder (the identity) where the view is missing."""
    K: Float32[np.ndarray, "v 3 3"]
    """A placeholder (`placeholder_K`) where the view is missing."""
    code: Float32[np.ndarray, "120"]
    sentence: int
    landmarks: Float32[np.ndarray, "68 3"]
    """nan where unknown."""
    vertices: Float32[np.ndarray, "n 3"]
    depth_error: Float32[np.ndarray, "v"]
    """mm; nan where unknown."""


@dataclass(frozen=True)
class Header:
    """What a shard says about all its timesteps."""

    subject: str
    layout: str
    width: int
    height: int
    timesteps: int
    views: int
    vertices: int
    provenance: Mapping[str, Any]
    neutral: Float32[np.ndarray, "n 3"] | None = None
    """The person's neutral mesh, if it is known."""
    topology: str = ""
    """Which mesh it is, as the head model of the layout names it; empty if unknown."""
    split: Split = ""
    """Whether the person is trained on or held out."""


def placeholder_K(width: int, height: int) -> Float32[np.ndarray, "3 3"]:
    """Return intrinsics that a camera may have, for a view that is missing."""
    return np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float32)


def write_shard(path: Path, capture: ShardData, provenance: Mapping[str, Any]) -> None:
    """Write one subject from memory; every view is there.

    Raises:
        ShapeError: If a field has another shape, type or range than the schema says.
        InputError: If the file cannot be written.
    """
    check(capture)
    t, v, height, width = capture.alpha.shape
    header = Header(
        capture.subject, capture.layout, width, height, t, v, capture.vertices.shape[1],
        provenance, capture.neutral, capture.topology, capture.split,
    )  # fmt: skip
    timesteps = (
        ShardTimestep(
            rgb=tuple(encode_jpeg(picture) for picture in capture.rgb[i]),
            alpha=tuple(encode_png(picture) for picture in capture.alpha[i]),
            depth=tuple(encode_depth(picture) for picture in capture.depth[i]),
            world_to_camera=capture.world_to_camera[i],
            K=capture.K[i],
            code=capture.code[i],
            sentence=int(capture.sentence[i]),
            landmarks=capture.landmarks[i],
            vertices=capture.vertices[i],
            depth_error=np.where((capture.depth[i] > 0).any((1, 2)), 0, np.nan).astype(np.float32),
        )
        for i in range(t)
    )
    write_timesteps(path, header, timesteps)


def write_timesteps(path: Path, header: Header, timesteps: Iterable[ShardTimestep]) -> None:
    """Write a subject timestep by timestep: one at a time is in memory.

    The same content gives the same bytes.

    Raises:
        ShapeError: If a timestep is not what the header and the schema say, or there are more
            or fewer than announced.
        InputError: If the file cannot be written.
    """
    write_whole(path, lambda part: _Writer(header).write(part, timesteps))


def encode_depth(metres: Float32[np.ndarray, "h w"]) -> bytes:
    """Return a depth picture as PNG bytes; beyond what 16 bits hold is unknown.

    Raises:
        ShapeError: If a depth is negative or nan.
    """
    if not (metres >= 0).all():
        raise ShapeError("A depth is negative or nan.", "Unknown depth is 0.")
    steps: UInt16[np.ndarray, "h w"] = np.round(metres / DEPTH_UNIT)
    return encode_png(np.where(steps > 65535, 0, steps).astype(np.uint16))


class _Writer:
    def __init__(self, header: Header) -> None:
        self._header = header
        sizes = {"t": header.timesteps, "v": header.views, "n": header.vertices}
        self._shapes: dict[str, tuple[int, ...]] = {}
        """Of one timestep."""
        self._types: dict[str, str] = {}
        for name, field in TIMED.items():
            letters = ["v", "2"] if name in PICTURES else field.shape.split()[1:]
            self._shapes[name] = tuple(sizes[x] if x in sizes else int(x) for x in letters)
            self._types[name] = "uint64" if name in PICTURES else field.dtype
        self._sums = {name: hashlib.sha256() for name in FIELDS}
        unknown = np.full((header.vertices, 3), np.nan, np.float32)
        self._neutral = unknown if header.neutral is None else header.neutral

    def write(self, part: Path, timesteps: Iterable[ShardTimestep]) -> None:
        _, places = self._plan(1, "0" * 64)
        end = places["bytes"]
        count = 0
        with part.open("wb") as file:
            self._write_neutral(file, places["neutral"])
            for timestep in timesteps:
                if count == self._header.timesteps:
                    raise self._fault("there are more timesteps than announced")
                end = self._write_timestep(file, places, count, timestep, end)
                count += 1
            if count != self._header.timesteps:
                raise self._fault(f"there are {count} timesteps, {self._header.timesteps} expected")
            sums = b"".join(one.digest() for one in self._sums.values())
            length = max(end - places["bytes"], 1)
            sparse, final = self._plan(length, hashlib.sha256(sums).hexdigest())
            if final != places:
                raise RuntimeError("HDF5 laid the same datasets out in two ways")
            self._frame(file, sparse.pages(), final, length)
            file.truncate(sparse.size)

    def _plan(self, length: int, checksum: str) -> tuple[Any, dict[str, int]]:
        header = self._header
        arrays = {
            name: ((header.timesteps, *shape), self._types[name])
            for name, shape in self._shapes.items()
        }
        arrays["neutral"] = (self._neutral.shape, FIELDS["neutral"].dtype)
        # Last, so that nothing stands behind what grows.
        return lay_out(
            {**arrays, "bytes": ((length,), "uint8")},
            {
                "format": FORMAT,
                "version": VERSION,
                "subject": header.subject,
                "layout": header.layout,
                "topology": header.topology,
                "split": header.split,
                "width": header.width,
                "height": header.height,
                "provenance": json.dumps(dict(header.provenance), sort_keys=True),
                "checksum": checksum,
            },
        )

    def _write_neutral(self, file: BinaryIO, place: int) -> None:
        values = self._neutral
        if values.shape != (self._header.vertices, 3) or values.dtype != np.float32:
            raise self._fault(f"neutral is {values.dtype} {list(values.shape)}")
        self._in_range("neutral", values)
        self._sums["neutral"].update(values.tobytes())
        file.seek(place)
        file.write(values.tobytes())

    def _write_timestep(
        self,
        file: BinaryIO,
        places: dict[str, int],
        t: int,
        timestep: ShardTimestep,
        end: int,
    ) -> int:
        """Write one timestep; return where the next one's pictures start."""
        views = self._header.views
        where = {name: np.zeros((views, 2), np.uint64) for name in PICTURES}
        file.seek(end)
        for v in range(views):
            for name in PICTURES:
                pictures = getattr(timestep, name)
                if len(pictures) != views:
                    raise self._fault(f"timestep {t} has {len(pictures)} {name} pictures")
                data = pictures[v]
                if data and not timestep.rgb[v]:
                    raise self._fault(f"timestep {t}, view {v} has {name} without rgb")
                where[name][v] = end - places["bytes"], len(data)
                file.write(data)
                self._sums[name].update(data)
                end += len(data)
        for name, shape in self._shapes.items():
            values = where[name] if name in where else np.asarray(getattr(timestep, name))
            if name == "sentence":
                values = values.astype(np.int32)
            if values.shape != shape or values.dtype != np.dtype(self._types[name]):
                raise self._fault(f"{name} of timestep {t} is {values.dtype} {list(values.shape)}")
            if name not in where:
                self._in_range(name, values, f" of timestep {t}")
                self._sums[name].update(values.tobytes())
            file.seek(places[name] + t * values.nbytes)
            file.write(values.tobytes())
        return end

    def _in_range(self, name: str, values: np.ndarray, whose: str = "") -> None:
        field = FIELDS[name]
        known = values[~np.isnan(values)] if field.unknown else values
        # Written so that nan fails too.
        if known.size and not (known.min() >= field.low and known.max() <= field.high):
            raise self._fault(
                f"{name}{whose} has values outside {field.low:g} to {field.high:g}, or nan"
            )

    def _frame(
        self, file: BinaryIO, pages: list[tuple[int, bytes]], places: dict[str, int], length: int
    ) -> None:
        """Write the metadata around the content, which may share its first and last pages."""
        header = self._header
        spans = [
            (places[name], header.timesteps * int(np.prod(shape)) * np.dtype(kind).itemsize)
            for (name, shape), kind in zip(self._shapes.items(), self._types.values(), strict=True)
        ]
        spans.append((places["neutral"], self._neutral.nbytes))
        spans.append((places["bytes"], length))
        taken = sorted((start, start + length) for start, length in spans if length)
        for offset, data in pages:
            at = offset
            for start, stop in [*taken, (1 << 62, 1 << 62)]:
                if stop <= at:
                    continue
                until = min(start, offset + len(data))
                if until > at:
                    file.seek(at)
                    file.write(data[at - offset : until - offset])
                at = max(at, stop)
                if at >= offset + len(data):
                    break

    def _fault(self, what: str) -> ShapeError:
        return ShapeError(
            f"{self._header.subject}: {what}.", "Units and shapes are in pipeline/shards/schema.py."
        )


def check(capture: ShardData) -> None:
    """Refuse a capture that the schema does not allow.

    Raises:
        ShapeError: Naming the field and what is wrong.
    """
    sizes: dict[str, int] = {}
    height, width = capture.alpha.shape[2:]
    for name, field in FIELDS.items():
        values = getattr(capture, name, None)
        if values is None:  # of later versions
            continue
        shape = field.shape.split()
        dtype = field.dtype
        if dtype == "picture":
            shape += [str(height), str(width)] + (["3"] if field.channels == 3 else [])
            dtype = "float32" if name == "depth" else "uint8"
        for letter, size in zip(shape, values.shape):
            expected = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            if size != expected:
                shape = []
        if len(shape) != values.ndim or values.dtype != np.dtype(dtype):
            raise ShapeError(
                f"{capture.subject}: {name} is {values.dtype} {list(values.shape)}.",
                f"The schema wants {dtype} [{field.shape}] with t, v, n as in other fields.",
            )
        high = field.high * (DEPTH_UNIT if name == "depth" else 1)
        known = values[~np.isnan(values)] if field.unknown else values
        # Written so that nan fails too.
        if known.size and not (known.min() >= field.low and known.max() <= high):
            raise ShapeError(
                f"{capture.subject}: {name} has values outside {field.low:g} to {high:g}, or nan.",
                f"Its unit is: {field.unit}.",
            )
