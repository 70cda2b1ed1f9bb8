"""Measuring a method under a protocol: avatar by avatar, resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.config import from_dict
from pipeline.core.errors import ConfigError, FormatError, StaleOutputError
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.camera_errors import ErrorKind
from pipeline.evaluate.estimates import read_estimates
from pipeline.evaluate.metrics import Metrics, prepare
from pipeline.evaluate.protocol import Protocol, Task, selection_hash
from pipeline.evaluate.results import Result, summarise
from pipeline.faces.guide import Guide, TrackedMesh
from pipeline.model.fastgha import FastGHA
from pipeline.render import render
from pipeline.shards.reader import Shard
from pipeline.system.files import inside, read_object, read_small, write_text
from pipeline.system.progress import Progress, silent

MEAN_HEAD = "mean head"
LARGEST = 1e6
"""No figure is as large."""
CHUNK = 8
"""Pictures compared at a time."""


@dataclass(frozen=True)
class Scene:
    """What a method may see of a task: the inputs, and what to draw."""

    task: Task
    inputs: View
    input_codes: ExpressionCode
    camera: Camera
    """Of the targets."""
    codes: ExpressionCode
    """Of the targets."""

    def mesh(self) -> TrackedMesh:
        """Read the mesh of the inputs.

        Raises:
            FormatError: If the shard has none that a guided model could take.
        """
        if self.task.estimates is not None:
            return read_estimates(self.task.estimates).mesh
        with Shard(self.task.shard) as shard:
            return shard.mesh([t for t, _ in self.task.inputs])

    def guide(self, model: FastGHA, camera: Camera | None = None) -> Guide | None:
        """Draw the inputs' guide for a model, on its device; nothing for a model without.

        Args:
            model: That takes it.
            camera: Where the mesh is seen from; the inputs' cameras if not given.
        """
        if model.config.guide == "none":
            return None
        guide = model.guide(self.mesh(), self.inputs.camera if camera is None else camera)
        return None if guide is None else guide.to(next(model.parameters()).device)


Method = Callable[[Scene], Float[Tensor, "v 3 h w"]]
"""Draws a scene's targets, RGB in [0, 1] on white."""
Values = dict[str, list[float]]


def scene(task: Task, protocol: Protocol) -> tuple[Scene, Float[Tensor, "v 3 h w"]]:
    """Read what a method may see, and the true pictures."""
    with Shard(task.shard) as shard:
        inputs = shard.read(task.inputs, protocol.size)
        targets = shard.read(task.targets, protocol.size)
        if task.estimates is not None:
            found, count = read_estimates(task.estimates), len(task.inputs)
            return Scene(
                task,
                replace(inputs, camera=found.camera[:count]),
                found.codes[:count],
                found.camera[count:],
                found.codes[count:],
            ), targets.image
        return Scene(
            task,
            inputs,
            shard.code([t for t, _ in task.inputs]),
            targets.camera,
            shard.code([t for t, _ in task.targets]),
        ), targets.image


@torch.no_grad()
def measure(
    method: Method,
    name: str,
    protocol: Protocol,
    chosen: list[Task],
    *,
    checkpoint: str = "",
    device: str = "cpu",
    out: Path | None = None,
    metrics: Metrics | None = None,
    show: Callable[[Scene, Tensor, Tensor], None] | None = None,
    marks: tuple[str, ...] = (),
    progress: Progress = silent,
) -> Result:
    """Compare a method's pictures with the truth.

    Args:
        method: What draws.
        name: How it is called.
        protocol: What to compare.
        chosen: Its tasks.
        checkpoint: SHA-256 of the model.
        device: Where the method draws.
        out: Folder in which each avatar's figures are kept, so that a stopped run goes on.
        metrics: Loaded metrics; those of the protocol if not given.
        show: Called with each scene, what was drawn, and the truth.
        marks: What makes the figures no fair ones.
        progress: Called after each avatar.

    Raises:
        StaleOutputError: If `out` holds figures of another method, protocol or selection.
    """
    metrics = metrics or prepare(protocol)
    selection = selection_hash(chosen)
    stamp = {"method": name, "protocol": protocol.hash, "selection": selection,
             "checkpoint": checkpoint, "nets": metrics.nets}  # fmt: skip
    kept = _Kept(out, stamp, list(metrics.run))
    by_subject: dict[str, Values] = {}
    for done, task in enumerate(chosen, start=1):
        values = kept.read(task)
        if values is None or show is not None:
            seen, truth = scene(task, protocol)
            drawn = method(seen).cpu()
            if show is not None:
                show(seen, drawn, truth)
            values = values or _compare(metrics, drawn, truth)
            kept.write(task, values)
        mine = by_subject.setdefault(task.subject, {key: [] for key in metrics.run})
        for key, numbers in values.items():
            mine[key].extend(numbers)
        progress(done, len(chosen))
    return summarise(name, protocol, selection, checkpoint, by_subject, metrics, device, marks)


