"""What the tracker says about the pictures of a protocol: cameras, codes and the person's mesh.

It takes longer than to measure a model, so it is kept: a file for each avatar, named by all that
decides it, the tracker itself included. A second model is measured on what is there.

Letters: v inputs, t targets, m control vertices.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool

from pipeline import perception, tracking
from pipeline.core.errors import CameraError, ConfigError, FormatError, InputError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.evaluate.protocol import Pair, Protocol, Task
from pipeline.faces.guide import TrackedMesh
from pipeline.io.raw_files import read_npz
from pipeline.io.sheets import to_bytes
from pipeline.perception.detectors import get_detector
from pipeline.perception.landmarks import Detector
from pipeline.perception.points import PointsSeen
from pipeline.prep.photos import DETECTOR, MAX_MISFIT
from pipeline.shards.reader import Shard
from pipeline.system import weights
from pipeline.system.assets import EYES, POINTS
from pipeline.system.files import digest, write_whole
from pipeline.system.progress import Progress, silent
from pipeline.tracking.bundle import BundleConfig
from pipeline.tracking.tracker import HeadTracker, TrackedHead, TrackerConfig

CROPS = TrackerConfig(BundleConfig(same_width=10.0))
"""Pictures of shards are crops of one size, which says nothing about their lenses."""
NETS = ("face_detection_back", "face_landmark")
"""Weight files of the detector."""


@dataclass(frozen=True)
class Estimates:
    """What was found in one avatar's pictures."""

    found: Bool[np.ndarray, "n"]
    """Which of the protocol's pictures were tracked: its inputs, then its targets."""
    camera: Camera
    """[v + t], of those that were: from the tracked head, for pictures of the protocol's size."""
    codes: ExpressionCode
    """[v + t]"""
    mesh: TrackedMesh
    """In the inputs [v]."""


def estimate(
    protocol: Protocol,
    chosen: Sequence[Task],
    *,
    folder: Path | None = None,
    make: Callable[[], tuple[Detector, HeadTracker]] | None = None,
    progress: Progress = silent,
) -> list[Task]:
    """Track the pictures of tasks, or find the files of an earlier run that did.

    Args:
        protocol: How large the pictures are.
        chosen: The tasks.
        folder: Where the files are kept; in the user's cache if not given.
        make: Makes detector and tracker, if any picture is to be tracked; the default ones if not
            given.
        progress: Called after each avatar.

    Returns:
        The tasks with their files, and with the pictures alone that were tracked. An avatar that
        has no input or no target left is left out.

    Raises:
        InputError: If nothing is left.
        MissingWeightsError: If the detector's weights are not on this machine.
    """
    folder = folder or weights.cache_home() / "tracked"
    tools: tuple[Detector, HeadTracker] | None = None
    left: list[Task] = []
    for done, task in enumerate(chosen, start=1):
        path = folder / f"{_key(protocol, task)}.npz"
        if not path.is_file():
            tools = tools or (make or _tools)()
            _write(path, _track(protocol, task, *tools))
        found = read_estimates(path).found
        inputs, targets = (_kept(pairs, which) for pairs, which in (
            (task.inputs, found[: len(task.inputs)]), (task.targets, found[len(task.inputs) :])
        ))  # fmt: skip
        if inputs and targets:
            left.append(replace(task, inputs=inputs, targets=targets, estimates=path))
        progress(done, len(chosen))
    if not left:
        raise InputError(
            "The tracker finds nobody in these pictures.", "Take a protocol that is not estimated."
        )
    return left


def lost(before: Sequence[Task], after: Sequence[Task]) -> str:
    """Return what a table has to say about pictures that were not tracked; empty if all were."""
    inputs, targets = (
        sum(len(getattr(task, part)) for task in before)
        - sum(len(getattr(task, part)) for task in after)
        for part in ("inputs", "targets")
    )
    if not inputs and not targets:
        return ""
    return (
        f"Not tracked, so left out: {inputs} of {sum(len(task.inputs) for task in before)} inputs "
        f"and {targets} of {sum(len(task.targets) for task in before)} pictures to compare."
    )


def refuse(protocol: Protocol, what: str) -> None:
    """Refuse an estimated protocol where the shards' own cameras are given out.

    Raises:
        ConfigError: If the protocol is one.
    """
    if protocol.estimated:
        raise ConfigError(
            f"Protocol {protocol.name} estimates cameras and codes itself: {what}.",
            "Take synthetic-mixed.",
        )


