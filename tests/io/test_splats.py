"""Splat files, read back by programs that are not ours."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import InputError
from pipeline.core.types import Gaussians
from pipeline.io.splats import SH0, ply_bytes, write_animated, write_splats
from tests.io.splat_files import read_ply

COUNT = 50


def gaussians(seed: int = 0) -> Gaussians:
    rng = torch.Generator().manual_seed(seed)
    return Gaussians(
        means=0.1 * torch.randn(COUNT, 3, generator=rng),
        quats=torch.randn(COUNT, 4, generator=rng),
        scales=torch.exp(torch.randn(COUNT, 3, generator=rng) - 6),
        opacities=torch.rand(COUNT, generator=rng),
        colors=torch.rand(COUNT, 3, generator=rng),
    )


def columns(path: Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Read a GLB by its specification: the scene, and the attributes of its one primitive."""
    data = path.read_bytes()
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    size, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON" and size % 4 == 0
    scene = json.loads(data[20 : 20 + size])
    more, kind = struct.unpack_from("<I4s", data, 20 + size)
    body = data[28 + size :]
    assert kind == b"BIN\0" and more == len(body) == scene["buffers"][0]["byteLength"]
    found: dict[str, np.ndarray] = {}
    for name, i in scene["meshes"][0]["primitives"][0]["attributes"].items():
        accessor = scene["accessors"][i]
        view = scene["bufferViews"][accessor["bufferView"]]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor["type"]]
        flat = np.frombuffer(body, "<f4", accessor["count"] * width, view["byteOffset"])
        found[name] = flat.reshape(-1, width)
    return scene, found


def test_a_glb_holds_the_gaussians_as_its_extension_wants_them(tmp_path: Path):
    g = gaussians()
    write_splats(tmp_path / "a.glb", g)
    scene, found = columns(tmp_path / "a.glb")
    assert scene["extensionsUsed"] == ["KHR_gaussian_splatting"]
    get = {name.removeprefix("KHR_gaussian_splatting:"): v for name, v in found.items()}
    np.testing.assert_allclose(get["POSITION"], g.means, atol=1e-7)
    np.testing.assert_allclose(get["SCALE"], g.scales, rtol=1e-6)
    np.testing.assert_allclose(get["OPACITY"][:, 0], g.opacities, rtol=1e-6)
    np.testing.assert_allclose(0.5 + SH0 * get["SH_DEGREE_0_COEF_0"], g.colors, atol=1e-6)
    wxyz = torch.nn.functional.normalize(g.quats, dim=1)
    np.testing.assert_allclose(get["ROTATION"], wxyz[:, [1, 2, 3, 0]], atol=1e-6)


@pytest.mark.parametrize("name", ["a.glb", "a.ply", "animated.ply"])
def test_trimesh_sees_the_points(name: str, tmp_path: Path):
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    g = gaussians()
    if name.startswith("animated"):
        write_animated(tmp_path / name, [g, gaussians(1)])
    else:
        write_splats(tmp_path / name, g)
    (cloud,) = trimesh.load_scene(tmp_path / name).geometry.values()
    np.testing.assert_allclose(cloud.vertices, g.means, atol=1e-6)


MODULES = Path(sys.prefix) / "npm" / "node_modules"
"""Where `make test` puts programs of npm."""
VALIDATE = """
const { validateBytes } = require("gltf-validator");
const bytes = new Uint8Array(require("fs").readFileSync(process.argv[1]));
validateBytes(bytes).then((report) => console.log(JSON.stringify(report.issues)));
"""


def test_the_validator_of_khronos_finds_no_fault_with_a_glb(tmp_path: Path):
    node = shutil.which("node")
    if node is None or not (MODULES / "gltf-validator").is_dir():
        pytest.skip("gltf-validator is not installed (make test does it where npm is)")
    write_splats(tmp_path / "a.glb", gaussians())
    done = subprocess.run(
        [node, "-e", VALIDATE, tmp_path / "a.glb"], capture_output=True, text=True, timeout=600,
        env={**os.environ, "NODE_PATH": str(MODULES)}, check=True,
    )  # fmt: skip
    messages = json.loads(done.stdout)["messages"]
    # It does not know the extension, and says so of each of its attributes.
    unknown = {"UNSUPPORTED_EXTENSION", "MESH_PRIMITIVE_INVALID_ATTRIBUTE"}
    assert {m["code"] for m in messages} == unknown, messages
    names = [m["pointer"] for m in messages if m["code"] == "MESH_PRIMITIVE_INVALID_ATTRIBUTE"]
    assert all("KHR_gaussian_splatting:" in name for name in names)


