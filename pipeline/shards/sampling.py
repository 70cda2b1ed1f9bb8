"""Training samples from shards, by the paper's rule, reproducible from a seed and a step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.core.errors import FastGHAError, InputError, WorkerError
from pipeline.core.geometry import farthest_points, jitter
from pipeline.core.types import ExpressionCode, View, map_tensors
from pipeline.faces.guide import Guide, draw_guide
from pipeline.shards.disturb import Damage, Tracking, damage, mistrack
from pipeline.shards.reader import Person, Shard

OPEN = 64
"""Shards that a process keeps open: a data set may have more people than it may open files."""


@dataclass(frozen=True)
class SamplingConfig:
    """How pictures are drawn for a training step. The defaults are the paper's."""

    inputs: int = 4
    """Pictures that the model gets, each of another timestep."""
    min_inputs: int = 4
    """With less than `inputs`, their number is drawn for each step, so that one model serves any
    number of pictures."""
    targets: int = 8
    """Cameras that supervise, all at one other timestep; the inputs' cameras are among them."""
    beside: float = 0.0
    """Share of samples whose inputs all look from one side, as photographs and videos often do,
    and not from the cameras of the targets."""
    frontal: int = 40
    """Of more cameras than this, only so many are used: those before the face."""
    mixture: tuple[float, ...] = ()
    """Weight of each folder of shards; by its number of people if empty."""
    noise_degrees: float = 0.0
    """Standard deviation of the error put on the inputs' cameras, about each axis. The paper
    suggests such errors in training for cameras that are estimated (appendix A.4.4)."""
    noise_mm: float = 0.0
    """The same of the cameras' places, along each axis."""
    tracking: Tracking = field(default_factory=Tracking)
    """Errors of the tracker, put on the inputs' meshes and cameras; for a guided model."""
    damage: Damage = field(default_factory=Damage)
    """Put on the inputs' pictures."""


