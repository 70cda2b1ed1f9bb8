"""What a user asks of training: a preset, what is changed of it, and how it is carried out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.config import from_dict, override
from pipeline.core.errors import ConfigError
from pipeline.losses import Perceptual
from pipeline.model.checkpoint import resolve
from pipeline.perception.perceptual import load_perceptual
from pipeline.system import weights
from pipeline.system.progress import Progress, silent
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.device import choose, loader_workers
from pipeline.train.loop import train
from pipeline.train.presets import recipe
from pipeline.train.processes import idle_gpus
from pipeline.train.report import TrainReport

OF_RUN = "run."
"""A change of a setting of this name is one of `RunConfig`."""
PERCEPTUAL = ("vgg16", "mobilenet_v2")


@dataclass(frozen=True)
class Request:
    """A training as a user asks for it."""

    preset: str = "small"
    """As `pipeline.train.presets.recipe` takes it."""
    inputs: int | None = None
    """Pictures that the model gets, always as many; as the preset says if not given."""
    mixture: tuple[float, ...] = ()
    """Weight of each folder of shards; by people if empty."""
    changes: tuple[str, ...] = ()
    """NAME=VALUE of settings; those of `RunConfig` begin with `run.`."""
    perceptual: str | None = None
    """Name or file of the perceptual term's network; the term is off if not given."""
    origin: Path | None = None
    """Run or checkpoint whose weights training begins with."""
    anew: tuple[str, ...] = ()
    """Parts of the model that begin with random weights all the same."""
    only: tuple[str, ...] = ()
    """Parts of the model that learn; all if empty."""
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    """Processes that read ahead; by device and cores if not given."""
    every: int = 500
    """Steps between checkpoints and pictures."""
    allow_test: bool = False
    """Train also on people who are held out."""

    @property
    def assignments(self) -> tuple[str, ...]:
        """All that is changed of the preset, and of how it is carried out."""
        found = list(self.changes)
        if self.inputs is not None:
            found += [f"sampling.inputs={self.inputs}", f"sampling.min_inputs={self.inputs}"]
        if self.mixture:
            found.append(f"sampling.mixture={list(self.mixture)}")
        if self.only:
            found.append(f"only={json.dumps(self.only)}")
        return tuple(found)

    @property
    def of_training(self) -> tuple[str, ...]:
        """What is changed of the preset."""
        return tuple(a for a in self.assignments if not a.startswith(OF_RUN))

    def settings(self) -> tuple[TrainConfig, RunConfig]:
        """Return what fixes the result, and how it is carried out.

        Raises:
            ConfigError: If there is no such preset, setting or device.
        """
        of_run = [a.removeprefix(OF_RUN) for a in self.assignments if a.startswith(OF_RUN)]
        config = override(recipe(self.preset), self.of_training)
        device = choose(self.device)
        workers = loader_workers(device) if self.workers is None else self.workers
        run = {
            "checkpoint_every": self.every,
            "picture_every": self.every,
            "workers": workers,
            "device": device,
            "precision": self.precision,
        }
        return config, override(from_dict(RunConfig, run), of_run)


@dataclass(frozen=True)
class Training:
    """A training that is ready to begin."""

    config: TrainConfig
    run: RunConfig
    origin: Origin | None
    perceptual: Perceptual | None
    allow_test: bool = False

    def begin(
        self,
        shards: list[Path],
        out: Path,
        until: int | None = None,
        progress: Progress = silent,
        announce: Callable[[str], None] = lambda _: None,
    ) -> TrainReport:
        """Train, or go on; see `pipeline.train.loop.train`."""
        return train(
            shards, out, self.config, self.run,
            perceptual=self.perceptual, origin=self.origin, until=until,
            allow_test=self.allow_test, progress=progress, announce=announce,
        )  # fmt: skip


def prepare(
    request: Request,
    announce: Callable[[str], None] = lambda _: None,
    arguments: Sequence[str] | None = None,
) -> Training:
    """Return the training of a request: settings read, weights found, networks loaded.

    Args:
        request: What is wanted.
        announce: Called with what the user may not expect.
        arguments: Words of the command line that asks, if one does: says how to use all GPUs.

    Raises:
        ConfigError: If there is no such preset, setting, device or network.
        InputError: If there is no such checkpoint or file.
    """
    config, run = request.settings()
    idle = idle_gpus(run.device, arguments) if arguments is not None else ""
    if idle:
        announce(idle)
    if request.anew and request.origin is None:
        raise ConfigError("--anew leaves out parts of --from, which is not given.", "Add --from.")
    origin = Origin(resolve(request.origin), request.anew) if request.origin else None
    file = perceptual_file(request.perceptual)
    net = load_perceptual(file, run.device) if file else None
    if net is None and config.loss.perceptual > 0:
        announce("The perceptual term is off: no network was given (--perceptual NAME).")
    return Training(config, run, origin, net, request.allow_test)


def perceptual_file(name: str | None) -> Path | None:
    """Return the file of a perceptual network, which is named or given itself."""
    if name is None:
        return None
    return weights.find(name) if name in PERCEPTUAL else Path(name)
