"""Readers of the splat files that we write, for the tests of the writers."""

from __future__ import annotations

import gzip
import io
import struct
from pathlib import Path

import numpy as np
import torch

from pipeline.core.errors import FormatError
from pipeline.core.types import Gaussians
from pipeline.io.splats import PLY_FIELDS, SH0, SPZ_COLOR, SPZ_HEADER, SPZ_MAGIC
from pipeline.system.files import require_file


def read_ply(path: Path) -> Gaussians:
    """Read a PLY as `ply_bytes` makes it.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not such a PLY.
    """
    data = require_file(path, "a PLY").read_bytes()
    head, mark, body = data.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    names = tuple(line.split()[-1] for line in lines if line.startswith("property float "))
    if not mark or names != PLY_FIELDS or len(body) % (4 * len(PLY_FIELDS)):
        raise FormatError(f"{path} is not a 3DGS PLY without harmonics.", "Write it again.")
    table = np.frombuffer(body, "<f4").reshape(-1, len(PLY_FIELDS)).astype(np.float32)
    t = torch.from_numpy(table)
    return Gaussians(
        t[:, :3], t[:, 13:17], t[:, 10:13].exp(), t[:, 9].sigmoid(), t[:, 6:9] * SH0 + 0.5
    )


def read_spz(path: Path) -> Gaussians:
    """Read an SPZ of version 2 without harmonics.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not such an SPZ.
    """
    packed = require_file(path, "an SPZ").read_bytes()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read()
        magic, version, n, degree, bits, _, _ = SPZ_HEADER.unpack_from(data)
    except (OSError, EOFError, struct.error) as error:
        raise FormatError(f"{path} is not an SPZ.", "Write it again.") from error
    if (magic, version, degree, len(data)) != (SPZ_MAGIC, 2, 0, SPZ_HEADER.size + 19 * n):
        raise FormatError(f"{path} is not an SPZ 2 without harmonics.", "Write it again.")
    rows = np.frombuffer(data, np.uint8, offset=SPZ_HEADER.size)
    places, alpha, color, scale, xyz = np.split(rows, np.cumsum([9 * n, n, 3 * n, 3 * n]))
    wide = np.zeros((n, 3, 4), np.uint8)
    wide[..., 1:] = places.reshape(n, 3, 3)  # the sign is in the highest byte: shift it down again
    means = (wide.view("<i4")[..., 0] >> 8) / 2**bits
    vector = xyz.reshape(n, 3) / 127.5 - 1
    w = np.sqrt(np.maximum(1 - (vector**2).sum(1, keepdims=True), 0))
    fields = (
        means,
        np.concatenate([w, vector], axis=1),
        np.exp(scale.reshape(n, 3) / 16 - 10),
        alpha / 255,
        (color.reshape(n, 3) / 255 - 0.5) / SPZ_COLOR * SH0 + 0.5,
    )
    return Gaussians(*(torch.from_numpy(f).float() for f in fields))
