"""A run of prep: which captures, which cameras and timesteps of each, and where items go.

Out   <out>/work/<capture>/plan.json   what is to be made of a capture
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from pipeline.captures.capture import Capture, Timestep
from pipeline.captures.frontal import frontal_cameras
from pipeline.captures.registry import DatasetReader, find_captures, get_reader, open_capture
from pipeline.core.config import check_range, from_dict
from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.core.framing import HEAD_CROP_M
from pipeline.perception.detectors import DetectorEntry, get_detector
from pipeline.perception.matting import MattingModel, get_matting
from pipeline.prep.codes import Ways, face_model, settle
from pipeline.prep.items import WORK, item_path
from pipeline.shards.schema import Split
from pipeline.system.files import inside, read_object, write_text

PLAN = "plan.json"
Announce = Callable[[str], None]
TOLD = 4
"""Gaps of a capture that are said before work; all are in its report."""
NO_DETECTOR = "none"
"""Name that asks for no landmarks."""


@dataclass(frozen=True)
class PrepConfig:
    """What is made of raw captures."""

    source: str
    """Data set, by the name of its reader."""
    size: int = 512
    """Width and height of the crops, pixels."""
    metres: float = HEAD_CROP_M
    """Side of the crops at the head."""
    cameras: int = 40
    """At most so many, the most frontal ones; 0 takes all."""
    segments: str = "*"
    """Pattern of the sentences to take, as of file names."""
    every: int = 1
    """Take one timestep of so many, in each sentence."""
    max_timesteps: int = 0
    """Take at most so many timesteps of a capture; 0 takes all."""
    matting: str = "modnet"
    """Network for pictures whose data set ships no matte."""
    detector: str = "mesh"
    """2D landmarks: the face mesh, face-alignment (fan), or none."""
    min_cover: float = 0.02
    """A view whose head covers less of the crop, in [0, 1], is dropped."""
    flame: str = ""
    """Converted FLAME model: the head poses of captures that were tracked with FLAME need it."""
    tracking: str = ""
    """Folder of what a tracker left: the codes are its."""
    face: str = ""
    """Head model that is fitted to what several calibrated views see, for codes, head poses and
    mesh: `makehuman`, or a converted FLAME model; empty for no fit. Where no camera is known a
    head is fitted in any case, if this is empty the one of the package."""
    need_codes: bool = True
    """Drop timesteps without an expression code: training needs them."""
    split: Literal["train", "test", "all"] = "all"
    """Whose captures to take: those that are trained on, those held out, or both."""

    def __post_init__(self) -> None:
        check_range("size", self.size, 16, 2**13)
        check_range("metres", self.metres, 0.01, 100)
        check_range("every", self.every, 1, 2**31)
        check_range("cameras", (self.cameras, self.max_timesteps), 0, 2**31)
        check_range("min_cover", self.min_cover, 0, 1)
        if get_reader(self.source).held_out is None and self.split != "all":
            raise ConfigError(
                f"Nobody of {self.source} is held out by a list, so there is no {self.split} "
                "split.",
                "Leave --split out, and keep the shards of people to be measured in a folder of "
                "their own.",
            )
        get_matting(self.matting)
        if self.detector != NO_DETECTOR:
            get_detector(self.detector)
        elif self.face:
            raise ConfigError("Our own fit (--face) needs landmarks.", "Leave out --detector none.")

    @property
    def ways(self) -> Ways:
        """Where codes and head poses may come from."""
        return Ways(self.tracking, self.face, self.flame, self.need_codes)


@dataclass(frozen=True)
class Plan:
    """What is to be made of one capture."""

    capture: str
    raw: str
    subject: str
    color: str
    cameras: tuple[str, ...]
    timesteps: tuple[Timestep, ...]
    missing: Mapping[str, str]
    facts: Mapping[str, str]
    unexpected: tuple[str, ...] = ()
    """Of what is missing, what may be a broken download."""
    split: Split = ""
    """Whether the person is trained on or held out."""


@dataclass
class Job:
    """A folder of results with its settings; goes to workers, who open their own captures.

    What is chosen by name goes along: a worker need not know what else was registered.
    """

    out: Path
    config: PrepConfig
    plans: dict[str, Plan]
    reader: DatasetReader
    matting: Callable[[], MattingModel]
    detector: DetectorEntry | None
    """None if no landmarks are asked for."""
    device: str = "cpu"
    """Where networks run that can."""
    _open: dict[str, Capture] = field(default_factory=lambda: dict[str, Capture]())

    @classmethod
    def of(cls, out: Path, config: PrepConfig, plans: dict[str, Plan], device: str = "cpu") -> Self:
        """Return the job of some settings, with the reader and networks that they name."""
        name = config.detector
        detector = None if name == NO_DETECTOR else get_detector(name)
        reader, matting = get_reader(config.source), get_matting(config.matting)
        return cls(out, config, plans, reader, matting, detector, device)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {**self.__dict__, "_open": {}}

    def capture(self, name: str) -> Capture:
        """Return an open capture."""
        if name not in self._open:
            for other in self._open.values():
                other.close()
            self._open = {name: self.reader.open(Path(self.plans[name].raw))}
        return self._open[name]

    def path(self, stage: str, capture: str, index: int) -> Path:
        """Return where the item of a timestep (by its number in the plan) belongs."""
        return item_path(self.out, capture, stage, self.plans[capture].timesteps[index].name)

    def todo(self, stage: str) -> tuple[list[tuple[str, int]], int]:
        """Return capture and number of each timestep that is to be made, and how many there are."""
        every = [(name, i) for name, plan in self.plans.items() for i in range(len(plan.timesteps))]
        left = [key for key in every if not self.path(stage, *key).exists()]
        return left, len(every) - len(left)


@dataclass(frozen=True)
class _Steps:
    """Timesteps as a plan's file has them: sentence and index."""

    timesteps: tuple[tuple[str, int], ...]