@dataclass(frozen=True)
class Sample:
    """What one training step sees."""

    inputs: View
    targets: View
    depth: Float[Tensor, "v 1 h w"]
    """Of the targets, metres; 0 where unknown."""
    code: ExpressionCode
    """Of the targets."""
    input_meshes: Float[Tensor, "i n 3"]
    """Face mesh in each input, head frame, metres; n is 0 where there is none."""
    target_mesh: Float[Tensor, "n 3"]
    subject: str
    input_views: tuple[int, ...]
    """Camera numbers of the inputs."""
    target_views: tuple[int, ...]
    """Camera numbers of the targets."""
    guide: Guide | None = None
    """Of the inputs, for a guided model. Errors that are put on cameras leave it as it is: a mesh
    is fitted in its picture, and moves with the camera."""

    def to(self, device: torch.device | str) -> Sample:
        """Return the same sample on another device; from pinned memory without waiting for it."""
        return map_tensors(self, lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Sample:
        """Return the same sample where a GPU can fetch it by itself; `DataLoader` asks for it."""
        return map_tensors(self, lambda x: x.pin_memory())


@dataclass(frozen=True)
class ResolutionSchedule:
    """Picture sizes of a training run: each size for some steps, in order."""

    sizes: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return sum(self.steps)

    def size_at(self, step: int) -> int:
        """Return the picture size of a step, counted from 0."""
        return self.sizes[self.place(step)[0]]

    def place(self, step: int) -> tuple[int, int, int]:
        """Return which size a step has, its number among that size's steps, and how many these are.

        Steps after the last are counted on in the last size.
        """
        last = len(self.sizes) - 1
        for i, steps in enumerate(self.steps):
            if step < steps or i == last:
                return i, step, steps
            step -= steps
        raise AssertionError("a schedule has at least one size")


class Samples(Dataset[Sample | FastGHAError]):
    """The samples of each step; opens files when first asked, so that workers can be spawned.

    Args:
        groups: People of each folder, each with its shards.
        config: How to draw.
        resolutions: Picture size of each step.
        seed: Start of all random numbers.
        batch: Samples a step; number `step * batch + i` is the i-th of a step.
        guide_stride: Of the guide's maps; 0 for a model without.
    """

    def __init__(
        self,
        groups: Sequence[Sequence[Person]],
        config: SamplingConfig,
        resolutions: ResolutionSchedule,
        seed: int,
        batch: int = 1,
        guide_stride: int = 0,
    ) -> None:
        self.groups = groups
        self.config = config
        self.resolutions = resolutions
        self.seed = seed
        self.batch = batch
        self.guide_stride = guide_stride
        self._open: OrderedDict[Path, Shard] = OrderedDict()

    def __len__(self) -> int:
        return self.resolutions.total * self.batch

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: a worker opens its own."""
        return {**self.__dict__, "_open": OrderedDict[Path, Shard]()}

    def __getitem__(self, number: int) -> Sample | FastGHAError:
        """Return a sample, the same for the same seed and number, or why there is none.

        The error is handed over, not raised, so that it comes whole out of a worker process.
        """
        step, i = divmod(number, self.batch)
        rng = np.random.default_rng([self.seed, step, i])
        group = self.groups[0]
        if len(self.groups) > 1:
            weights = np.array(self.config.mixture or [len(group) for group in self.groups], float)
            group = self.groups[int(rng.choice(len(self.groups), p=weights / weights.sum()))]
        person = group[int(rng.integers(len(group)))]
        path = person[int(rng.integers(len(person)))]
        try:
            size = self.resolutions.size_at(step)
            # One number for all samples of a step, which can so go through a model together.
            count = _count(self.config, np.random.default_rng([self.seed, step]))
            return draw(self._shard(path), self.config, size, rng, self.guide_stride, count)
        except FastGHAError as error:
            return error

    def _shard(self, path: Path) -> Shard:
        """Return an open shard; those that were not read for longest are closed."""
        if path not in self._open:
            self._open[path] = Shard(path)
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(path)
        return self._open[path]


def draw(
    shard: Shard,
    config: SamplingConfig,
    size: int,
    rng: np.random.Generator,
    guide_stride: int = 0,
    count: int | None = None,
) -> Sample:
    """Draw one sample of a subject.

    Timesteps whose code is unknown, or that lack so many views that `targets` are not left, are
    passed over.

    Args:
        shard: Of the subject.
        config: How to draw.
        size: Side of the pictures, pixels.
        rng: Source of what is drawn.
        guide_stride: Of the guide's maps; 0 for none.
        count: Number of inputs; drawn too if not given.

    Raises:
        InputError: If the subject has too few views or timesteps.
        FormatError: If a guide is wanted and the shard has no mesh for it.

    Source:
        FastGHA appendix A.2: eight cameras, each the farthest from those before it; four of
        them inputs, from four timesteps of a sentence; all eight supervise one other timestep.
    """
    usable, long_enough = check(shard, config)
    sentence = long_enough[int(rng.integers(len(long_enough)))]
    here = np.flatnonzero((shard.sentences == sentence) & usable)
    if count is None:
        count = _count(config, rng)
    target, *others = (int(t) for t in rng.permutation(here)[: count + 1])
    centers = shard.cameras(target).centers
    there = frontal(centers, np.flatnonzero(shard.valid[target]), config.frontal)
    first = int(rng.integers(len(there)))
    far = farthest_points(centers[there], config.targets, first)
    cameras = [int(there[v]) for v in far]
    # What looks at the back of a head is a target; nobody makes an avatar of such pictures alone.
    wanted = sorted(
        (int(v) for v in rng.permutation(cameras)), key=lambda v: bool(centers[v, 2] < 0)
    )
    chosen = _input_views(shard, others, wanted)
    if config.beside and rng.random() < config.beside:
        chosen = _views_beside(shard, others, chosen[0])
    at_target = [(target, v) for v in cameras]
    inputs = shard.read(list(zip(others, chosen)), size)
    guide = None
    if guide_stride:
        mesh = shard.mesh(others)
        if rng.random() < config.tracking.share:
            codes = shard.code(others)
            mesh, found = mistrack(mesh, inputs.camera, codes, config.tracking, rng)
            inputs = replace(inputs, camera=found)
        guide = draw_guide(mesh, inputs.camera, guide_stride)
    if config.damage.share:
        inputs = damage(inputs, config.damage, rng)
    if config.noise_degrees or config.noise_mm:
        noisy = jitter(inputs.camera, config.noise_degrees, config.noise_mm, rng)
        inputs = replace(inputs, camera=noisy)
    return Sample(
        inputs=inputs,
        targets=shard.read(at_target, size),
        depth=shard.depth(at_target, size),
        code=shard.code(target),
        input_meshes=torch.stack([shard.vertices(t) for t in others]),
        target_mesh=shard.vertices(target),
        subject=shard.subject,
        input_views=chosen,
        target_views=tuple(cameras),
        guide=guide,
    )


def check(
    shard: Shard, config: SamplingConfig
) -> tuple[Bool[np.ndarray, "t"], Int[np.ndarray, "s"]]:
    """Tell which timesteps of a subject are usable, and which sentences are long enough.

    Raises:
        InputError: If none is.
    """
    if not shard.coded.any():
        raise InputError(
            f"{shard.path} has no expression codes, and a model learns from nothing else how a "
            "face moves.",
            "Make it again with codes: `fastgha prep` with --tracking DIR, or --face makehuman.",
        )
    usable = (shard.valid.sum(1) >= config.targets) & shard.coded
    sentences, counts = np.unique(shard.sentences[usable], return_counts=True)
    long_enough = sentences[counts > config.inputs]
    if not len(long_enough):
        raise InputError(
            f"{shard.path} has {shard.views} views and at most {counts.max(initial=0)} usable "
            f"timesteps of one sentence; a sample needs {config.targets} and {config.inputs + 1}.",
            "Lower sampling.inputs or sampling.targets, or leave this shard out.",
        )
    return usable, long_enough


def frontal(
    centers: Float[Tensor, "v 3"], views: Int[np.ndarray, "n"], limit: int
) -> Int[np.ndarray, "m"]:
    """Return those of some views that look at the face most directly, in their order.

    Args:
        centers: Of all cameras, head frame, whose z axis comes out of the face.
        views: Numbers of the cameras to choose from.
        limit: How many to keep.
    """
    if len(views) <= limit:
        return views
    ahead = torch.nn.functional.normalize(centers[views], dim=-1)[:, 2].numpy()
    return views[np.sort(np.argsort(-ahead, kind="stable")[:limit])]


def _count(config: SamplingConfig, rng: np.random.Generator) -> int:
    """Draw a number of inputs."""
    return int(rng.integers(min(config.min_inputs, config.inputs), config.inputs + 1))


def _input_views(shard: Shard, timesteps: list[int], wanted: list[int]) -> tuple[int, ...]:
    """Return a view for each timestep: the first wanted one that is there and not yet taken."""
    chosen: list[int] = []
    for t in timesteps:
        present = [int(v) for v in np.flatnonzero(shard.valid[t]) if v not in chosen]
        chosen.append(next((v for v in wanted if v in present), present[0]))
    return tuple(chosen)


def _views_beside(shard: Shard, timesteps: list[int], first: int) -> tuple[int, ...]:
    """Return a view for each timestep: that which looks most as a view of the first one does."""
    wanted = shard.cameras(timesteps[0]).centers[first]
    chosen: list[int] = []
    for t in timesteps:
        present = np.flatnonzero(shard.valid[t])
        alike = torch.cosine_similarity(shard.cameras(t).centers[present], wanted[None], dim=1)
        chosen.append(int(present[int(alike.argmax())]))
    return tuple(chosen)


def load_samples(
    samples: Samples, start: int, workers: int, mine: range = range(1), *, pin: bool = False
) -> Generator[Sample]:
    """Return samples of the steps from `start` on, in order, read ahead in worker processes.

    Args:
        samples: All there are.
        start: First step.
        workers: Processes that read ahead; 0 reads when asked.
        mine: Which samples of each step.
        pin: Put them where a GPU fetches them by itself.

    Raises:
        FastGHAError: What kept a sample from being made.
        WorkerError: If a worker process was killed.
    """
    loader = DataLoader(
        samples,
        batch_size=None,
        sampler=_Numbers(range(start, samples.resolutions.total), samples.batch, mine),
        num_workers=workers,
        # A forked worker would inherit the locks of numba's and torch's threads.
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=4 if workers else None,
        persistent_workers=workers > 0,
        pin_memory=pin,
        worker_init_fn=_single_thread if workers else None,
    )
    try:
        for found in loader:
            if isinstance(found, FastGHAError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerError(
            "A process that reads shards was killed, probably for want of memory.",
            "Run the same command again with fewer --workers; it goes on where it was.",
        ) from error


class _Numbers(Sampler[int]):
    def __init__(self, steps: range, batch: int, mine: range) -> None:
        self._steps, self._batch, self._mine = steps, batch, mine

    def __iter__(self) -> Generator[int]:
        return (step * self._batch + i for step in self._steps for i in self._mine)


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)
