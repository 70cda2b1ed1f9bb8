"""The training loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.core.config import to_dict
from pipeline.core.errors import FormatError, TrainingError
from pipeline.losses import LossConfig, Perceptual
from pipeline.model.checkpoint import load, newest, saved
from pipeline.model.fastgha import FastGHA
from pipeline.shards.sampling import Sample, Samples, load_samples
from pipeline.system.files import sweep
from pipeline.system.host import STOPPED, signals
from pipeline.system.locks import locked
from pipeline.system.progress import Progress, silent
from pipeline.train import checkpoint as checkpoints
from pipeline.train import folder
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.log import Log, picture
from pipeline.train.optimizer import Optimizer
from pipeline.train.processes import ProcessGroup
from pipeline.train.report import TrainReport
from pipeline.train.step import (
    Clock,
    Outcome,
    TrainingModule,
    attention,
    compute_losses,
    finite,
    make_model,
)

DEAD_STEPS = 20
"""With no gradient at all for this many steps in a row, no later step would bring one back."""
UNREAD = 16
"""Steps whose numbers a GPU may owe: reading each would keep it from running ahead."""
AS_USUAL = RunConfig()
TERMS = tuple(f.name for f in fields(LossConfig))


def train(
    shards: Path | Sequence[Path],
    out: Path,
    config: TrainConfig,
    run: RunConfig = AS_USUAL,
    *,
    perceptual: Perceptual | None = None,
    origin: Origin | None = None,
    stop_after: int | None = None,
    until: int | None = None,
    allow_test: bool = False,
    progress: Progress = silent,
    announce: Callable[[str], None] = lambda _: None,
) -> TrainReport:
    """Train a model on folders of shards; go on where an earlier run into `out` stopped.

    The result depends on the settings, the shards and the number of samples a step: stopping
    and resuming gives the same bits on a CPU. Started in several processes (torchrun), each
    takes its share of a step's samples, and gradients are averaged.

    Args:
        shards: Folder of shards, or several; see `SamplingConfig.mixture`.
        out: Folder of the run.
        config: Settings.
        run: How to carry it out.
        perceptual: Net of the perceptual term; without one the term is off.
        origin: Weights to begin with; random ones without.
        stop_after: End after this many more steps, with a checkpoint, as a signal would.
        until: End after this step, likewise.
        allow_test: Train also on people whose shards say that they are held out.
        progress: Called after each step, in the first process only.
        announce: Called, in the first process only, if the newest checkpoint was of no use.

    Raises:
        StaleOutputError: If `out` holds a run with other settings or shards, or another process
            works there.
        InputError: If a subject has too few views or timesteps for the settings.
        ConfigError: If people are held out, or shards, mixture and layouts do not fit together.
        FormatError: If no checkpoint of the run, or its stamp, can be read.
        TrainingError: If a loss or gradient is not a finite number, there is no gradient, memory
            ran out, or another process of the run was lost.
    """
    group = ProcessGroup(run.device, run.patience, run.timeout)
    chosen = folder.find(shards, config, allow_test=allow_test)
    with group.explain_failures(), _kept_by_first(group, out):
        with group.main_process_first():
            samples_a_step = folder.claim(out, config, chosen, origin, group.size)
        if group.is_main:
            sweep(out)
        model = make_model(config, run, group.device, chosen.layout)
        optimizer = Optimizer(model, config)
        with group.main_process_first():
            start = _resume(out, model, optimizer, announce)
        if origin is not None and start == 0:
            origin.take_over(model, chosen.layout)
        samples = Samples(
            chosen.groups, config.sampling, config.resolutions, config.seed, samples_a_step,
            config.model.guide_stride,
        )  # fmt: skip
        ends = (
            config.resolutions.total,
            until,
            start + stop_after if stop_after is not None else None,
        )
        loop = _Loop(group, model, optimizer, samples, config, run, perceptual)
        header: dict[str, Any] = {"layout": chosen.layout, "train": to_dict(config)}
        for key, mine in (("people", chosen.people), ("held_out", chosen.held_out)):
            before = frozenset[str]() if origin is None else origin.names(key)
            header[key] = sorted(before | set(mine))
        loop.work(out, start, max(start, min(e for e in ends if e is not None)), header, progress)
    path = newest(out)
    assert path is not None  # written at the end, whatever the end
    return TrainReport(
        out, loop.step, loop.stopped_by, path, loop.step - start, samples_a_step, group.size,
        loop.seconds,
    )  # fmt: skip


@dataclass(frozen=True)
class _Record:
    """A step that was made; its numbers may still be on their way."""

    step: int
    numbers: Tensor
    """See `_Loop._share`."""
    clock: Clock
    subject: str
    size: int
    lr: float


class _Loop:
    """Steps of one run in one process."""

    def __init__(
        self,
        group: ProcessGroup,
        model: FastGHA,
        optimizer: Optimizer,
        samples: Samples,
        config: TrainConfig,
        run: RunConfig,
        perceptual: Perceptual | None,
    ) -> None:
        self.group, self.model, self.optimizer = group, model, optimizer
        self.samples, self.config, self.run, self.perceptual = samples, config, run, perceptual
        self.training_module = group.data_parallel(TrainingModule(model))
        self.mine = group.local_samples(samples.batch)
        self.seconds: dict[str, float] = {}
        self.stopped_by = ""
        self.step = 0
        self._dead = 0
        """Steps in a row without a gradient."""

    def work(
        self, out: Path, start: int, end: int, header: dict[str, Any], progress: Progress
    ) -> None:
        """Go from step `start` to `end`, or until a signal comes to any process."""
        self.step, total = start, self.config.resolutions.total
        stopping = False
        unread: list[_Record] = []
        with _log(self.group, out, start) as log, _signals() as stopped:
            pin = self.group.device.type == "cuda" and torch.cuda.is_available()
            found = load_samples(self.samples, start, self.run.workers, self.mine, pin=pin)
            while self.step < end and not stopping:
                record, sample, outcome = self._step(found, stopped)
                unread.append(record)
                self.step += 1
                kept = self.step % self.run.checkpoint_every == 0 and self.step < end
                alone = self.group.size == 1 and bool(stopped())
                if self._waits or kept or self.step == end or alone or len(unread) == UNREAD:
                    stopping = self._read(unread, log)
                    unread = []
                if log is not None:
                    if self.step == 1:
                        _picture(out, 0, outcome, sample)
                    if self.step % self.run.picture_every == 0 or self.step == total:
                        _picture(out, self.step, outcome, sample)
                if kept:
                    self._save(out, header)
                if self.group.is_main:
                    progress(self.step, total)
            found.close()
            self.stopped_by = (stopped() or "SIGTERM") if stopping else ""
        if self.step > start or newest(out) is None:
            self._save(out, header)
        self.group.barrier()

    @property
    def _waits(self) -> bool:
        """Whether each step is waited for: where nothing runs ahead, and if timing is asked."""
        return self.group.device.type == "cpu" or self.run.timing

    def _step(
        self, found: Generator[Sample], stopped: Callable[[], str]
    ) -> tuple[_Record, Sample, Outcome]:
        clock = Clock(self.group.device if self._waits else None)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * self.config.lr_factor(self.step)
        self.optimizer.zero_grad()
        zero = torch.zeros((), dtype=self._exact, device=self.group.device)
        sums, seen = dict.fromkeys(TERMS, zero), set[str]()
        last: tuple[Sample, Outcome] | None = None
        samples = [next(found) for _ in self.mine]
        clock.lap("data")
        passes = alike(samples, self._together)
        for some in passes:
            with (
                self.group.no_sync(self.training_module, some is not passes[-1]),
                attention(self.run.fused_attention),
            ):
                outcomes = self._backward(some, clock)
            for outcome in outcomes:
                for name, term in outcome.terms.items():
                    sums[name] = sums[name] + term.detach().to(self._exact) / self.samples.batch
                    seen.add(name)
            last = some[-1], outcomes[-1]
        assert last is not None  # every process has a share
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        if self._waits:
            finite({"gradient": norm}, self.step, last[0].subject)
        self.optimizer.step()
        clock.lap("optimizer")
        numbers = self._share(sums, seen, bool(stopped()), norm.detach())
        if self.group.size > 1:
            clock.lap("waiting")
        sample, outcome = last
        size = sample.targets.camera.width
        record = _Record(self.step, numbers, clock, sample.subject, size, self._lr())
        return record, sample, outcome

    @property
    def _together(self) -> int:
        """How many samples may share a pass of the model."""
        return self.run.together or (1 if self.group.device.type == "cpu" else len(self.mine))

    def _backward(self, samples: list[Sample], clock: Clock) -> list[Outcome]:
        outcomes = compute_losses(
            self.training_module,
            samples,
            self.config,
            self.perceptual,
            clock,
            self.group.device,
        )
        if self._waits:
            for sample, outcome in zip(samples, outcomes, strict=True):
                named = {f"{name} loss": term for name, term in outcome.terms.items()}
                finite(named, self.step, sample.subject)
        # What processes share is the mean of their gradients.
        weight = self.group.size / self.samples.batch
        terms = [term for outcome in outcomes for term in outcome.terms.values()]
        total = torch.stack(terms).sum() * weight
        if total.requires_grad:  # not where the one part that learns had no share in the head
            total.backward()
        clock.lap("backward")
        return outcomes

    def _share(self, sums: dict[str, Tensor], seen: set[str], stop: bool, norm: Tensor) -> Tensor:
        """Add up what all processes saw: sums, whether it has each term, stop; then the norm."""
        flags = [float(name in seen) for name in TERMS]
        # Numbers of one process keep all their digits: the log tells two equal runs apart.
        kind = torch.float32 if self.group.size > 1 else self._exact
        told = torch.tensor([*flags, float(stop)], dtype=kind, device=self.group.device)
        numbers = torch.cat([torch.stack(list(sums.values())).to(kind), told])
        return torch.cat([self.group.all_reduce_sum(numbers), norm.to(kind)[None]])

    @property
    def _exact(self) -> torch.dtype:
        """The type that keeps all digits of the log."""
        return torch.float32 if self.group.device.type == "mps" else torch.float64

    def _read(self, records: list[_Record], log: Log | None) -> bool:
        """Look at the numbers of steps that were made, and log them; say whether to stop.

        Raises:
            TrainingError: If one is not finite, or there is no gradient in many steps.
        """
        stopping = False
        count = len(TERMS)
        for record, row in zip(
            records, torch.stack([r.numbers for r in records]).cpu(), strict=True
        ):
            values = [float(x) for x in row]
            terms = {name: values[i] for i, name in enumerate(TERMS) if values[count + i] > 0}
            stopping |= values[2 * count] > 0
            terms["gradient"] = values[-1]
            named = {f"{n} loss" if n in TERMS else n: torch.tensor(x) for n, x in terms.items()}
            finite(named, record.step, record.subject)
            if log is not None:
                facts = {"size": record.size, "lr": record.lr}
                log.write(record.step + 1, terms, record.clock.laps, facts)
            for name, seconds in record.clock.laps.items():
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds
            self._dead = 0 if terms["gradient"] > 0 else self._dead + 1
            if self._dead == DEAD_STEPS:
                raise TrainingError(
                    f"Steps {record.step + 2 - DEAD_STEPS} to {record.step + 1} have no gradient: "
                    "nothing of the head is in the pictures drawn.",
                    "Start again with a lower lr and deform_lr; the pictures in the run's "
                    "folder show when it went wrong.",
                )
        return stopping

    def _lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def _save(self, out: Path, header: dict[str, Any]) -> None:
        if not self.group.is_main:
            return
        path = out / f"step-{self.step:08d}.safetensors"
        checkpoints.save(path, self.model, self.optimizer, {**header, "step": self.step})
        for old in saved(out)[: -checkpoints.KEPT]:
            old.unlink()


def _picture(out: Path, step: int, outcome: Outcome, sample: Sample) -> None:
    path = out / "pictures" / f"step-{step:08d}.jpg"
    picture(path, outcome.inputs, outcome.drawn, sample)


def _resume(
    out: Path,
    model: FastGHA,
    optimizer: Optimizer,
    announce: Callable[[str], None],
) -> int:
    """Return the step to go on from: of the newest checkpoint that is whole.

    Damaged ones that are newer are set aside, so that nothing takes them for the newest.

    Raises:
        FormatError: If there are checkpoints and none is whole; says what is wrong with the newest.
    """
    damaged: dict[Path, FormatError] = {}
    for path in reversed(saved(out)):
        try:
            checkpoint = load(path)
            checkpoints.restore(model, checkpoint.tensors, "model.", path)
            checkpoints.restore_optimizer(optimizer, model, checkpoint, path)
        except FormatError as error:
            damaged[path] = error
            continue
        step = int(checkpoint.header["step"])
        for bad, error in damaged.items():
            aside = bad.with_suffix(".damaged")
            bad.replace(aside)
            announce(f"{error.problem} It is {aside.name} now; going on from step {step}.")
        return step
    if damaged:
        raise next(iter(damaged.values()))
    return 0


def alike(samples: list[Sample], most: int) -> list[list[Sample]]:
    """Group samples that may share a pass of the model, in their order: with as many inputs."""
    groups: list[list[Sample]] = []
    for sample in samples:
        last = groups[-1] if groups else []
        same = bool(last) and last[0].inputs.image.shape == sample.inputs.image.shape
        if same and len(last) < most:
            last.append(sample)
        else:
            groups.append([sample])
    return groups


@contextmanager
def _kept_by_first(group: ProcessGroup, out: Path) -> Generator[None]:
    if not group.is_main:
        yield
        return
    with locked(out):
        yield


@contextmanager
def _log(group: ProcessGroup, out: Path, start: int) -> Generator[Log | None]:
    if not group.is_main:
        yield None
        return
    with Log(out, start) as log:
        yield log


@contextmanager
def _signals() -> Generator[Callable[[], str]]:
    """Return a question whether SIGTERM or SIGINT came; the step in progress ends first."""
    came: list[str] = []

    def note(name: str) -> None:
        if came:  # the second time, the user means it
            raise KeyboardInterrupt
        came.append(name)

    with signals(STOPPED, note):
        yield lambda: came[0] if came else ""
