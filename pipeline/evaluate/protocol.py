"""Protocols: which pictures are compared, and by which networks. Frozen, named and hashed."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.config import check_range, from_dict, to_dict
from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.core.geometry import farthest_points
from pipeline.model.fastgha import MAX_VIEWS
from pipeline.shards.reader import LARGEST, Shard, by_person, find_shards
from pipeline.system.files import read_small

FOLDER = Path(__file__).parent / "protocols"
Pair = tuple[int, int]
"""A timestep and a view of a shard."""


@dataclass(frozen=True)
class PaperRow:
    """Figures that the paper states for a method."""

    table: int
    method: str
    PSNR: float
    SSIM: float
    LPIPS: float
    CSIM: float
    AKD: float


PAPER_METRICS = ("PSNR", "SSIM", "LPIPS", "CSIM", "AKD")
"""Those that the paper states, in its order; every protocol measures them."""


@dataclass(frozen=True)
class Protocol:
    """Everything that decides which pictures are compared and how.

    Source:
        FastGHA section 4 and appendix A.2; `note` says what is the paper's and what is ours.
    """

    name: str
    dataset: str
    note: str
    subjects: tuple[str, ...]
    """Who is measured; everyone in the shards if empty."""
    inputs: int
    same_expression: bool
    """Whether all inputs of an avatar are of one timestep."""
    avatars: int
    """Made of each person."""
    targets: int
    """Pictures compared, over all people."""
    size: int
    """Width and height of the pictures, pixels; the background is white."""
    seed: int
    lpips: str
    csim: str
    akd: str
    """Names of networks; see `pipeline.evaluate.metrics`."""
    metrics: tuple[str, ...] = ()
    """Measured beside the paper's five, as NAME, or NAME:NETWORK if it needs one."""
    estimated: bool = False
    """Whether cameras, codes and meshes are estimated from the pictures, as those of photographs
    are; else those of the shards are taken."""
    paper: tuple[PaperRow, ...] = ()

    def __post_init__(self) -> None:
        check_range("inputs", self.inputs, 1, MAX_VIEWS)
        check_range("avatars", self.avatars, 1, 10_000)
        check_range("targets", self.targets, 1, 10_000_000)
        check_range("size", self.size, 16, LARGEST)
        check_range("seed", self.seed, 0, 2**63)

    @property
    def hash(self) -> str:
        """Return twelve digits that differ if anything that decides the figures differs."""
        deciding = to_dict(self)
        for words in ("name", "note", "paper"):
            del deciding[words]
        for later in ("metrics", "estimated"):
            if not deciding[later]:  # protocols that were frozen before there was the setting
                del deciding[later]
        return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:12]

    @property
    def nets(self) -> dict[str, str]:
        """Return what is measured, each metric with the name of its network, empty if none."""
        paper = {
            "PSNR": "", "SSIM": "", "LPIPS": self.lpips, "CSIM": self.csim, "AKD": self.akd,
        }  # fmt: skip
        return paper | {name: net for name, _, net in (m.partition(":") for m in self.metrics)}


@dataclass(frozen=True)
class Task:
    """One avatar of a protocol: what it is made of and what it is compared with.

    Pictures of a person's several shards are of several avatars, which share the person's targets.
    """

    shard: Path
    subject: str
    avatar: int
    inputs: tuple[Pair, ...]
    targets: tuple[Pair, ...]
    estimates: Path | None = None
    """File of what a tracker says about the pictures; see `pipeline.evaluate.estimates`."""