def read_estimates(path: Path) -> Estimates:
    """Read the estimates of one avatar.

    Raises:
        FormatError: If the file is not whole.
    """
    try:
        arrays = read_npz(path)
        E, K, codes = (torch.from_numpy(arrays[name]) for name in ("E", "K", "codes"))
        size, layout = int(arrays["size"]), str(arrays["layout"])
        return Estimates(
            arrays["found"],
            Camera(E, K, size, size),
            ExpressionCode(codes, layout),
            TrackedMesh(layout, arrays["neutral"], arrays["posed"]),
        )
    except (InputError, ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged.", "Delete it: it is made again.") from error


def _track(protocol: Protocol, task: Task, detector: Detector, tracker: HeadTracker) -> Estimates:
    with Shard(task.shard) as shard:
        view = shard.read([*task.inputs, *task.targets], protocol.size)
    seen = [_see(to_bytes(image), detector, tracker) for image in view.image]
    inputs, targets = range(len(task.inputs)), range(len(task.inputs), len(seen))
    found = np.zeros(len(seen), bool)
    head, rows = _fitted(tracker, seen, inputs, protocol.size)
    heads: list[tuple[TrackedHead, int]] = [(head, n) for n in range(len(rows))] if head else []
    found[rows] = True
    if head is not None:
        there, rows = _fitted(tracker, seen, targets, protocol.size, head)
        heads += [(there, n) for n in range(len(rows))] if there else []
        found[rows] = True
    if not heads:
        return _nothing(found, protocol.size, tracker)
    cameras = [one.bundle.cameras[n] for one, n in heads]
    first = heads[0][0]
    return Estimates(
        found,
        Camera(
            torch.stack([camera.world_to_camera for camera in cameras]),
            torch.stack([camera.K for camera in cameras]),
            protocol.size,
            protocol.size,
        ),
        ExpressionCode(torch.stack([one.codes.values[n] for one, n in heads]), first.codes.layout),
        first.mesh,
    )


def _fitted(
    tracker: HeadTracker,
    seen: Sequence[PointsSeen | None],
    which: Sequence[int],
    size: int,
    known: TrackedHead | None = None,
) -> tuple[TrackedHead | None, list[int]]:
    """Fit a head to some pictures, without those that do not fit; a known one as it is."""
    identity = None if known is None else known.bundle.identity
    rows = [i for i in which if seen[i] is not None]
    while rows:
        there = [one for one in (seen[i] for i in rows) if one is not None]
        sizes = [(size, size)] * len(rows)
        try:
            head = tracker.fit(there, sizes, identity=identity, config=CROPS)
        except CameraError:
            return None, []
        good = [i for i, misfit in zip(rows, head.bundle.misfit) if misfit <= MAX_MISFIT]
        if good == rows:
            return head, rows
        rows = good
    return None, []


def _see(rgb: np.ndarray, detector: Detector, tracker: HeadTracker) -> PointsSeen | None:
    faces = detector(rgb)
    return tracker.see(rgb, max(faces, key=lambda face: face.size)) if faces else None


def _nothing(found: np.ndarray, size: int, tracker: HeadTracker) -> Estimates:
    layout, mean = tracker.model.layout, np.zeros((1, 3), np.float32)
    return Estimates(
        found,
        Camera(torch.zeros(0, 4, 4), torch.zeros(0, 3, 3), size, size),
        ExpressionCode(torch.zeros(0, 120), layout),
        TrackedMesh(layout, mean, np.zeros((0, 1, 3), np.float32)),
    )


def _write(path: Path, found: Estimates) -> None:
    arrays = {
        "found": found.found,
        "E": found.camera.world_to_camera.float().numpy(),
        "K": found.camera.K.float().numpy(),
        "size": np.array(found.camera.width),
        "codes": found.codes.values.float().numpy(),
        "layout": np.array(found.codes.layout),
        "neutral": found.mesh.neutral,
        "posed": found.mesh.posed,
    }

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_whole(path, write)


def _kept(pairs: tuple[Pair, ...], which: Bool[np.ndarray, "n"]) -> tuple[Pair, ...]:
    return tuple(pair for pair, there in zip(pairs, which, strict=True) if there)


def _key(protocol: Protocol, task: Task) -> str:
    """Return a name that differs if anything that decides the estimates differs."""
    said = [_maker(), digest(task.shard), task.inputs, task.targets, protocol.size]
    return f"{task.subject}-{hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}"


@functools.cache
def _maker() -> str:
    """Return a hash of the tracker: its program, its networks and the detector's."""
    total = hashlib.sha256()
    folders = [Path(path) for part in (perception, tracking) for path in part.__path__]
    sources = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    nets = [status.path for status in weights.table() if status.weight.name in NETS]
    for path in [*sources, POINTS, EYES, *(net for net in nets if net is not None)]:
        total.update(path.read_bytes())
    return total.hexdigest()


def _tools() -> tuple[Detector, HeadTracker]:
    return get_detector(DETECTOR).make(), HeadTracker()
