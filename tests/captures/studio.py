"""A rig around a synthetic head: pictures of which everything is known, in any world frame."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera
from pipeline.faces.layouts import ARKIT
from pipeline.synthetic.subject import Frame, Subject

WALL = (90, 120, 100)
AVA = {"width": 96, "height": 147, "span": 0.42}
NERSEMBLE = {"width": 96, "height": 140, "span": 0.42}
"""Pictures in the proportions of each data set, for `shoot`."""
ONE_PERSON = """
name = "one"
dataset = "a capture that the tests wrote"
note = ""
subjects = []
inputs = 1
same_expression = true
avatars = 1
targets = 2
size = 32
seed = 0
lpips = "alex"
csim = "fr_feature"
akd = "face_mesh"
"""
"""A protocol for one captured person."""


@dataclass(frozen=True)
class Studio:
    """What was shot; the world is an upright frame in metres, z towards the cameras."""

    rig: Camera
    """[v], world to camera, float64."""
    head_to_world: np.ndarray
    """[t, 4, 4]"""
    frames: tuple[tuple[Frame, ...], ...]
    """[t][v]; vertices and landmarks in the head frame."""

    def in_world(self, points: np.ndarray, t: int) -> np.ndarray:
        H = self.head_to_world[t]
        return points @ H[:3, :3].T + H[:3, 3]


@functools.cache
def shoot(
    width: int = 96,
    height: int = 140,
    views: int = 3,
    timesteps: int = 4,
    span: float = 0.42,
    supersample: int = 1,
) -> Studio:
    """Shoot one person; the first camera is frontal."""
    rng = np.random.default_rng(5)
    yaw = torch.tensor([0.0, 0.6, -0.7, 0.3, -0.35, 1.0][:views]).double()
    pitch = torch.tensor([0.0, 0.15, -0.1, 0.3, 0.2, 0.1][:views]).double()
    toward = torch.stack([yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], -1)
    E = look_at(1.05 * toward, torch.zeros(views, 3).double())
    K = torch.eye(3).double().repeat(views, 1, 1)
    K[:, 0, 0] = K[:, 1, 1] = 1.05 * width / span
    K[:, 0, 2] = width / 2 + torch.from_numpy(rng.uniform(-3, 3, views))
    K[:, 1, 2] = height / 2 + torch.from_numpy(rng.uniform(2, 6, views))
    rig = Camera(E, K, width, height)
    poses = np.tile(np.eye(4), (timesteps, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler(
        "yxz", rng.normal(0, 8, (timesteps, 3)), True
    ).as_matrix()
    poses[:, :3, 3] = rng.normal(0, 0.01, (timesteps, 3))
    subject = Subject.sample(12)
    frames = []
    for t in range(timesteps):
        weights = np.zeros(52, np.float32)
        weights[ARKIT["jawOpen"]] = t / 4
        seen = Camera(E @ torch.from_numpy(poses[t]), K, width, height).to(torch.float32)
        frames.append(
            tuple(subject.render_views(weights, seen, supersample=supersample, whole=True))
        )
    return Studio(rig, poses, tuple(frames))


def over(frame: Frame, background: tuple[int, int, int] = WALL) -> np.ndarray:
    """The picture before a coloured wall instead of white."""
    gap = 1 - frame.alpha[..., None] / 255
    return np.clip(frame.rgb - gap * (255 - np.array(background)), 0, 255).astype(np.uint8)
