"""The folder of a run: whose it is, and which shards it is trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.core.config import short, to_dict
from pipeline.core.errors import ConfigError, FormatError, StaleOutputError
from pipeline.model.checkpoint import newest
from pipeline.shards.reader import Person, Shard, by_person, find_shards
from pipeline.shards.sampling import check
from pipeline.system.files import digest, read_object, write_text
from pipeline.train.checkpoint import Origin
from pipeline.train.config import TrainConfig

RUN = "run.json"
MAX_SAMPLES = 2**20
"""Of a step."""


@dataclass(frozen=True)
class TrainingSet:
    """What a run is trained on."""

    groups: tuple[tuple[Person, ...], ...]
    """People of each folder, each with its shards."""
    layout: str
    """Of all their codes."""
    people: tuple[str, ...]
    """Who they are, sorted."""
    held_out: tuple[str, ...] = ()
    """Those of them who are held out by their shards, and trained on all the same."""

    @property
    def shards(self) -> list[list[Path]]:
        """The shards of each folder, by name."""
        return [sorted(path for person in group for path in person) for group in self.groups]


def find(
    shards: Path | Sequence[Path], config: TrainConfig, *, allow_test: bool = False
) -> TrainingSet:
    """Return what a run is trained on.

    Args:
        shards: Folder of shards, or several.
        config: Settings of the run.
        allow_test: Take people who are held out too.

    Raises:
        InputError: If a folder has no shards, or a shard has too few views or timesteps.
        FormatError: If the model is guided and a shard has no mesh for it.
        ConfigError: If the layouts differ, people are held out, or the mixture does not fit the
            folders.
    """
    folders = [shards] if isinstance(shards, Path) else list(shards)
    found = [find_shards(folder) for folder in folders]
    mixture = config.sampling.mixture
    if mixture and len(mixture) != len(found):
        raise ConfigError(
            f"sampling.mixture {list(mixture)} does not fit {len(found)} folders of shards.",
            "Give a weight for each folder.",
        )
    layouts: dict[str, Path] = {}
    splits: dict[str, set[str]] = {}
    for path in (path for group in found for path in group):
        with Shard(path) as shard:
            check(shard, config.sampling)
            layouts.setdefault(shard.layout, path)
            splits.setdefault(shard.subject, set()).add(shard.split)
    if len(layouts) > 1:
        (a, first), (b, second), *_ = layouts.items()
        raise ConfigError(
            f"{first.name} has codes of {a}, {second.name} of {b}.",
            "Train on shards of one expression layout.",
        )
    held_out = tuple(sorted(subject for subject, split in splits.items() if "test" in split))
    if held_out and not allow_test:
        raise ConfigError(
            f"{len(held_out)} of {len(splits)} people are held out to be measured: "
            f"{', '.join(held_out[:6])}{' ...' if len(held_out) > 6 else ''}.",
            "Train on shards of `fastgha prep ... --split train`; to train on them all the same, "
            "add --allow-test: every table of the model then says so.",
        )
    if config.model.guide == "mesh":
        for path in (path for group in found for path in group):
            with Shard(path) as shard:
                shard.mesh([0])
    groups = tuple(tuple(by_person(group).values()) for group in found)
    return TrainingSet(groups, next(iter(layouts)), tuple(sorted(splits)), held_out)


def claim(
    out: Path, config: TrainConfig, chosen: TrainingSet, origin: Origin | None, processes: int
) -> int:
    """Stamp the run's folder with its settings and shards, or refuse another run's folder.

    Returns:
        Samples a step of the run: `config.batch` for each of the processes that began it.

    Raises:
        StaleOutputError: If the folder holds another run.
        FormatError: If the stamp is damaged.
    """
    made_of: dict[str, Any] = {
        # How many processes share the samples of a step may change, their number not.
        "settings": to_dict(replace(config, batch=1)),
        "shards": [[path.name for path in group] for group in chosen.shards],
        "samples_a_step": config.batch * processes,
    }
    if origin is not None:
        made_of["origin"] = {"sha256": digest(origin.checkpoint), "anew": list(origin.anew)}
    stamp = out / RUN
    if stamp.exists():
        try:
            found = read_object(stamp, "the stamp of a run")
            samples = found.get("samples_a_step")
            if type(samples) is not int or not 1 <= samples <= MAX_SAMPLES:
                raise FormatError(f"samples_a_step is {short(samples)}.", "")
        except FormatError as error:
            raise FormatError(
                f"{stamp} is damaged: it does not say which run the folder holds.",
                "Restore it, or choose another folder.",
            ) from error
        if found != {**made_of, "samples_a_step": samples}:
            raise StaleOutputError(
                f"{out} holds a run with other settings or shards (see {stamp}).",
                "Choose another folder, or the settings of that run to go on with it.",
            )
        return samples
    if newest(out):
        raise StaleOutputError(f"{out} holds checkpoints of another run.", "Choose another folder.")
    text = json.dumps(made_of, indent=1, sort_keys=True)
    write_text(stamp, text)
    return config.batch * processes
