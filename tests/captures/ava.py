"""Write an Ava-256 capture: transposed millimetres, linear AVIF, STORED zips, lost frames."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.synthetic.subject import Frame
from tests.captures.studio import WALL, Studio

NAME = "20230308--1352--BDF920"
FRAMES = (67, 68, 1203, 1204)
CAMERAS = ("400940", "400941", "401168")
TO_WORLD = np.diag([1.0, -1.0, -1.0, 1.0])
TO_WORLD[:3, 3] = -0.06, 0.03, 0.99
"""From the upright frame of the studio to one like a frontal camera's, metres."""
LABEL_BODY, LABEL_CHAIR = 2, 3


def linear(rgb: np.ndarray) -> np.ndarray:
    """Undo the published colour transform, channel by channel."""
    c, b = np.array([1.279545, 1.1059, 1.6]), np.array([4.4, 3.1, 4.2]) / 255
    y = (rgb / 255.0) ** 1.5254
    return np.round(255 * (y * (1 - b) * 1.1059 + b) / c).clip(0, 255).astype(np.uint8)


def mixed(shot: Frame, behind: np.ndarray) -> np.ndarray:
    """What the sensor sees before something: light adds up where the head covers in part."""
    cover = shot.alpha[..., None] / 255
    head = (shot.rgb - 255 * (1 - cover)) / np.maximum(cover, 1e-3)
    light = cover * linear(head.clip(0, 255)) + (1 - cover) * behind
    return np.round(light).astype(np.uint8)


def avif(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "AVIF", quality=95, speed=10, subsampling="4:4:4")
    return data.getvalue()


def png(pixels: np.ndarray) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def npy(array: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


def ply(vertices: np.ndarray) -> bytes:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(vertices)}\n"
    head += "property float x\nproperty float y\nproperty float z\nend_header\n"
    return head.encode() + vertices.astype("<f4").tobytes()


def stored(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, data in members.items():
            file.writestr(name, data)


def registered(studio: Studio, t: int) -> np.ndarray:
    """Vertices in the head frame, as many as the data set's mesh has."""
    return np.resize(studio.frames[t][0].vertices, (7306, 3))


def head_pose(studio: Studio, t: int) -> np.ndarray:
    """Head-local to world, metres."""
    return TO_WORLD @ studio.head_to_world[t]


def write(root: Path, studio: Studio, name: str = NAME, *, soft: bool = False) -> Path:
    """Write `<root>/<name>`; frame 68 of the second camera is dropped, the last mesh is lost."""
    out = root / name / "decoder"
    out.mkdir(parents=True)
    width, height = studio.rig.width, studio.rig.height
    cameras, wall = [], linear(np.array(WALL))
    for i, camera in enumerate(CAMERAS):
        E = studio.rig.world_to_camera[i].numpy() @ np.linalg.inv(TO_WORLD)
        E[:3, 3] *= 1000
        K = np.diag([2668 / width, 4096 / height, 1]) @ studio.rig.K[i].numpy()
        cameras.append({
            "cameraId": camera,
            "projectionModel": "Pinhole",
            "distortionModel": "RadialAndTangential",
            "K": K.T.tolist(),
            "distortion": [-0.3, 0.2, 0.01, 0.02],
            "T": E.T.tolist(),
        })  # fmt: skip
        pictures, parts, masks = {}, {}, {}
        for t, frame in enumerate(FRAMES):
            shot = studio.frames[t][i]
            if (i, frame) == (1, 68):
                continue
            labels = np.where(shot.alpha > 127, LABEL_BODY, 0).astype(np.uint8)
            labels[-6:, :6] = LABEL_CHAIR
            key = f"{frame:06d}"
            pictures[f"cam{camera}/{key}.avif"] = avif(mixed(shot, wall))
            parts[f"cam{camera}/{key}.png"] = png(np.repeat(np.repeat(labels, 2, 0), 2, 1))
            masks[f"{key}.avif"] = avif(np.repeat(shot.alpha[..., None], 3, -1))
        stored(out / f"image/cam{camera}.zip", pictures)
        stored(out / f"segmentation_parts/cam{camera}.zip", parts)
        if soft:
            stored(out / f"foreground_masks/cam{camera}.zip", masks)
    # One more camera, whose download broke off.
    cameras.append({**cameras[0], "cameraId": "401999"})
    whole = (out / "image/cam400940.zip").read_bytes()
    (out / "image/cam401999.zip").write_bytes(whole[: len(whole) // 2])
    (out / "camera_calibration.json").write_text(json.dumps({"KRT": cameras}))
    if soft:
        plate = np.full((height, width, 3), wall, np.uint8)
        plates = {f"{camera}.avif": avif(plate) for camera in CAMERAS}
        stored(out / "background_image/background_image.zip", plates)
    with (out / "frame_list.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["seg_id", "frame_id"])
        rows.writerows(zip(["EXP_neutral_peak"] * 2 + ["SEN_a_b"] * 2, FRAMES, strict=True))
    write_tracking(out, studio)
    return out.parent


def write_tracking(out: Path, studio: Studio) -> None:
    poses, meshes, points = {}, {}, {}
    for t, frame in enumerate(FRAMES):
        H = head_pose(studio, t)[:3].copy()
        H[:, 3] *= 1000
        text = "\n".join(" ".join(f"{x:.8e}" for x in row) for row in H)
        poses[f"{frame:06d}.txt"] = text.encode()
        meshes[f"{frame:06d}.ply"] = ply(1000 * registered(studio, t))
        world = 1000 * (studio.frames[t][0].landmarks @ H[:, :3].T + H[:, 3] / 1000)
        rows = np.column_stack([4 * np.arange(68), world, np.ones(68), np.full(68, 9)])
        points[f"{frame:06d}.npy"] = npy(rows[np.arange(68) != 5])
    meshes.popitem()
    stored(out / "head_pose/head_pose.zip", poses)
    stored(out / "kinematic_tracking/registration_vertices.zip", meshes)
    stored(out / "keypoints_3d/keypoints_3d.zip", points)
