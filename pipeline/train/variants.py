"""All the models of one of the paper's tables: same seeds, same budget, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.config import nearest, override
from pipeline.core.errors import ConfigError
from pipeline.losses import Perceptual
from pipeline.model.checkpoint import resolve
from pipeline.system.progress import Progress, silent
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.loop import train
from pipeline.train.presets import recipe
from pipeline.train.report import TrainReport

FULL, ONE_SHOT = "full", "one-shot"
TABLES: dict[int, tuple[str, ...]] = {
    3: (FULL, "no-vae-weights", "no-geo", "no-features", "sapiens"),
    5: (FULL, "no-dino", "features-16", "features-64"),
    6: (FULL, ONE_SHOT),
    11: (FULL, "no-colour-offsets"),
}
"""Variants of each table, and of Figure 11."""


@dataclass(frozen=True)
class Scale:
    """How large a table's models are, and how long they train."""

    preset: str
    sizes: tuple[int, ...]
    steps: tuple[int, ...]
    one_shot_steps: int


SCALES = {
    "paper": Scale("paper", (512,), (400_000,), 30_000),
    "small": Scale("small", (64,), (400,), 150),
    "tiny": Scale("tiny", (64,), (100,), 50),
}
"""paper: as the paper; small: an afternoon on two CPU cores; tiny: minutes."""


def plan(table: int, scale: str, seed: int) -> tuple[dict[str, TrainConfig], dict[str, str]]:
    """Return the settings of each variant, and which variants are left out and why.

    Raises:
        ConfigError: If there is no such table or scale.
    """
    if table not in TABLES:
        raise ConfigError(
            f"Table {table} is not about training.",
            f"There are: {', '.join(map(str, TABLES))} (11 is the figure).",
        )
    if scale not in SCALES:
        raise ConfigError(f"There is no scale {scale!r}.", nearest(scale, list(SCALES)))
    size = SCALES[scale]
    configs: dict[str, TrainConfig] = {}
    left_out: dict[str, str] = {}
    for variant in TABLES[table]:
        name = size.preset if variant in (FULL, ONE_SHOT) else f"{size.preset}/{variant}"
        try:
            config = recipe(name)
        except ConfigError as error:
            left_out[variant] = error.problem
            continue
        config = replace(config, sizes=size.sizes, steps=size.steps, seed=seed)
        if size.preset != "paper":
            config = replace(config, peaks=(1.0,))
        if variant == ONE_SHOT:
            sampling = replace(config.sampling, inputs=1, min_inputs=1)
            config = replace(config, sampling=sampling, steps=(size.one_shot_steps,))
        configs[variant] = config
    return configs, left_out


def run_of(out: Path, variant: str, seed: int) -> Path:
    """Return the folder of a variant's run."""
    return out / variant / f"seed-{seed}"


def refuse_choices(table: int, **chosen: object) -> None:
    """Refuse what a user chose for one training, and a table decides itself.

    Args:
        table: Number in the paper.
        chosen: Name of an option to what was given; None or empty if it was left out.

    Raises:
        ConfigError: If any was given.
    """
    names = {"origin": "from"}
    given = [f"--{names.get(name, name)}" for name, value in chosen.items() if value]
    if given:
        raise ConfigError(
            f"Table {table} decides what its models are and begin with, so it takes no "
            f"{' or '.join(given)}.",
            f"Leave {'it' if len(given) == 1 else 'them'} out; --scale, --steps, --mixture and "
            "--set change all of its models.",
        )


def train_table(
    table: int,
    shards: Path | list[Path],
    out: Path,
    scale: str,
    seeds: int,
    run: RunConfig,
    *,
    changes: Sequence[str] = (),
    until: int | None = None,
    perceptual: Perceptual | None = None,
    allow_test: bool = False,
    announce: Callable[[str], None] = lambda _: None,
    progress: Progress = silent,
) -> list[TrainReport]:
    """Train every variant of a table with every seed; finished ones are passed over.

    The runs of several tables may share a folder: `full` is then trained once.

    Args:
        table: Number in the paper.
        shards: What to train on.
        out: Folder of the runs: `<out>/<variant>/seed-<n>`.
        scale: Name of `SCALES`.
        seeds: How many.
        run: How each run is carried out.
        changes: NAME=VALUE of settings, of every model.
        until: End every model after this step.
        perceptual: Net of the perceptual term.
        allow_test: Train also on people whose shards say that they are held out.
        announce: Called with what begins, and what is left out.
        progress: Called after each step of a run.

    Returns:
        The reports of the runs, those that were stopped by a signal last.
    """
    reports: list[TrainReport] = []
    for seed in range(seeds):
        configs, left_out = plan(table, scale, seed)
        if seed == 0:
            for variant, why in left_out.items():
                announce(f"{variant} is left out: {why}")
        for variant, config in configs.items():
            announce(f"{variant}, seed {seed}")
            config = replace(override(config, changes), seed=seed)
            origin = None
            if variant == ONE_SHOT:
                origin = Origin(resolve(run_of(out, FULL, seed)))
            reports.append(
                train(shards, run_of(out, variant, seed), config, run,
                      perceptual=perceptual, origin=origin, until=until,
                      allow_test=allow_test, progress=progress, announce=announce)
            )  # fmt: skip
            if reports[-1].stopped_by:
                return reports
    return reports
