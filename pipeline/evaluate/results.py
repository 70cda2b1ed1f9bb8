"""Figures of one method under one protocol: kept, averaged, with intervals over people."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.core.config import from_dict, short
from pipeline.core.errors import ConfigError, FormatError
from pipeline.evaluate.metrics import Metrics
from pipeline.evaluate.protocol import Protocol
from pipeline.system.files import read_object

DRAWS = 2000
"""Bootstrap draws of people for an interval."""
FORMAT = "fastgha-evaluation"


@dataclass(frozen=True)
class Figure:
    """One metric of one method."""

    mean: float
    """Over all pictures."""
    low: float
    high: float
    """Ends of the bootstrap 95 % interval over people."""
    count: int
    """Pictures."""
    failed: int
    """Pictures in which a face was not found, in the drawn one or the true one; not averaged."""

    @property
    def half(self) -> float:
        """The longer half of the interval."""
        return max(self.high - self.mean, self.mean - self.low)


@dataclass(frozen=True)
class Result:
    """All metrics of one method under one protocol."""

    method: str
    protocol: str
    protocol_hash: str
    selection: str
    """Hash of the pictures that were compared."""
    checkpoint: str
    """SHA-256; empty if the pictures came from elsewhere."""
    subjects: int
    figures: dict[str, Figure]
    heads: dict[str, str]
    missing: dict[str, str]
    nets: dict[str, str]
    machine: dict[str, str]
    marks: tuple[str, ...] = ()
    """What makes the figures no fair ones, such as people seen in training."""
    people: dict[str, dict[str, float]] = field(default_factory=dict)
    """Mean of each metric over each person's pictures, where it has any; none in older files."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {"format": FORMAT, **asdict(self)}


def summarise(
    method: str,
    protocol: Protocol,
    selection: str,
    checkpoint: str,
    values: Mapping[str, Mapping[str, Sequence[float]]],
    metrics: Metrics,
    device: str,
    marks: tuple[str, ...] = (),
) -> Result:
    """Average values over all pictures, with intervals over people.

    Args:
        method: How the method is called.
        protocol: What was measured.
        selection: Hash of the pictures.
        checkpoint: SHA-256 of the model.
        values: By person, by metric, one number a picture; nan where there was no face.
        metrics: How they were measured.
        device: Where pictures were drawn.
        marks: What makes the figures no fair ones.
    """
    figures = {
        name: interval([values[subject][name] for subject in values], protocol.seed)
        for name in metrics.run
    }
    return Result(
        method, protocol.name, protocol.hash, selection, checkpoint, len(values), figures,
        metrics.heads, metrics.missing, metrics.nets, machine(device), marks, _by_person(values),
    )  # fmt: skip


def _by_person(
    values: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, dict[str, float]]:
    return {
        person: {
            name: float(np.nanmean(numbers))
            for name, numbers in metrics.items()
            if not np.isnan(numbers).all()
        }
        for person, metrics in values.items()
    }


def interval(by_subject: Sequence[Sequence[float]], seed: int) -> Figure:
    """Return mean and bootstrap 95 % interval: people are drawn again, not pictures.

    Pictures of one person fail and succeed together, so only the number of people tells how far
    a mean can be trusted.
    """
    people = [np.asarray(values, float) for values in by_subject]
    found = [values[~np.isnan(values)] for values in people]
    sums = np.array([values.sum() for values in found])
    counts = np.array([len(values) for values in found])
    total = int(sum(len(values) for values in people))
    if not counts.sum():
        return Figure(float("nan"), float("nan"), float("nan"), 0, total)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(people), size=(DRAWS, len(people)))
    means = sums[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)
    low, high = np.percentile(means, [2.5, 97.5])
    count = int(counts.sum())
    return Figure(float(sums.sum() / count), float(low), float(high), count, total - count)


def machine(device: str) -> dict[str, str]:
    """Name what the figures were made with."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else ""
    return {
        "fastgha": version("fastgha"),
        "torch": torch.__version__,
        "torchmetrics": version("torchmetrics"),
        "python": platform.python_version(),
        "device": gpu or f"cpu, {torch.get_num_threads()} threads",
    }


def read(path: Path) -> Result:
    """Read a result that `--json` wrote.

    Raises:
        InputError: If there is no file.
        FormatError: If it is not a result.
    """
    what = "a result of `fastgha eval` (--json)"
    try:
        values = read_object(path, what)
        kind = values.pop("format", None)
        values.pop("baselines", None)  # each a result of its own
        if kind != FORMAT:
            raise FormatError(f"Its format is {short(kind)}.", "")
        return from_dict(Result, values)
    except (FormatError, ConfigError) as error:
        raise FormatError(
            f"{path} is not a result of `fastgha eval`.", "Give what --json wrote."
        ) from error


def comparable(results: Sequence[Result]) -> None:
    """Refuse to put results of different pictures into one column.

    Raises:
        ConfigError: If protocols, pictures or networks differ.
    """
    first = results[0]
    for other in results[1:]:
        if (other.protocol_hash, other.selection) != (first.protocol_hash, first.selection):
            raise ConfigError(
                f"{other.method} was measured under {other.protocol} ({other.protocol_hash}, "
                f"pictures {other.selection}), {first.method} under {first.protocol} "
                f"({first.protocol_hash}, pictures {first.selection}).",
                "Only results of one protocol on the same pictures stand in one table.",
            )
        for net in set(first.nets) & set(other.nets):
            if first.nets[net] != other.nets[net]:
                raise ConfigError(
                    f"{first.method} and {other.method} were measured with different files {net}.",
                    "Measure both with the same weights.",
                )