def splat_transform(source: Path, target: Path) -> None:
    paths = os.pathsep.join([str(MODULES / ".bin"), os.environ.get("PATH", "")])
    program = shutil.which("splat-transform", path=paths)
    if program is None:
        pytest.skip("splat-transform is not installed (make test does it where npm is)")
    done = subprocess.run([program, source, target], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_glb_is_what_splat_transform_makes_of_the_ply(tmp_path: Path):
    g = gaussians()
    write_splats(tmp_path / "a.ply", g)
    write_splats(tmp_path / "a.glb", g)
    splat_transform(tmp_path / "a.ply", tmp_path / "b.glb")
    (_, ours), (_, theirs) = columns(tmp_path / "a.glb"), columns(tmp_path / "b.glb")
    assert set(ours) == set(theirs)
    for name in ("SCALE", "OPACITY", "SH_DEGREE_0_COEF_0"):
        key = f"KHR_gaussian_splatting:{name}"
        np.testing.assert_allclose(ours[key], theirs[key], atol=1e-6)
    # It holds that a PLY has y down and turns it by half a turn about z; ours has y up.
    half_turn = Rotation.from_euler("z", 180, degrees=True)
    np.testing.assert_allclose(half_turn.apply(ours["POSITION"]), theirs["POSITION"], atol=1e-6)
    turns = [Rotation.from_quat(c["KHR_gaussian_splatting:ROTATION"]) for c in (ours, theirs)]
    assert ((half_turn * turns[0]) * turns[1].inv()).magnitude().max() < 1e-5


@pytest.mark.parametrize("name", ["a.ply", "a.spz", "animated.ply"])
def test_splat_transform_reads_what_we_write(name: str, tmp_path: Path):
    g = gaussians()
    if name.startswith("animated"):
        write_animated(tmp_path / name, [g, gaussians(1)])
    else:
        write_splats(tmp_path / name, g)
    target = tmp_path / "back.ply"
    splat_transform(tmp_path / name, target)
    back = read_ply(_plain(target))
    coarse = name.endswith("spz")
    # By its specification SPZ has y up and z towards the viewer, as ours has; a PLY the opposite.
    signs = torch.tensor([1.0, -1.0, -1.0] if coarse else [1.0, 1.0, 1.0])
    torch.testing.assert_close(back.means, signs * g.means, atol=2e-5, rtol=0)
    torch.testing.assert_close(back.opacities, g.opacities, atol=5e-3 if coarse else 1e-4, rtol=0)
    torch.testing.assert_close(back.colors, g.colors, atol=2e-2 if coarse else 1e-4, rtol=0)


def _plain(path: Path) -> Path:
    """Add the normals that other programs leave out, for our reader."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    names = [x.split()[-1].decode() for x in head.splitlines() if x.startswith(b"property")]
    table = np.frombuffer(body, "<f4").reshape(-1, len(names))
    means = torch.from_numpy(table[:, [names.index(n) for n in "xyz"]].copy())
    pick = lambda *wanted: torch.from_numpy(table[:, [names.index(n) for n in wanted]].copy())  # noqa: E731
    g = Gaussians(
        means,
        pick("rot_0", "rot_1", "rot_2", "rot_3"),
        pick("scale_0", "scale_1", "scale_2").exp(),
        pick("opacity")[:, 0].sigmoid(),
        pick("f_dc_0", "f_dc_1", "f_dc_2") * SH0 + 0.5,
    )
    path.write_bytes(ply_bytes(g))
    return path


def delta_frames(path: Path) -> list[np.ndarray]:
    """Read the positions of each frame as Brush does: first, and offsets between two ends."""
    head, _, body = path.read_bytes().partition(b"end_header\n")
    kinds = {"float": "<f4", "ushort": "<u2", "uchar": "u1"}
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in head.decode().splitlines():
        words = line.split()
        if words[0] == "element":
            elements.append((words[1], int(words[2]), []))
        elif words[0] == "property":
            elements[-1][2].append((words[2], kinds[words[1]]))
    frames: list[np.ndarray] = []
    low = high = base = np.zeros(3)
    at = 0
    for name, count, fields in elements:
        kind = np.dtype(fields)
        table = np.frombuffer(body, kind, count, at)
        at += count * kind.itemsize
        places = np.stack([table[axis] for axis in "xyz"], 1).astype(np.float64)
        if name == "vertex":
            base = places
        elif "min" in name:
            low = places[0]
        elif "max" in name:
            high = places[0]
        else:
            assert len(fields) == 10, "the reader wants scales and rotations too"
            frames.append(base + places / 65534 * (high - low) + low)
    assert at == len(body)
    return frames


def test_an_animated_ply_holds_where_the_gaussians_go(tmp_path: Path):
    first = gaussians()
    moved = [
        replace(first, means=first.means + 0.01 * i * torch.randn(COUNT, 3, generator=rng))
        for i, rng in enumerate(torch.Generator().manual_seed(s) for s in range(3))
    ]
    write_animated(tmp_path / "a.ply", moved)
    frames = delta_frames(tmp_path / "a.ply")
    assert len(frames) == 3
    for frame, there in zip(frames, moved, strict=True):
        np.testing.assert_allclose(frame, there.means, atol=1e-6)
    with pytest.raises(InputError, match=r"Name it \.ply"):
        write_animated(tmp_path / "a.spz", moved)
    with pytest.raises(InputError, match="no frame"):
        write_animated(tmp_path / "a.ply", [])
