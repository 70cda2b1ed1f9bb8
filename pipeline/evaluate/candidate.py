"""A model that is to be measured: its weights, and the people it may be measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import ConfigError
from pipeline.evaluate.estimates import estimate, lost
from pipeline.evaluate.protocol import Protocol, Task, tasks
from pipeline.model.checkpoint import Checkpoint, load_model
from pipeline.model.fastgha import FastGHA
from pipeline.system.files import digest
from pipeline.system.progress import Progress, silent

NAMED = 6
"""People that a message names at most."""


@dataclass(frozen=True)
class Candidate:
    """A model, and what it is measured on."""

    model: FastGHA
    chosen: list[Task]
    sha256: str
    """Of its checkpoint."""
    device: str = "cpu"
    marks: tuple[str, ...] = ()
    """What makes its figures no fair ones."""
    notes: tuple[str, ...] = ()
    """What else every table has to say."""


def load_candidate(
    checkpoint: Path,
    protocol: Protocol,
    shards: Path,
    device: str = "cpu",
    *,
    allow_seen: bool = False,
    progress: Progress = silent,
) -> Candidate:
    """Load a model to be measured under a protocol.

    Args:
        checkpoint: File of the model.
        protocol: What it is measured under.
        shards: Folder of shards.
        device: Where it computes.
        allow_seen: Measure it also on people that it was trained on.
        progress: Called while pictures are tracked, if the protocol asks for it.

    Raises:
        ConfigError: If it was trained on people of the protocol and that is not allowed, or as
            `pipeline.evaluate.protocol.tasks`.
    """
    model, loaded = load_model(checkpoint)
    chosen = tasks(protocol, shards, loaded.header["layout"])
    marks = refuse_seen(loaded, chosen, allow=allow_seen)
    notes: tuple[str, ...] = ()
    if protocol.estimated:
        tracked = estimate(protocol, chosen, progress=progress)
        gone = lost(chosen, tracked)
        chosen, notes = tracked, (gone,) if gone else ()
    return Candidate(model.to(device), chosen, digest(checkpoint), device, marks, notes)


def refuse_seen(checkpoint: Checkpoint, chosen: Sequence[Task], *, allow: bool) -> tuple[str, ...]:
    """Refuse to measure a model on people that it was trained on.

    Args:
        checkpoint: Of the model.
        chosen: Whom it is measured on.
        allow: Measure it all the same.

    Returns:
        What a table has to say about the model; nothing if all is as it should be.

    Raises:
        ConfigError: If people were seen in training and that is not allowed.
    """
    measured = {task.subject for task in chosen}
    seen = sorted(measured & checkpoint.people)
    if seen and not allow:
        raise ConfigError(
            f"The model was trained on {len(seen)} of the {len(measured)} people: {listed(seen)}.",
            "Measure it on people who were held out, or add --allow-seen: the table then says so.",
        )
    marks: list[str] = []
    if seen:
        marks.append(f"trained on {len(seen)} of the {len(measured)} people it is measured on")
    if checkpoint.held_out:
        others = len(checkpoint.held_out)
        marks.append(f"trained on {others} people whom their data set holds out")
    return tuple(marks)


def lacking(protocol: Protocol, chosen: Sequence[Task]) -> str:
    """Return what a table has to say if not all people of the protocol are measured."""
    measured = {task.subject for task in chosen}
    absent = [subject for subject in protocol.subjects if subject not in measured]
    if not absent:
        return ""
    return (
        f"Partial: {len(measured)} of the protocol's {len(protocol.subjects)} people; without "
        f"{listed(absent)}."
    )


def listed(names: Sequence[str]) -> str:
    """Return the first names."""
    return ", ".join(names[:NAMED]) + (" ..." if len(names) > NAMED else "")