def make_plan(capture: Capture, raw: Path, config: PrepConfig, alone: bool = True) -> Plan:
    """Choose cameras and timesteps of a capture, and where its codes come from.

    Args:
        capture: The capture.
        raw: Where it is.
        config: What is wanted.
        alone: Whether it is the only one of the run.

    Raises:
        InputError: If no sentence fits the pattern, a name cannot be a file's, or there is no way
            to codes or head poses.
    """
    chosen: list[Timestep] = []
    for sentence in capture.sentences():
        if fnmatch.fnmatchcase(sentence, config.segments):
            steps = [t for t in capture.timesteps if t.sentence == sentence]
            chosen += steps[:: config.every]
    if not chosen:
        raise InputError(
            f"No sentence of {capture.name} fits {config.segments!r}.",
            f"There are: {', '.join(capture.sentences()[:12])}.",
        )
    inside(Path(), capture.name, capture.subject, *(step.name for step in chosen))
    cameras = capture.cameras
    if 0 < config.cameras < len(cameras):
        front = frontal_cameras(capture, config.cameras)
        cameras = tuple(name for name in capture.cameras if name in front)
    steps = tuple(chosen[: config.max_timesteps] if config.max_timesteps else chosen)
    missing, facts = dict(capture.missing()), dict(capture.facts)
    if get_reader(config.source).calibrated:
        settled = settle(capture, cameras, steps, config.ways, alone)
        facts["codes"] = settled.words
        missing |= {name: "the tracking has no such frame" for name in settled.gaps}
    elif config.face:
        face_model(config.face)  # a file that cannot be used is refused before any work
    return Plan(
        capture.name, str(raw.resolve()), capture.subject, capture.color, cameras, steps,
        missing, facts, tuple(f"{name}: {why}" for name, why in capture.unexpected().items()),
        split_of(config.source, capture.subject),
    )  # fmt: skip


def split_of(source: str, subject: str) -> Split:
    """Return whether a person of a data set is trained on or held out; empty without a list."""
    held_out = get_reader(source).held_out
    if held_out is None:
        return ""
    return "test" if held_out(subject) else "train"


def plan_all(
    root: Path, config: PrepConfig, announce: Announce = lambda _: None
) -> dict[str, Plan]:
    """Return the plans of all captures under a folder, without writing anything.

    Of several captures, those that nothing can be made of are left out.

    Args:
        root: The folder.
        config: What is wanted.
        announce: Called with where codes come from, and with what is left out.

    Raises:
        InputError: If nothing can be made of any; says why of the first.
    """
    plans: dict[str, Plan] = {}
    faults: list[InputError] = []
    found = find_captures(config.source, root)
    for path in found.values():
        capture = open_capture(config.source, path)
        if config.split not in ("all", split_of(config.source, capture.subject)):
            capture.close()
            continue
        try:
            plan = make_plan(capture, path, config, len(found) == 1)
        except InputError as error:
            faults.append(error)
            continue
        finally:
            capture.close()
        plans[plan.capture] = plan
        if "codes" in plan.facts:
            announce(f"{plan.capture}: codes: {plan.facts['codes']}.")
        for gap in plan.unexpected[:TOLD]:
            announce(f"{plan.capture}: missing: {gap}.")
        if len(plan.unexpected) > TOLD:
            more = len(plan.unexpected) - TOLD
            announce(f"{plan.capture}: {more} more are missing; the report names them.")
    if not plans and not faults:
        raise InputError(
            f"None of the {config.source} captures in {root} is of the {config.split} split.",
            "Choose another --split; pipeline/captures/splits.py lists who is held out.",
        )
    if not plans:
        raise faults[0]
    for fault in faults:
        announce(f"Left out: {fault.problem}")
    return plans


def save_plan(out: Path, plan: Plan) -> None:
    """Write a plan, so that later stages find it."""
    plain = {**plan.__dict__, "timesteps": [[t.sentence, t.index] for t in plan.timesteps]}
    text = json.dumps(plain, indent=1, sort_keys=True)
    write_text(inside(out / WORK, plan.capture) / PLAN, text)


def load_plans(out: Path) -> dict[str, Plan]:
    """Read the plans of a folder; there may be none yet.

    Raises:
        FormatError: If one is damaged.
    """
    plans: dict[str, Plan] = {}
    for path in sorted((out / WORK).glob(f"*/{PLAN}")):
        plain = read_object(path, "the plan of a capture")
        try:
            steps = from_dict(_Steps, {"timesteps": plain.get("timesteps")}).timesteps
            named = [{"sentence": sentence, "index": index} for sentence, index in steps]
            plan = from_dict(Plan, {**plain, "timesteps": named})
            # Names of files are made of them.
            inside(Path(), plan.capture, plan.subject, *(step.name for step in plan.timesteps))
            if "\0" in plan.raw or plan.capture != path.parent.name:
                raise ConfigError(f"It is of {plan.capture}.", "")
        except (ConfigError, InputError) as error:
            raise FormatError(
                f"{path} is damaged: {error.problem}", "Run the recipe again."
            ) from error
        plans[path.parent.name] = plan
    return plans
