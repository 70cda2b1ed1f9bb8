"""Measuring a model on held-out subjects, beside the baselines, on the same pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.config import to_dict
from pipeline.errors import ConfigError
from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.metrics import METRICS
from pipeline.io.sheets import grid
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.shards.reader import Shard, find_shards
from pipeline.shards.sampling import Sample, SamplingConfig, draw
from pipeline.stage import Progress, silent
from pipeline.types import View

MODEL = "model"


@dataclass(frozen=True)
class EvalConfig:
    """Which pictures are measured."""

    inputs: int = 4
    samples: int = 4
    """Drawn from each subject: inputs of several expressions, targets of another."""
    size: int = 256
    seed: int = 0


@dataclass(frozen=True)
class EvalResult:
    """Figures by method and metric, and pictures to look at."""

    rows: dict[str, dict[str, float]]
    """Means over all pictures, by method."""
    subjects: int
    pictures: int
    config: EvalConfig
    sheet: np.ndarray
    """For some subjects: inputs, the model's picture, the truth. Bytes [h, w, 3]."""

    def to_json(self) -> dict[str, Any]:
        """Give everything but the sheet as JSON values."""
        return {
            "rows": self.rows,
            "subjects": self.subjects,
            "pictures": self.pictures,
            "config": to_dict(self.config),
        }


@torch.no_grad()
def evaluate(
    model: FastGHA,
    layout: str,
    folder: Path,
    config: EvalConfig = EvalConfig(),
    *,
    progress: Progress = silent,
) -> EvalResult:
    """Measure a model and the baselines on every subject of a folder.

    Measured are only pictures from cameras that no input came from, under an expression that
    no input shows.

    Raises:
        ConfigError: If the shards' codes are not of the layout that the model was trained with.
        InputError: If a subject has too few views or timesteps.
    """
    paths = find_shards(folder)
    shards = [Shard(path) for path in paths]
    for shard in shards:
        if shard.layout != layout:
            raise ConfigError(
                f"{shard.path.name} has codes of {shard.layout}, the model wants {layout}.",
                "Evaluate on shards of the model's layout.",
            )
    values: dict[str, dict[str, list[float]]] = {}
    rows: list[Tensor] = []
    for i, shard in enumerate(shards):
        # Neighbours in name are other people; sixteen make a smooth mean.
        others = [*shards[i + 1 :], *shards[:i]][:16]
        for k in range(config.samples):
            sample = held_out(shard, config, k)
            truth = sample.targets.image
            predictions = {
                MODEL: predict(model, sample),
                "nearest input view": nearest_input(sample),
                "mean head": mean_head(sample, others) if others else white_image(sample),
                "white image": white_image(sample),
            }
            for method, drawn in predictions.items():
                for name, metric in METRICS.items():
                    found = values.setdefault(method, {}).setdefault(name, [])
                    found.extend(metric(drawn, truth).tolist())
            if k == 0 and len(rows) < 12:
                rows.append(torch.cat([sample.inputs.image, predictions[MODEL][:1], truth[:1]]))
        progress(i + 1, len(shards))
    count = len(next(iter(values[MODEL].values())))
    means = {
        method: {name: float(np.mean(v)) for name, v in by_metric.items()}
        for method, by_metric in values.items()
    }
    return EvalResult(means, len(shards), count, config, grid(rows))


def held_out(shard: Shard, config: EvalConfig, index: int) -> Sample:
    """Give the sample of a subject by number: the same on every machine.

    The targets are the views from cameras that no input came from.
    """
    seed = [config.seed, index, *shard.subject.encode()]
    sampling = SamplingConfig(config.inputs, config.inputs, targets=shard.views)
    sample = draw(shard, sampling, config.size, np.random.default_rng(seed))
    unseen = [v for v in range(shard.views) if v not in sample.input_views]
    where = [sample.target_views.index(v) for v in unseen]
    return replace(
        sample,
        targets=sample.targets[where],
        depth=sample.depth[where],
        target_views=tuple(unseen),
    )


def predict(model: FastGHA, sample: Sample) -> Float[Tensor, "v 3 h w"]:
    """Draw a sample's targets from its inputs."""
    device = next(model.parameters()).device
    inputs: View = sample.inputs.to(device)
    gaussians = model.animate(
        model.prepare(model.reconstruct(inputs)), sample.code.values.to(device)
    )
    white = torch.ones(3, device=device)
    drawn = render(gaussians, sample.targets.camera.to(device), background=white)
    return drawn.color.permute(0, 3, 1, 2).clamp(0, 1).cpu()