def ours(
    model: FastGHA, error: ErrorKind | None = None, level: float = 0.0, seed: int = 0
) -> Method:
    """Return the method that a model is.

    Args:
        model: Makes one avatar of the inputs, and draws it under every code.
        error: Kind of error on the inputs' cameras.
        level: How large it is.
        seed: Start of the errors.
    """

    def draw(seen: Scene) -> Tensor:
        device = next(model.parameters()).device
        inputs, seen_from = seen.inputs, seen.inputs.camera
        if error is not None and level:
            rng = np.random.default_rng([seed, seen.task.avatar, *seen.task.subject.encode()])
            inputs = replace(inputs, camera=error.disturb(inputs.camera, level, rng))
            seen_from = seen_from if error.carries_mesh else inputs.camera
        guide = seen.guide(model, seen_from)
        prepared = model.prepare(model.reconstruct(inputs.to(device), guide))
        white = torch.ones(3, device=device)
        drawn: list[Tensor] = []
        for i, code in enumerate(seen.codes.values):
            gaussians = model.animate(prepared, code.to(device))
            camera = seen.camera[i : i + 1].to(device)
            drawn.append(render(gaussians, camera, background=white).color.cpu())
        return torch.cat(drawn).permute(0, 3, 1, 2).clamp(0, 1)

    return draw


def baselines(chosen: list[Task]) -> dict[str, Method]:
    """Return what any method must beat, by name; a mean head only if there are other people."""
    people = list(dict.fromkeys(task.subject for task in chosen))
    shards = {task.subject: task.shard for task in reversed(chosen)}

    def mean(seen: Scene) -> Tensor:
        at = people.index(seen.task.subject)
        # Neighbours in name are other people; sixteen make a smooth mean.
        others = [Shard(shards[name]) for name in [*people[at + 1 :], *people[:at]][:16]]
        return mean_head(seen.camera, others)

    def nearest(seen: Scene) -> Tensor:
        return nearest_input(seen.inputs, seen.camera)

    def white(seen: Scene) -> Tensor:
        return white_image(seen.camera)

    means: dict[str, Method] = {MEAN_HEAD: mean} if len(people) > 1 else {}
    return {"nearest input view": nearest, **means, "white image": white}


def _compare(metrics: Metrics, drawn: Tensor, truth: Tensor) -> Values:
    values: Values = {name: [] for name in metrics.run}
    for a, b in zip(_chunks(drawn), _chunks(truth)):
        for name, numbers in metrics(a, b).items():
            values[name].extend(numbers)
    return values


def _chunks(pictures: Tensor) -> Iterator[Tensor]:
    return iter(pictures.split(CHUNK))


@dataclass(frozen=True)
class _Values:
    values: dict[str, tuple[float, ...]]


class _Kept:
    """Figures of the avatars that an earlier run has finished."""

    def __init__(self, out: Path | None, stamp: Mapping[str, Any], metrics: Sequence[str]) -> None:
        self._out, self._metrics = out, metrics
        if out is None:
            return
        file = out / "evaluation.json"
        text = json.dumps(stamp, indent=1, sort_keys=True)
        if file.exists() and read_small(file, "a stamp of figures") != text.encode():
            raise StaleOutputError(
                f"{out} holds figures of another method, protocol or selection (see {file}).",
                "Choose another folder.",
            )
        write_text(file, text)

    def read(self, task: Task) -> Values | None:
        """Return what is kept of an avatar; a damaged file is measured again."""
        path = self._path(task)
        if path is None or not path.exists():
            return None
        try:
            values = from_dict(_Values, {"values": read_object(path, "figures")}).values
        except (ConfigError, FormatError):
            return None
        whole = all(
            len(numbers) == len(task.targets) and not any(abs(x) > LARGEST for x in numbers)
            for numbers in values.values()
        )
        same = set(values) == set(self._metrics)
        return {name: list(numbers) for name, numbers in values.items()} if whole and same else None

    def write(self, task: Task, values: Values) -> None:
        path = self._path(task)
        if path is not None:
            write_text(path, json.dumps(values))

    def _path(self, task: Task) -> Path | None:
        return inside(self._out, f"{task.subject}-{task.avatar}.json") if self._out else None
