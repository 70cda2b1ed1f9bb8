"""Meshes in foreign files, read and written by trimesh: PLY, OBJ, GLB.

Vertices keep their order and number, which is what codes, registrations and topologies go by.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int, Int64

from pipeline.core.errors import FormatError, InputError, MissingItemError, MissingPackageError
from pipeline.system.files import write_whole

ENDINGS = (".ply", ".obj", ".glb")
LARGEST = 1e6
"""A larger coordinate is a kilometre, if they are millimetres."""


def read_vertices(data: bytes, where: object) -> Float32[np.ndarray, "n 3"]:
    """Return x, y, z of the vertices of a PLY file, in the file's unit.

    Raises:
        MissingItemError: If the bytes are not a whole PLY file with vertices.
        MissingPackageError: If trimesh is not installed.
    """
    trimesh = _trimesh()
    try:
        mesh = trimesh.load(io.BytesIO(data), file_type="ply", process=False)
        vertices = np.asarray(mesh.vertices, np.float32)
    except Exception as error:  # noqa: BLE001  a foreign file can fail in any way
        raise MissingItemError(
            f"{where} is not a whole PLY file with vertices ({_first_line(error)}).",
            "Download it again.",
        ) from error
    if vertices.ndim != 2 or vertices.shape[1] != 3 or not len(vertices):
        raise MissingItemError(f"{where} is a PLY file without vertices.", "Download it again.")
    if not (np.abs(vertices) < LARGEST).all():  # nan fails too
        raise MissingItemError(
            f"{where} has vertices that are not finite or absurdly far.", "Download it again."
        )
    return vertices


def read_obj_faces(path: Path) -> Int64[np.ndarray, "m 3"]:
    """Return the faces of an OBJ file, by the numbers of its vertices; larger ones are cut.

    Raises:
        FormatError: If it is not there or has none.
        MissingPackageError: If trimesh is not installed.
    """
    trimesh = _trimesh()
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        # Corners of textures would split vertices, and change their numbers.
        plain = [re.sub(r"/\S*", "", x) for x in text.splitlines() if x[:2] in ("v ", "f ")]
        mesh = trimesh.load(
            io.StringIO("\n".join(plain)), file_type="obj", process=False, maintain_order=True
        )
        faces = np.asarray(mesh.faces, np.int64)
    except Exception as error:  # noqa: BLE001  a foreign file can fail in any way
        raise FormatError(
            f"{path} is not an OBJ file with faces ({_first_line(error)}).", "Give another."
        ) from error
    if faces.ndim != 2 or not len(faces) or faces.min() < 0:
        raise FormatError(f"{path} has no faces with positive numbers.", "Give another OBJ file.")
    return faces


def write_mesh(
    path: Path, vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]
) -> None:
    """Write a mesh in the format that the name asks for: .ply, .obj or .glb.

    Raises:
        InputError: If the name is of another kind, or the file cannot be written.
        MissingPackageError: If trimesh is not installed.
    """
    kind = path.suffix.lower()
    if kind not in ENDINGS:
        raise InputError(f"{path} is not the name of a mesh.", f"Name it {', '.join(ENDINGS)}.")
    mesh = _trimesh().Trimesh(vertices, faces, process=False)
    data = mesh.export(file_type=kind[1:])
    content = data.encode() if isinstance(data, str) else data
    write_whole(path, lambda part: part.write_bytes(content))


def mesh_faults(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "m 3"]) -> list[str]:
    """Return what is wrong with a mesh: nothing of a face's, which is open at the neck.

    Raises:
        MissingPackageError: If trimesh is not installed.
    """
    mesh = _trimesh().Trimesh(vertices, faces, process=False)
    faults: list[str] = []
    flat = int((mesh.area_faces <= 0).sum())
    if flat > len(faces) // 100:
        faults.append(f"{flat} of its {len(faces)} triangles have no area")
    if not mesh.is_winding_consistent:
        faults.append("its triangles do not face the same way")
    return faults


def _trimesh() -> Any:
    try:
        import trimesh
    except ImportError as error:
        raise MissingPackageError(
            "Meshes need the package trimesh.", "Install it: pip install 'fastgha[prep]'"
        ) from error
    return trimesh


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
