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

from pipeline.core.config import to_dict
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import MAKEHUMAN, arkit_to_code
from pipeline.shards.writer import ShardData, write_shard
from pipeline.synthetic.cameras import YAW, sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.people import sample_identity
from pipeline.synthetic.shading import sample_lights
from pipeline.synthetic.subject import Frame, Subject
from pipeline.system.executor import run_items
from pipeline.system.files import sweep
from pipeline.system.locks import locked
from pipeline.system.progress import Progress, silent
from pipeline.system.stage import StageReport, claim

SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class SyntheticConfig:
    """Settings of synthetic captures."""

    identities: int = 200
    expressions: int = 16
    views: int = 8
    size: int = 256
    yaw: float = YAW
    """Degrees to each side that cameras look from; 180 is all around."""
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
        StaleOutputError: If `out` holds shards made with other settings, or another process works
            there.
    """
    with locked(out):
        claim(out, config, made="*.h5", overwrite=overwrite)
        sweep(out)
        paths = {i: out / f"{config.split}-{i:05d}.h5" for i in range(config.identities)}
        todo = [i for i, path in paths.items() if not path.exists()]
        report = StageReport(out, skipped=len(paths) - len(todo))
        run_items(todo, partial(_person, out=out, config=config), workers, progress)
        report.done = len(todo)
    return report


def person(config: SyntheticConfig, identity: int) -> tuple[Subject, np.random.Generator]:
    """Return a person, and the random numbers for what it does.

    They depend on split, seed and number alone, not on what else is drawn.
    """
    rng = np.random.default_rng([config.seed, SPLITS[config.split], identity])
    return Subject(sample_identity(rng), sample_lights(rng)), rng


def capture(config: SyntheticConfig, identity: int) -> ShardData:
    """Draw one person from all cameras under all expressions."""
    subject, rng = person(config, identity)
    weights = np.stack([sample_expression(rng) for _ in range(config.expressions)])
    cameras = sample_cameras(rng, config.expressions, config.views, config.size, config.yaw)
    frames: list[list[Frame]] = [subject.render_views(w, cameras[t]) for t, w in enumerate(weights)]
    return ShardData(
        subject=f"synthetic-{config.split}-{config.seed}-{identity:05d}",
        layout=MAKEHUMAN,
        rgb=np.stack([[frame.rgb for frame in row] for row in frames]),
        alpha=np.stack([[frame.alpha for frame in row] for row in frames]),
        depth=np.stack([[frame.depth for frame in row] for row in frames]),
        world_to_camera=cameras.world_to_camera.numpy(),
        K=cameras.K.numpy(),
        code=arkit_to_code(weights).values.numpy(),
        sentence=np.zeros(config.expressions, np.int32),
        landmarks=np.stack([row[0].landmarks for row in frames]),
        vertices=np.stack([row[0].vertices for row in frames]),
        neutral=subject.head.neutral,
        topology=head_model(MAKEHUMAN).topology,
        split=config.split,
    )


def _person(identity: int, out: Path, config: SyntheticConfig) -> None:
    path = out / f"{config.split}-{identity:05d}.h5"
    provenance = {"stage": "synthetic", "config": to_dict(config), "program": version("fastgha")}
    write_shard(path, capture(config, identity), provenance)
