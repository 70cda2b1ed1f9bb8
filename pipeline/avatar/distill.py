"""Distilling: a few Gaussians that look like the many of an avatar, by fitting to its pictures.

Neighbours are merged, and what is left learns the pictures that the exact avatar makes, from many
sides under many expressions, in less than a minute.

Letters: n Gaussians, f pictures.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fidelity import sample_codes
from pipeline.avatar.fit import FitConfig, FitReport, fit
from pipeline.avatar.learnt import Rates
from pipeline.avatar.start import LightConfig, light
from pipeline.avatar.video import Footage
from pipeline.core.errors import ConfigError
from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import neutral_code
from pipeline.model.baked import Baked
from pipeline.system.progress import Progress, silent

VIEWS = 4
"""Of each expression."""
YAW, PITCH = 80.0, 25.0
"""Reach of the views, degrees."""
SPAN, DISTANCE = (0.32, 0.42), (0.8, 1.3)
"""Metres across a picture at the head, and from the camera to it."""
INPUTS = 4
"""Pictures from the front that tell which Gaussians are hidden behind others."""
JUDGED = 10
"""Each so many-th picture is held back, and tells which state is the best."""


@dataclass(frozen=True)
class DistillConfig:
    """How an avatar is distilled."""

    gaussians: int = 12_000
    rank: int = 32
    codes: int = 320
    """Sampled expressions under which its shapes are found."""
    expressions: int = 48
    """Of the pictures."""
    seconds: float = 40.0
    size: int = 256
    """Of the pictures, pixels."""
    seed: int = 0
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(
            shares=(0.5, 0.5),
            splits=1,
            growth=0.05,
            beside=1.0,
            # Shapes are the network's own already; a few dozen expressions make them worse.
            warm=1.0,
            jitter=0.0,
            seen=1e-3,
            # Pictures are drawn from all sides and with many expressions.
            held=0.0,
            # These pictures have no error of pose, code or exposure.
            rates=Rates(turn=0.0, shift=0.0, weights=0.0, exposure=0.0),
        )
    )


def distill(
    avatar: Avatar,
    config: DistillConfig = DistillConfig(),
    *,
    drawing: Progress = silent,
    fitting: Progress = silent,
) -> tuple[Avatar, FitReport]:
    """Return a baked avatar of few Gaussians that looks like an exact one.

    Args:
        avatar: The exact one.
        config: How.
        drawing: Told after each expression that is drawn.
        fitting: Told of the seconds spent, now and then.

    Raises:
        ConfigError: If the avatar is baked already, or hangs on no mesh.
    """
    avatar = avatar.to("cpu")  # as all fits of light avatars are
    footage = filmed(avatar, config, drawing)
    start = light(
        avatar, footage, LightConfig(config.gaussians, config.rank, config.codes, config.seed)
    )
    setting = replace(
        config.fit,
        seconds=config.seconds,
        sizes=(config.size, config.size),
        gaussians=config.gaussians,
        seed=config.seed,
    )
    whole = max(round(config.seconds), 1)
    return fit(
        start,
        footage,
        setting,
        tell=lambda look, _: fitting(min(round(look.seconds), whole), whole),
    )


@torch.no_grad()
def filmed(
    avatar: Avatar, config: DistillConfig = DistillConfig(), progress: Progress = silent
) -> Footage:
    """Return pictures of an avatar from many sides, under many expressions.

    Raises:
        ConfigError: As `distill`.
    """
    if isinstance(avatar.deformation, Baked):
        raise ConfigError("This avatar is baked already.", "Distil the exact one.")
    rig = avatar.head.rig
    if rig is None:
        raise ConfigError(
            "This avatar hangs on no mesh, by which it could be distilled.",
            "Bake it without --gaussians, or make it with a guided model.",
        )
    codes = torch.cat(
        [
            neutral_code(avatar.layout).values[None],
            sample_codes(avatar.layout, config.expressions - 1, config.seed + 1),
        ]
    )
    cameras = _cameras(len(codes) * VIEWS, config)
    pictures: list[Tensor] = []
    for i, code in enumerate(codes):
        gaussians = avatar.animate(ExpressionCode(code, avatar.layout))
        for view in range(VIEWS):
            drawn = avatar.draw(gaussians, cameras[i * VIEWS + view])
            shown = torch.cat([drawn.color.clamp(0, 1), drawn.alpha.clamp(0, 1)], -1)
            pictures.append((255 * shown).round().to(torch.uint8).permute(2, 0, 1))
        progress(i + 1, len(codes))
    model, neutral = head_model(avatar.layout), rig.neutral.cpu().numpy()
    every = ExpressionCode(codes.repeat_interleave(VIEWS, 0), avatar.layout)
    posed = np.stack([model.posed(neutral, ExpressionCode(c, avatar.layout)) for c in codes])
    rows = range(len(pictures))
    return Footage(
        name="the avatar",
        pixels=torch.stack(pictures),
        inside=torch.tensor([0.0, 0, 1, 1]).expand(len(pictures), 4),
        cameras=cameras,
        codes=every,
        neutral=neutral,
        posed=posed.repeat(VIEWS, 0),
        sharpness=np.ones(len(pictures)),
        frames=np.arange(len(pictures)),
        inputs=tuple(rows[: INPUTS * VIEWS]),
        supervise=tuple(i for i in rows if i % JUDGED),
        judges=tuple(i for i in rows if not i % JUDGED),
    )


def _cameras(count: int, config: DistillConfig) -> Camera:
    rng = np.random.default_rng(config.seed)
    yaw = np.radians(rng.uniform(-YAW, YAW, count))
    pitch = np.radians(rng.uniform(-PITCH, PITCH, count))
    distance = rng.uniform(*DISTANCE, (count, 1))
    away = np.stack([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], 1)
    target = torch.tensor(CROP_CENTER, dtype=torch.float64).expand(count, 3)
    K = torch.zeros(count, 3, 3)
    focal = torch.from_numpy(config.size * distance[:, 0] / rng.uniform(*SPAN, count)).float()
    K[:, 0, 0] = K[:, 1, 1] = focal
    K[:, :2, 2] = config.size / 2
    K[:, 2, 2] = 1.0
    E = look_at(target + torch.from_numpy(distance * away), target).float()
    return Camera(E, K, config.size, config.size)
