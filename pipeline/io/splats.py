"""Gaussians in the file formats that splat viewers open: PLY as 3DGS writes it, and SPZ.

Both files keep the head frame (x to the subject's left, y up, z to the front), in metres, which is
the frame that SPZ and most viewers expect. Neither can hold more than one expression.
"""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError
from pipeline.core.types import Gaussians
from pipeline.system.files import write_whole
from pipeline.system.provenance import statement

SH0 = 0.28209479177387814
"""The constant spherical harmonic: 3DGS stores (colour - 0.5) / SH0."""
EDGE = 1e-6
"""Opacities stay so far from 0 and 1, where the logit is infinite."""

PLY_FIELDS = (
    "x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity",
    "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3",
)  # fmt: skip
"""float32 each, in the order of the 3DGS reference: logit opacity, log scales, wxyz."""

SPZ_MAGIC, SPZ_VERSION = 0x5053474E, 2
SPZ_HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, points, degree of harmonics, fractional bits, flags, reserved."""
SPZ_BITS = 16
"""Of the fraction in 24-bit positions: steps of 15 micrometres, up to 128 m away."""
SPZ_COLOR = 0.15


def write_splats(path: Path, gaussians: Gaussians) -> None:
    """Write Gaussians in the format that the name asks for, .ply or .spz.

    Raises:
        InputError: If the name is of another kind, or the file cannot be written.
    """
    makers = {".ply": ply_bytes, ".spz": spz_bytes}
    make = makers.get(path.suffix.lower())
    if make is None:
        raise InputError(f"{path} is not the name of a splat file.", "Name it .ply or .spz.")
    data = make(gaussians)
    write_whole(path, lambda part: part.write_bytes(data))


def ply_bytes(gaussians: Gaussians) -> bytes:
    """Return a binary PLY as the 3DGS reference lays it out, without higher harmonics."""
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
    head = ["ply", "format binary_little_endian 1.0", f"comment {statement()}"]
    head += [f"element vertex {len(gaussians)}", *(f"property float {n}" for n in PLY_FIELDS)]
    return "\n".join([*head, "end_header", ""]).encode() + table.astype("<f4").tobytes()


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


def covariances(gaussians: Gaussians) -> np.ndarray:
    """Return the covariance of each Gaussian, [n, 3, 3], square metres."""
    g = _plain(gaussians)
    R = Rotation.from_quat(g["quats"], scalar_first=True).as_matrix()
    half = R * g["scales"][:, None, :]
    return half @ half.transpose(0, 2, 1)


def _plain(gaussians: Gaussians) -> dict[str, np.ndarray]:
    return {k: v.detach().float().cpu().numpy() for k, v in vars(gaussians).items()}
