"""Stage: synthetic captures, drawn and packed.

Out   <out>/<split>-<number>.h5   a shard for each person
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.captures.synthetic.cameras import sample_cameras
from pipeline.captures.synthetic.expressions import sample_expressions
from pipeline.captures.synthetic.subject import Subject
from pipeline.config import to_dict
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code
from pipeline.shards.writer import Capture, write_shard
from pipeline.stage import Progress, StageReport, claim, run_items, silent

SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of synthetic captures."""

    identities: int = 200
    expressions: int = 16
    views: int = 8
    size: int = 256
    split: Literal["train", "test"] = "train"
    """People of one split are never in the other."""
    seed: int = 0


def run(
    out: Path,
    config: SyntheticConfig = SyntheticConfig(),
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress = silent,
) -> StageReport:
    """Draw a number of people into a folder of shards; go on where an earlier run stopped.

    Raises:
        StaleOutputError: If `out` holds shards made with other settings.
    """
    claim(out, config, made="*.h5", overwrite=overwrite)
    paths = {i: out / f"{config.split}-{i:05d}.h5" for i in range(config.identities)}
    todo = [i for i, path in paths.items() if not path.exists()]
    report = StageReport(out, skipped=len(paths) - len(todo))
    run_items(todo, partial(_person, out=out, config=config), workers, progress)
    report.done = len(todo)
    return report


def generator(config: SyntheticConfig, identity: int) -> np.random.Generator:
    """Give the random numbers of a person: of this one alone, whatever else is drawn."""
    return np.random.default_rng([config.seed, SPLITS[config.split], identity])


def capture(config: SyntheticConfig, identity: int) -> Capture:
    """Draw one person from all cameras under all expressions."""
    rng = generator(config, identity)
    subject = Subject.sample(rng)
    weights = sample_expressions(rng, config.expressions)
    cameras = sample_cameras(rng, config.expressions, config.views, config.size)
    t, v, size = config.expressions, config.views, config.size
    rgb = np.empty((t, v, size, size, 3), np.uint8)
    alpha = np.empty((t, v, size, size), np.uint8)
    depth = np.empty((t, v, size, size), np.float32)
    landmarks, vertices = [], []
    for i in range(t):
        posed = subject.pose(weights[i])
        for j in range(v):
            rgb[i, j], alpha[i, j], depth[i, j] = posed.draw(cameras[i][j])
        landmarks.append(posed.landmarks)
        vertices.append(posed.vertices)
    return Capture(
        subject=f"synthetic-{config.split}-{config.seed}-{identity:05d}",
        layout=MAKEHUMAN,
        rgb=rgb,
        alpha=alpha,
        depth=depth,
        world_to_camera=cameras.world_to_camera.numpy(),
        K=cameras.K.numpy(),
        code=arkit_to_code(weights).values.numpy(),
        sentence=np.zeros(t, np.int32),
        landmarks=np.stack(landmarks),
        vertices=np.stack(vertices),
    )


def _person(identity: int, out: Path, config: SyntheticConfig) -> None:
    path = out / f"{config.split}-{identity:05d}.h5"
    provenance = {"stage": "synthetic", "config": to_dict(config), "program": version("fastgha")}
    write_shard(path, capture(config, identity), provenance)
