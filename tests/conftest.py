"""Small data that the tests make themselves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.makehuman import Head, Identity
from pipeline.model.config import ModelConfig
from pipeline.shards.writer import ShardData, write_shard
from pipeline.train.presets import tiny

LAYOUT = "fastgha120/makehuman-hm08/1"


def plain() -> ModelConfig:
    """The preset `tiny` without a guide: for tests whose pictures show no head."""
    return replace(tiny(), guide="none")


def dome(views: int, size: int, seed: int = 0, distance: float = 1.0) -> Camera:
    """Cameras in front of the head, all looking at its origin."""
    rng = np.random.default_rng(seed)
    yaw = torch.from_numpy(rng.uniform(-1, 1, views)).float()
    pitch = torch.from_numpy(rng.uniform(-0.4, 0.4, views)).float()
    centers = distance * torch.stack(
        [yaw.sin() * pitch.cos(), pitch.sin(), yaw.cos() * pitch.cos()], -1
    )
    K = torch.tensor([[2.4 * size, 0, size / 2], [0, 2.4 * size, size / 2], [0, 0, 1.0]])
    return Camera(look_at(centers, torch.zeros(views, 3)), K.expand(views, 3, 3), size, size)


def blob_views(views: int, size: int, seed: int = 0) -> View:
    """Pictures of a coloured ball at the origin, with its true silhouette."""
    camera = dome(views, size, seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = (((x - size / 2) ** 2 + (y - size / 2) ** 2).sqrt() < size / 4).float()
    alpha = inside.expand(views, 1, size, size)
    color = torch.tensor([0.8, 0.4, 0.3])[:, None, None]
    return View(color * alpha + (1 - alpha), alpha, camera)


def still_mesh(views: int) -> TrackedMesh:
    """The average face at rest, as if tracked in some pictures."""
    face = Head(Identity()).neutral
    return TrackedMesh(LAYOUT, face, np.stack([face] * views))


def toy_capture(subject: str, size: int = 64, timesteps: int = 4, views: int = 4) -> ShardData:
    """A capture of a coloured ball whose size follows the jaw, with a still face in it."""
    rng = np.random.default_rng(list(subject.encode()))
    code = rng.normal(0, 0.3, (timesteps, 120)).astype(np.float32)
    color = rng.uniform(0.2, 0.8, 3)
    camera = dome(timesteps * views, size, seed=len(subject))
    y, x = np.mgrid[:size, :size] + 0.5
    radius = size * (0.25 + 0.05 * np.tanh(code[:, 100]))
    inside = np.hypot(x - size / 2, y - size / 2)[None] < radius[:, None, None]
    alpha = np.repeat((inside * 255).astype(np.uint8)[:, None], views, axis=1)
    shade = 1 - 0.3 * (y / size)
    face = Head(Identity()).neutral
    head = (color * shade[..., None] * 255)[None, None] * (alpha[..., None] / 255)
    rgb = (head + 255 * (1 - alpha[..., None] / 255)).astype(np.uint8)
    return ShardData(
        subject=subject,
        layout=LAYOUT,
        rgb=rgb,
        alpha=alpha,
        depth=np.where(alpha > 0, np.float32(0.95), np.float32(0)),
        world_to_camera=camera.world_to_camera.reshape(timesteps, views, 4, 4).numpy(),
        K=camera.K.reshape(timesteps, views, 3, 3).numpy().copy(),
        code=code,
        sentence=np.zeros(timesteps, np.int32),
        landmarks=np.zeros((timesteps, 68, 3), np.float32),
        vertices=np.stack([face] * timesteps),
        neutral=face,
        topology=head_model(LAYOUT).topology,
    )


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two toy subjects. Read only."""
    folder = tmp_path_factory.mktemp("shards")
    for name in ("anna", "bert"):
        write_shard(folder / f"{name}.h5", toy_capture(name), {"made by": "the tests"})
    return folder
