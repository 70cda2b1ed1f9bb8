"""The vertices of a PLY file."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float32

from pipeline.core.errors import MissingItemError

_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2",
    "ushort": "u2", "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
}  # fmt: skip
_ORDER = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}


def read_vertices(data: bytes, where: object) -> Float32[np.ndarray, "n 3"]:
    """Return x, y, z of the vertices, in the file's unit.

    Raises:
        MissingItemError: If the bytes are not a whole PLY file whose first element is `vertex`.
    """
    head, end, body = data[:20_000].partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    body = data[len(head) + len(end) :]
    kind = re.fullmatch(r"format (\w+) 1\.0", lines[1].strip()) if len(lines) > 1 else None
    elements = [i for i, line in enumerate(lines) if line.startswith("element ")]
    count = re.fullmatch(r"element vertex (\d{1,8})", lines[elements[0]]) if elements else None
    if not end or lines[0].strip() != "ply" or kind is None or count is None:
        raise MissingItemError(f"{where} is not a PLY file with vertices.", "Download it again.")
    last = elements[1] if len(elements) > 1 else len(lines)
    fields = [line.split() for line in lines[elements[0] + 1 : last] if line.startswith("prop")]
    names = [words[-1] for words in fields]
    if (
        kind[1] not in _ORDER
        or any(len(words) != 3 or words[1] not in _TYPES for words in fields)
        or not {"x", "y", "z"} <= set(names)
        or len(set(names)) < len(names)
    ):
        raise MissingItemError(
            f"{where} has vertices of another kind ({', '.join(names) or 'no properties'}).",
            "Plain x, y, z are expected.",
        )
    try:
        if kind[1] == "ascii":
            rows = np.array(body.split()[: int(count[1]) * len(names)], np.float64)
            table = dict(zip(names, rows.reshape(int(count[1]), len(names)).T, strict=True))
        else:
            row = np.dtype([(w[2], _ORDER[kind[1]] + _TYPES[w[1]]) for w in fields])
            read = np.frombuffer(body, row, int(count[1]))
            table = {name: read[name] for name in names}
        vertices = np.stack([table[axis] for axis in "xyz"], axis=-1).astype(np.float32)
    except ValueError as error:
        raise MissingItemError(f"{where} is truncated.", "Download it again.") from error
    if not (np.abs(vertices) < 1e6).all():  # a kilometre, if they are millimetres; nan fails too
        raise MissingItemError(
            f"{where} has vertices that are not finite or absurdly far.", "Download it again."
        )
    return vertices
