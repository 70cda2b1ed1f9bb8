"""Gaussians in the file formats that splat viewers open: PLY as 3DGS writes it, SPZ, and glTF.

All keep the head frame (x to the subject's left, y up, z to the front), in metres, which is the
frame that SPZ, glTF and most viewers expect. They hold one expression; `animated_ply_bytes` holds a
sequence of them.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError
from pipeline.core.srgb import linearize
from pipeline.core.types import Gaussians
from pipeline.system.files import write_whole
from pipeline.system.provenance import program, statement

SH0 = 0.28209479177387814
"""The constant spherical harmonic: 3DGS stores (colour - 0.5) / SH0."""
EDGE = 1e-6
"""Opacities stay so far from 0 and 1, where the logit is infinite."""

PLY_FIELDS = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
"""float32 each, in the order of the 3DGS reference: logit opacity, log scales, wxyz."""

RENDER_MODE = "comment SplatRenderMode: default"
"""Tells Brush that opacities were fitted without the correction of Mip-Splatting."""
GLTF = "KHR_gaussian_splatting"
GLTF_VERTICES = 34962
"""What glTF calls a buffer of vertices."""

SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 2
SPZ_HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, points, degree of harmonics, fractional bits, flags, reserved."""
SPZ_BITS = 16
"""Of the fraction in 24-bit positions: steps of 15 micrometres, up to 128 m away."""
SPZ_COLOR = 0.15


def write_splats(path: Path, gaussians: Gaussians) -> None:
    """Write Gaussians in the format that the name asks for: .ply, .spz or .glb.

    Raises:
        InputError: If the name is of another kind, or the file cannot be written.
    """
    makers = {".ply": ply_bytes, ".spz": spz_bytes, ".glb": glb_bytes}
    make = makers.get(path.suffix.lower())
    if make is None:
        raise InputError(f"{path} is not the name of a splat file.", "Name it .ply, .spz or .glb.")
    data = make(gaussians)
    write_whole(path, lambda part: part.write_bytes(data))


def write_animated(path: Path, frames: Sequence[Gaussians]) -> None:
    """Write a sequence of expressions of one head as one file, .ply.

    Raises:
        InputError: If the name is of another kind, there is no frame, or it cannot be written.
    """
    if path.suffix.lower() != ".ply":
        raise InputError(f"{path} cannot hold a sequence.", "Name it .ply.")
    if not frames:
        raise InputError(f"There is no frame for {path}.", "Give a sequence that is not empty.")
    data = animated_ply_bytes(frames)
    write_whole(path, lambda part: part.write_bytes(data))


def ply_bytes(gaussians: Gaussians) -> bytes:
    """Return a binary PLY as the 3DGS reference lays it out, without higher harmonics."""
    head, body = _vertices(gaussians)
    return "\n".join([*head, "end_header", ""]).encode() + body


def animated_ply_bytes(frames: Sequence[Gaussians]) -> bytes:
    """Return a PLY with delta frames: the first as it is, of all how far Gaussians have moved.

    Each frame is three elements, as Brush reads them: the least and the largest offset (one row of
    floats each), and a row for each Gaussian that counts between them, of 16 bits for positions and
    8 for scales and rotations, which an expression leaves alone. Colours stay those of the first.

    Source:
        https://github.com/ArthurBrussee/brush, crates/brush-serde/src/import.rs.
    """
    head, body = _vertices(frames[0])
    first = _plain(frames[0])["means"].astype(np.float64)
    rest = (*PLY_FIELDS[10:13], *PLY_FIELDS[13:17])
    row = np.dtype([*((name, "<u2") for name in "xyz"), *((name, "u1") for name in rest)])
    parts = [body]
    for i, frame in enumerate(frames):
        offset = _plain(frame)["means"] - first
        low, high = offset.min(0), offset.max(0)
        for name, ends in (("min", low), ("max", high)):
            head.append(f"element meta_delta_{name}_{i:05d} 1")
            head += [f"property float {field}" for field in (*"xyz", *rest)]
            parts.append(np.concatenate([ends, np.zeros(len(rest))]).astype("<f4").tobytes())
        head.append(f"element delta_vertex_{i:05d} {len(offset)}")
        head += [f"property ushort {field}" for field in "xyz"]
        head += [f"property uchar {field}" for field in rest]
        # The reader divides by one less than the largest number.
        levels = np.round((offset - low) / np.maximum(high - low, 1e-12) * (2**16 - 2))
        table = np.zeros(len(offset), row)
        for axis, name in enumerate("xyz"):
            table[name] = levels[:, axis]
        parts.append(table.tobytes())
    return "\n".join([*head, "end_header", ""]).encode() + b"".join(parts)