def names() -> list[str]:
    """Return the names of the protocols that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Protocol:
    """Read a protocol that comes with the package, or a file of one's own.

    Raises:
        ConfigError: If there is none of that name, or a setting is unknown or missing.
        FormatError: If the file is not TOML.
    """
    own = name.endswith(".toml")
    if not own and name not in names():
        raise ConfigError(f"There is no protocol {name}.", f"There are: {', '.join(names())}.")
    path = Path(name) if own else FOLDER / f"{name}.toml"
    try:
        values = tomllib.loads(read_small(path, "a protocol (.toml)").decode())
    except (ValueError, RecursionError) as error:  # TOML's errors and UTF-8's are among them
        raise FormatError(f"{path} is not TOML: {error}.", "Mend the file.") from error
    return from_dict(Protocol, values)


def tasks(protocol: Protocol, folder: Path, layout: str | None) -> list[Task]:
    """Choose the pictures of a protocol in a folder of shards; the same on every machine.

    Inputs are the most frontal camera and those farthest from it and from each other. Targets
    are drawn from cameras and timesteps that no input of the avatar shows. Of people who are not
    there nothing is chosen, and the pictures of the others are those of the whole protocol.

    Args:
        protocol: What to choose.
        folder: The shards.
        layout: Of the codes that the model knows; any if not given.

    Raises:
        InputError: If all people of the protocol are missing, or one has too few views or
            timesteps.
        ConfigError: If the codes of a shard are of another layout, or the pictures too small.
    """
    found = by_person(find_shards(folder))
    wanted = protocol.subjects or tuple(sorted(found))
    missing = [subject for subject in wanted if subject not in found]
    if len(missing) == len(wanted):
        raise InputError(
            f"{folder} has none of the {len(wanted)} people of {protocol.name}: "
            f"{', '.join(missing)}.",
            "Prepare them with `fastgha prep`, or choose another protocol.",
        )
    counts = _shares(protocol.targets, len(wanted) * protocol.avatars)
    chosen: list[Task] = []
    for i, subject in enumerate(wanted):
        if subject in missing:
            continue
        shards = found[subject]
        mine = sum(counts[i * protocol.avatars : (i + 1) * protocol.avatars])
        for avatar, count in enumerate(_shares(mine, max(protocol.avatars, len(shards)))):
            if not count:
                continue
            with Shard(shards[avatar % len(shards)]) as shard:
                _check(shard, protocol, layout)
                chosen.append(_choose(shard, protocol, avatar, count))
    return chosen


def selection_hash(chosen: Sequence[Task]) -> str:
    """Return twelve digits of which pictures were chosen: differs if the shards hold others.

    Of an estimated protocol, it differs too if another tracker was at work.
    """
    listing = [
        [
            task.subject,
            task.inputs,
            task.targets,
            *([task.estimates.name] if task.estimates else []),
        ]
        for task in chosen
    ]
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:12]


def _check(shard: Shard, protocol: Protocol, layout: str | None) -> None:
    if layout is not None and shard.layout != layout:
        raise ConfigError(
            f"{shard.path.name} has codes of {shard.layout}, the model wants {layout}.",
            "Evaluate on shards of the model's layout.",
        )
    if shard.width % protocol.size or shard.width < protocol.size:
        raise ConfigError(
            f"{shard.path.name} has pictures of {shard.width} pixels, {protocol.name} wants "
            f"{protocol.size}.",
            "Prepare larger ones, or pass --size: the result is then of another protocol.",
        )


def _choose(shard: Shard, protocol: Protocol, avatar: int, count: int) -> Task:
    rng = np.random.default_rng([protocol.seed, avatar, *shard.subject.encode()])
    usable = np.flatnonzero((shard.valid.sum(1) > protocol.inputs) & shard.coded)
    needed = 2 if protocol.same_expression else protocol.inputs + 1
    if len(usable) < needed:
        raise InputError(
            f"{shard.path} has {len(usable)} timesteps with a code and more than "
            f"{protocol.inputs} views; {protocol.name} needs {needed}.",
            "Prepare more of this person, or pass fewer --inputs.",
        )
    order = rng.permutation(usable)
    times = [int(t) for t in order[: 1 if protocol.same_expression else protocol.inputs]]
    times = times * protocol.inputs if protocol.same_expression else times
    there = np.flatnonzero(shard.valid[list(set(times))].all(0))
    if len(there) < protocol.inputs:
        raise InputError(
            f"{shard.path}: timesteps {times} share only {len(there)} views.",
            "Leave this person out, or pass fewer --inputs.",
        )
    centers = shard.cameras(times[0]).centers[there]
    ahead = int((centers[:, 2] / centers.norm(dim=-1)).argmax())
    views = [int(there[v]) for v in farthest_points(centers, protocol.inputs, ahead)]
    pairs = [
        (int(t), int(v))
        for t in usable
        for v in np.flatnonzero(shard.valid[t])
        if t not in times and v not in views
    ]
    if not pairs:
        raise InputError(
            f"{shard.path} has no picture that shows neither a view nor a timestep of the inputs.",
            "Leave this person out, or pass fewer --inputs.",
        )
    picked = np.sort(rng.permutation(len(pairs))[:count])
    return Task(
        shard.path,
        shard.subject,
        avatar,
        tuple(zip(times, views)),
        tuple(pairs[i] for i in picked),
    )


def _shares(total: int, parts: int) -> list[int]:
    """Share a number as evenly as whole numbers can be; the first get one more."""
    return [total // parts + (i < total % parts) for i in range(parts)]
