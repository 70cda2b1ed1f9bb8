"""How long the parts of a training step take, in several ways of carrying it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline.bench.rows import Timed, alone, table, timed
from pipeline.core.config import override
from pipeline.core.errors import ConfigError
from pipeline.evaluate.tables import Table
from pipeline.losses import Perceptual
from pipeline.model.hub import WeightsSource
from pipeline.perception.perceptual import load_perceptual
from pipeline.prep.synthetic import SyntheticConfig
from pipeline.prep.synthetic import run as make_people
from pipeline.shards.sampling import Samples, load_samples
from pipeline.system.machine import machine, peak_mb
from pipeline.system.progress import Progress, silent
from pipeline.train import folder
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.optimizer import Optimizer
from pipeline.train.step import (
    Clock,
    TrainingModule,
    attention,
    compute_losses,
    make_model,
)

VARIANTS: dict[str, tuple[str, ...]] = {
    "plain": (),
    "bfloat16": ("precision=bfloat16",),
    "channels_first": ("channels_last=false",),
    "attention_written_out": ("fused_attention=false",),
    "gradient_checkpointing": ("gradient_checkpointing=true",),
    "compile": ("compile=true",),
}
"""Ways to carry out a step, as settings of `RunConfig`."""


class Row(Timed):
    """One part of a step, measured; memory is all of the process, that of libraries too."""

    variant: str
    size: int
    part: str
    """data, forward, render, loss, backward, optimizer, or step: all of them."""


def bench(
    config: TrainConfig,
    run: RunConfig,
    *,
    sizes: Sequence[int],
    variants: Sequence[str] = ("plain",),
    shards: Path | None = None,
    perceptual: Path | None = None,
    source: WeightsSource = "pretrained",
    repeats: int = 9,
    progress: Progress = silent,
) -> list[Row]:
    """Measure training steps, each size and variant in a process of its own.

    Args:
        config: Settings of the run that is measured.
        run: How it is carried out; variants change this.
        sizes: Picture sizes.
        variants: Names of `VARIANTS`.
        shards: What to train on; two synthetic people if not given.
        perceptual: Weights of the perceptual net; without, that term is off.
        source: `random` measures without the downloaded weights, at their sizes.
        repeats: Steps that are counted, after two that are not.
        progress: Called after each size and variant.

    Raises:
        ConfigError: If there is no such variant.
    """
    for name in variants:
        if name not in VARIANTS:
            raise ConfigError(f"There is no variant {name!r}.", f"Known: {', '.join(VARIANTS)}.")
    rows: list[Row] = []
    with TemporaryDirectory(prefix="fastgha-") as place:
        if shards is None:
            shards = Path(place) / "shards"
            people = SyntheticConfig(identities=2, expressions=6, size=max(sizes))
            make_people(shards, people)
        work = [(size, name) for size in sizes for name in variants]
        for done, (size, name) in enumerate(work, start=1):
            here = override(run, VARIANTS[name])
            job = replace(config, sizes=(size,), steps=(repeats + 2,), peaks=())
            threads = torch.get_num_threads()
            laps, peak = alone(_measure, job, here, shards, perceptual, source, threads)
            rows += [
                Row(variant=name, size=size, part=part, **timed(times, peak))
                for part, times in laps.items()
            ]
            progress(done, len(work))
    return rows


def show(preset: str, rows: Sequence[Row], repeats: int) -> Table:
    """Return the rows as they are printed: a line for each size and variant."""
    parts = list(dict.fromkeys(row["part"] for row in rows))
    columns = {"variant": "{variant}", "size": "{size}"}
    columns |= {part: f"{{{part}:.0f}}" for part in parts}
    columns[parts[-1]] += " ({spread_ms:.0f})"
    columns |= {"peak MB": "{peak_mb:.0f}", "waits for data": "{waits:.0%}"}
    lines: dict[tuple[int, str], dict[str, object]] = {}
    for row in rows:
        line = lines.setdefault((row["size"], row["variant"]), {})
        line |= {**row, row["part"]: row["ms"]}
    for line in lines.values():
        line["waits"] = float(str(line["data"])) / float(str(line["step"]))
    about = machine()
    return table(
        f"{preset}: a training step, ms, median of {repeats} (spread)", columns, lines.values(),
        [f"{about['cpu']}, {about['threads']} threads {about['gpu']}"],
    )  # fmt: skip


def _measure(
    config: TrainConfig,
    run: RunConfig,
    shards: Path,
    perceptual: Path | None,
    source: WeightsSource,
    threads: int,
) -> tuple[dict[str, list[float]], float]:
    torch.set_num_threads(threads)
    device = torch.device(run.device)
    chosen = folder.find(shards, config, allow_test=True)
    model = make_model(config, run, device, chosen.layout, source)
    optimizer = Optimizer(model, config)
    training_module = TrainingModule(model)
    net: Perceptual | None = load_perceptual(perceptual, run.device) if perceptual else None
    samples = Samples(
        chosen.groups, config.sampling, config.resolutions, config.seed,
        guide_stride=config.model.guide_stride,
    )  # fmt: skip
    steps: list[Mapping[str, float]] = []
    found = load_samples(samples, 0, run.workers, pin=device.type == "cuda")
    for _ in range(len(samples)):
        clock = Clock(device)
        sample = next(found)
        clock.lap("data")
        optimizer.zero_grad()
        with attention(run.fused_attention):
            (outcome,) = compute_losses(training_module, [sample], config, net, clock, device)
            torch.stack(list(outcome.terms.values())).sum().backward()
        clock.lap("backward")
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        clock.lap("optimizer")
        steps.append({**clock.laps, "step": sum(clock.laps.values())})
    found.close()
    counted: list[Mapping[str, float]] = steps[2:]
    laps = {part: [1e3 * step[part] for step in counted] for part in counted[0]}
    return laps, peak_mb(device)
