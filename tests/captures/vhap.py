"""Write a VHAP export: OpenGL cameras, cy from the bottom, FLAME parameters, masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.spatial.transform import Rotation

from tests.captures.studio import Studio


def flame_arrays(t: int, pose: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([7, t])
    return {
        "translation": pose[:3, 3][None].astype(np.float32),
        "rotation": Rotation.from_matrix(pose[:3, :3]).as_rotvec()[None].astype(np.float32),
        "neck_pose": np.array([[0.1, 0.05, 0]], np.float32),
        "jaw_pose": np.array([[0.1 * t, 0, 0]], np.float32),
        "eyes_pose": np.array([[0.1, 0.2, 0, -0.1, 0.05, 0]], np.float32),
        "shape": np.random.default_rng(3).normal(size=300).astype(np.float32),
        "expr": rng.normal(size=(1, 100)).astype(np.float32),
        "static_offset": np.full((1, 5143, 3), 1e-3, np.float32),
    }


def write(folder: Path, studio: Studio, *, split: bool = False) -> Path:
    """Write `<folder>/074_EMO-1_whiteBg` and give its path."""
    out = folder / "074_EMO-1_whiteBg"
    for part in ("images", "fg_masks", "flame_param"):
        (out / part).mkdir(parents=True)
    width, height = studio.rig.width, studio.rig.height
    frames = []
    for t, row in enumerate(studio.frames):
        np.savez(out / f"flame_param/{t:05d}.npz", **flame_arrays(t, studio.head_to_world[t]))
        for c, frame in enumerate(row):
            name = f"{t:05d}_{c:02d}.png"
            Image.fromarray(frame.rgb).save(out / "images" / name)
            Image.fromarray(frame.alpha).save(out / "fg_masks" / name)
            E, K = studio.rig.world_to_camera[c].numpy(), studio.rig.K[c].numpy()
            frames.append({
                "timestep_index": t,
                "timestep_index_original": 3 * t,
                "timestep_id": f"frame_{3 * t:05d}",
                "camera_index": c,
                "camera_id": str(222200036 + c),
                "cx": K[0, 2], "cy": height - K[1, 2], "fl_x": K[0, 0], "fl_y": K[1, 1],
                "w": width, "h": height,
                "camera_angle_x": float(2 * np.arctan(width / 2 / K[0, 0])),
                "camera_angle_y": float(2 * np.arctan(height / 2 / K[1, 1])),
                "transform_matrix": (np.linalg.inv(E) @ np.diag([1.0, -1, -1, 1])).tolist(),
                "file_path": f"images/{name}",
                "fg_mask_path": f"fg_masks/{name}",
                "flame_param_path": f"flame_param/{t:05d}.npz",
            })  # fmt: skip
    top = {k: frames[0][k] for k in ("cx", "cy", "fl_x", "fl_y", "h", "w", "camera_angle_x")}
    top |= {"timestep_indices": list(range(len(studio.frames)))}
    top |= {"camera_indices": list(range(len(studio.frames[0])))}
    half = len(frames) // 2
    parts = {"transforms_train.json": frames[:half], "transforms_test.json": frames[half:]}
    for name, some in (parts if split else {"transforms.json": frames}).items():
        (out / name).write_text(json.dumps({**top, "frames": some}))
    np.savez(out / "canonical_flame_param.npz", jaw_pose=np.array([[0.3, 0, 0]]))
    return out


def distort(picture: np.ndarray, K: torch.Tensor, k1: float) -> np.ndarray:
    """Draw a picture as a lens with k1 shows it: each pixel looked up at its ideal place."""
    height, width = picture.shape[:2]
    v, u = np.mgrid[:height, :width] + 0.5
    x, y = (u - float(K[0, 2])) / float(K[0, 0]), (v - float(K[1, 2])) / float(K[1, 1])
    ix, iy = x.copy(), y.copy()
    for _ in range(50):
        r2 = ix**2 + iy**2
        ix, iy = x / (1 + k1 * r2), y / (1 + k1 * r2)
    column = np.clip(np.floor(ix * float(K[0, 0]) + float(K[0, 2])), 0, width - 1).astype(int)
    row = np.clip(np.floor(iy * float(K[1, 1]) + float(K[1, 2])), 0, height - 1).astype(int)
    return picture[row, column]
