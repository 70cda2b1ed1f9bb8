"""Meshes through trimesh: vertices keep their order and number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import FormatError, InputError, MissingItemError
from pipeline.io.meshes import mesh_faults, read_obj_faces, read_vertices, write_mesh
from tests.captures import ava

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [5, 5, 5]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])

pytest.importorskip("trimesh")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def test_a_mesh_comes_back_as_it_was_written(tmp_path: Path):
    for ending in (".ply", ".obj", ".glb"):
        path = tmp_path / f"mesh{ending}"
        write_mesh(path, SQUARE, FACES)
        assert path.stat().st_size > 100
    np.testing.assert_array_equal(read_vertices((tmp_path / "mesh.ply").read_bytes(), "m"), SQUARE)
    assert sorted(map(sorted, read_obj_faces(tmp_path / "mesh.obj").tolist())) == [
        [0, 1, 2], [0, 2, 3],
    ]  # fmt: skip
    assert (tmp_path / "mesh.glb").read_bytes()[:4] == b"glTF"
    with pytest.raises(InputError, match=r"\.ply, \.obj, \.glb"):
        write_mesh(tmp_path / "mesh.stl", SQUARE, FACES)


def test_vertices_of_a_cloud_are_read_and_damaged_ones_are_named():
    data = ava.ply(SQUARE)
    np.testing.assert_array_equal(read_vertices(data, "cloud"), SQUARE)
    for bad in (data[:-4], b"junk", data.replace(b"vertex 5", b"vertex 99999999"), b""):
        with pytest.raises(MissingItemError, match="cloud is not a whole PLY"):
            read_vertices(bad, "cloud")
    far = ava.ply(SQUARE * 1e7)
    with pytest.raises(MissingItemError, match="absurdly far"):
        read_vertices(far, "cloud")
    with pytest.raises(MissingItemError, match="not finite"):
        read_vertices(ava.ply(np.where(SQUARE == 5, np.nan, SQUARE)), "cloud")


def test_corners_of_textures_split_no_vertices(tmp_path: Path):
    path = tmp_path / "seam.obj"
    corners = "".join(f"v {x} {y} {z}\n" for x, y, z in SQUARE)
    path.write_text(corners + "vt 0 0\nvt 1 1\nvt 0 1\nf 1/1 2/2 3/3\nf 1/2 3/1 4/3\n")
    assert read_obj_faces(path).tolist() == [[0, 1, 2], [0, 2, 3]]
    path.write_text(corners + "f 1 2 3 4\n")
    assert {frozenset(face) for face in read_obj_faces(path).tolist()} == {
        frozenset((0, 1, 2)), frozenset((0, 2, 3)),
    }  # fmt: skip
    path.write_text("nothing")
    with pytest.raises(FormatError, match="faces"):
        read_obj_faces(path)


def test_faults_of_a_mesh_are_told():
    assert mesh_faults(SQUARE, FACES) == []
    turned = np.array([[0, 1, 2], [0, 3, 2]])
    assert mesh_faults(SQUARE, turned) == ["its triangles do not face the same way"]
    flat = np.array([[0, 1, 2], [0, 0, 3]])
    assert "1 of its 2 triangles have no area" in mesh_faults(SQUARE, flat)