def glb_bytes(gaussians: Gaussians) -> bytes:
    """Return a binary glTF 2.0 with KHR_gaussian_splatting; others see coloured points in it.

    Source:
        https://github.com/KhronosGroup/glTF, extensions/2.0/Khronos/KHR_gaussian_splatting:
        rotations xyzw, scales and opacities linear, colours as the constant harmonic.
    """
    g = _plain(gaussians)
    # Vertex colours of a glTF are linear.
    rgba = np.concatenate([linearize(g["colors"].clip(0, 1)), g["opacities"][:, None]], 1)
    wxyz = g["quats"] / np.linalg.norm(g["quats"], axis=1, keepdims=True).clip(1e-12)
    columns = {
        "POSITION": g["means"],
        "COLOR_0": rgba,
        f"{GLTF}:ROTATION": wxyz[:, [1, 2, 3, 0]],
        f"{GLTF}:SCALE": g["scales"],
        f"{GLTF}:OPACITY": g["opacities"][:, None],
        f"{GLTF}:SH_DEGREE_0_COEF_0": (g["colors"] - 0.5) / SH0,
    }
    views: list[dict[str, int]] = []
    accessors: list[dict[str, Any]] = []
    body = b""
    for i, values in enumerate(columns.values()):
        data = values.astype("<f4").tobytes()
        at = {"byteOffset": len(body), "byteLength": len(data)}
        views.append({"buffer": 0, **at, "target": GLTF_VERTICES})
        kind = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}[values.shape[1]]
        accessors.append(
            {"bufferView": i, "componentType": 5126, "count": len(values), "type": kind}
        )
        body += data
    # Of positions, a glTF must say them.
    accessors[0] |= {"min": g["means"].min(0).tolist(), "max": g["means"].max(0).tolist()}
    primitive = {
        "mode": 0,
        "attributes": {name: i for i, name in enumerate(columns)},
        "extensions": {GLTF: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    scene: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": program(), "copyright": statement()},
        "extensionsUsed": [GLTF],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "head"}],
        "meshes": [{"primitives": [primitive]}],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(body)}],
    }
    text = json.dumps(scene).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(body), b"BIN\0") + body
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def spz_bytes(gaussians: Gaussians) -> bytes:
    """Return an SPZ of version 2: positions in 24 bits, everything else in 8, gzipped.

    Source:
        https://github.com/nianticlabs/spz, the section on the file format.
    """
    g = _plain(gaussians)
    fixed = np.round(g["means"].astype(np.float64) * 2**SPZ_BITS).astype("<i4")
    if np.abs(fixed).max(initial=0) >= 2**23:
        raise InputError("A Gaussian is over 128 m away.", "SPZ cannot hold it; write PLY.")
    positions = fixed[..., None].view(np.uint8).reshape(-1, 3, 4)[..., :3]
    color = ((g["colors"] - 0.5) / SH0 * SPZ_COLOR + 0.5) * 255
    scales = (np.log(np.maximum(g["scales"], 1e-9)) + 10) * 16
    wxyz = g["quats"] / np.linalg.norm(g["quats"], axis=1, keepdims=True).clip(1e-12)
    xyz = wxyz[:, 1:] * np.where(wxyz[:, :1] < 0, -1, 1)
    parts = [g["opacities"] * 255, color, scales, xyz * 127.5 + 127.5]
    header = SPZ_HEADER.pack(SPZ_MAGIC, SPZ_VERSION, len(gaussians), 0, SPZ_BITS, 0, 0)
    body = positions.tobytes() + b"".join(
        np.clip(np.round(part), 0, 255).astype(np.uint8).tobytes() for part in parts
    )
    return gzip.compress(header + body, mtime=0)


def _vertices(gaussians: Gaussians) -> tuple[list[str], bytes]:
    """Return the header of a PLY, without its end, and its rows."""
    g = _plain(gaussians)
    alpha = np.clip(g["opacities"], EDGE, 1 - EDGE)
    table = np.concatenate(
        [
            g["means"],
            np.zeros_like(g["means"]),
            (g["colors"] - 0.5) / SH0,
            np.log(alpha / (1 - alpha))[:, None],
            np.log(np.maximum(g["scales"], 1e-9)),
            g["quats"] / np.linalg.norm(g["quats"], axis=1, keepdims=True).clip(1e-12),
        ],
        axis=1,
    )
    head = ["ply", "format binary_little_endian 1.0", f"comment {statement()}", RENDER_MODE]
    head += [f"element vertex {len(gaussians)}", *(f"property float {n}" for n in PLY_FIELDS)]
    return head, table.astype("<f4").tobytes()


def covariances(gaussians: Gaussians) -> np.ndarray:
    """Return the covariance of each Gaussian, [n, 3, 3], square metres."""
    g = _plain(gaussians)
    R = Rotation.from_quat(g["quats"], scalar_first=True).as_matrix()
    half = R * g["scales"][:, None, :]
    return half @ half.transpose(0, 2, 1)


def _plain(gaussians: Gaussians) -> dict[str, np.ndarray]:
    return {k: v.detach().float().cpu().numpy() for k, v in vars(gaussians).items()}
