# pyright: basic
"""Writing shards: whole, checked, with a checksum and how they were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float32, Int32, UInt8, UInt16

from pipeline.errors import ShapeError
from pipeline.io.images import encode_jpeg, encode_png
from pipeline.shards.schema import DEPTH_UNIT, FIELDS, FORMAT, VERSION
from pipeline.stage import write_whole


@dataclass(frozen=True)
class Capture:
    """All pictures of one subject, as a shard holds them."""

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


def write_shard(path: Path, capture: Capture, provenance: Mapping[str, Any]) -> None:
    """Write one subject.

    Raises:
        ShapeError: If a field has another shape, type or range than the schema says.
        InputError: If the file cannot be written.
    """
    check(capture)
    t, v, height, width = capture.alpha.shape
    encoded = {
        "rgb": [encode_jpeg(capture.rgb[i]) for i in np.ndindex(t, v)],
        "alpha": [encode_png(capture.alpha[i]) for i in np.ndindex(t, v)],
        "depth": [encode_png(_depth_steps(capture.depth[i])) for i in np.ndindex(t, v)],
    }

    def image() -> bytes:
        # HDF5 that meets a full disk leaves open handles and crashes later: it gets memory.
        with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
            checksum = hashlib.sha256()
            for name, field in FIELDS.items():
                if field.dtype == "picture":
                    dataset = file.create_dataset(name, (t, v), h5py.vlen_dtype(np.uint8))
                    for index, data in zip(np.ndindex(t, v), encoded[name], strict=True):
                        dataset[index] = np.frombuffer(data, np.uint8)
                        checksum.update(data)
                else:
                    values = np.ascontiguousarray(getattr(capture, name))
                    packing = {"compression": "gzip", "shuffle": True} if values.size > 4096 else {}
                    file.create_dataset(name, data=values, **packing)
                    checksum.update(values.tobytes())
            file.attrs.update(
                {
                    "format": FORMAT,
                    "version": VERSION,
                    "subject": capture.subject,
                    "layout": capture.layout,
                    "width": width,
                    "height": height,
                    "provenance": json.dumps(dict(provenance), sort_keys=True),
                    "checksum": checksum.hexdigest(),
                }
            )
            file.flush()
            return file.id.get_file_image()

    whole = image()
    write_whole(path, lambda part: part.write_bytes(whole))


def check(capture: Capture) -> None:
    """Refuse a capture that the schema does not allow.

    Raises:
        ShapeError: Naming the field and what is wrong.
    """
    sizes: dict[str, int] = {}
    height, width = capture.alpha.shape[2:]
    for name, field in FIELDS.items():
        values = getattr(capture, name)
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
        # Written so that nan fails too.
        if values.size and not (values.min() >= field.low and values.max() <= high):
            raise ShapeError(
                f"{capture.subject}: {name} has values outside {field.low:g} to {high:g}, or nan.",
                f"Its unit is: {field.unit}.",
            )


def _depth_steps(metres: Float32[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    return np.round(metres / DEPTH_UNIT).astype(np.uint16)
