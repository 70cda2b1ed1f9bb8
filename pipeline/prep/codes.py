"""Where the expression codes of a capture come from, settled when a run is planned.

tracking   what a tracker left under a folder, matched by capture, sentence and frame
fit        a head model that we fit to landmarks in several calibrated views
capture    what the data set ships
none       nowhere, if shards without codes are asked for
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from pipeline.captures.capture import Capture, Timestep, natural, nearest_rotation
from pipeline.captures.folder import FolderCapture
from pipeline.captures.nersemble import TRACKINGS
from pipeline.core.errors import CameraError, InputError, MissingItemError
from pipeline.core.types import ExpressionCode
from pipeline.faces.flame import Flame, load_flame
from pipeline.faces.flame_fit import FlameFit
from pipeline.faces.heads import FlameHead, HeadModel, MakeHumanHead
from pipeline.io.raw_files import read_json
from pipeline.tracking.carry import Carrier
from pipeline.tracking.importers import Frame, Tracking, frames_of, is_tracking, read_tracking
from pipeline.tracking.models import FlameFace, MakeHumanFace

MAKEHUMAN_FACE = "makehuman"
"""Name of the head that comes with the package; any other is a converted FLAME model."""
DEPTH = 5
"""Folders below the one that is given, in which trackings are looked for."""
KNOWN = 0.9
"""Share of a tracking's frame numbers that must be the capture's, to be taken for them."""
LOOKS = 20
"""Timesteps in which a head pose is looked for, before work begins."""
SAME_WORLD_M, SAME_WORLD_DEGREES = 0.002, 0.2
"""Cameras of an export and of its capture may differ so much after one rigid motion."""

CodeSource = Literal["tracking", "fit", "capture", "none"]


@functools.cache
def face_model(name: str) -> MakeHumanFace | FlameFace:
    """Return a head model to fit, made once in a process.

    Raises:
        InputError: If it is a FLAME file that is missing, damaged, or without landmarks and the
            table that is made by them.
        LayoutError: If it is of a version of FLAME that has no layout of codes.
    """
    if name == MAKEHUMAN_FACE:
        return MakeHumanFace()
    model = flame_model(name)
    try:
        face = FlameFace(model)
        Carrier(face)
    except InputError as error:
        again = f"fastgha flame convert FILE --version {model.version} -o {name}"
        raise InputError(
            f"{name}: {error.problem}",
            f"Convert it again: {again} --landmarks landmark_embedding.npy",
        ) from error
    return face


@functools.cache
def head_of(name: str) -> HeadModel:
    """Return the model that poses the meshes of a head that was fitted, made once in a process.

    Raises:
        As `face_model`.
    """
    face = face_model(name)
    return FlameHead(face.model, face.layout) if isinstance(face, FlameFace) else MakeHumanHead()


@functools.cache
def flame_model(path: str) -> Flame:
    """Return a FLAME model, read once in a process."""
    return load_flame(Path(path))


@dataclass(frozen=True)
class Ways:
    """What a user said about codes and head poses."""

    tracking: str
    """Folder of trackings; empty if there is none."""
    face: str
    """Head model to fit: `makehuman`, or the file of a converted FLAME model; empty for no fit."""
    flame: str
    """Converted FLAME model, for poses and meshes of a tracking; empty if there is none."""
    required: bool
    """Whether timesteps without a code are of no use."""


@dataclass(frozen=True)
class Settled:
    """Where codes come from, in words too."""

    source: CodeSource
    words: str
    gaps: tuple[str, ...] = ()
    """Names of the timesteps that have none."""


def settle(
    capture: Capture, cameras: Sequence[str], steps: Sequence[Timestep], ways: Ways, alone: bool
) -> Settled:
    """Choose where the codes and head poses of a capture come from, before any work.

    Args:
        capture: With calibrated cameras.
        cameras: Those that are taken.
        steps: Those that are taken.
        ways: What the user said.
        alone: Whether it is the only capture of the run: a tracking need not name it then.

    Raises:
        InputError: If there are none; names the ways to get them.
    """
    trackings = Trackings(Path(ways.tracking), capture, alone) if ways.tracking else None
    gaps: tuple[str, ...] = ()
    if trackings is not None:
        gaps = tuple(step.name for step in steps if not trackings.has(step))
        if len(gaps) == len(steps):
            raise InputError(
                f"The tracking in {ways.tracking} has no frame of {capture.name} that is to be "
                f"prepared ({steps[0].name}, ...).",
                "Check the names: <capture>/<sentence>, and the numbers of the frames.",
            )
    model = face_model(ways.face) if ways.face else None
    if model is None:
        _require_pose(capture, trackings, [step for step in steps if step.name not in gaps], ways)
    elif len(cameras) < 2:
        raise InputError(
            f"{capture.name} has one camera; our own fit needs several views of a moment.",
            "Give a tracking of it: --tracking DIR.",
        )
    if trackings is not None:
        words = f"{trackings.words}, {len(steps) - len(gaps)} of {len(steps)} timesteps"
        return Settled("tracking", words, gaps)
    if model is not None:
        return Settled("fit", f"our own fit of {model.layout} in {len(cameras)} views")
    if capture.layout is not None:
        return Settled("capture", f"{capture.layout}, shipped with the capture")
    if ways.required:
        raise InputError(
            f"{capture.name} ships no expression codes, and without them nothing can be trained.",
            "Add --tracking DIR (VHAP, metrical-tracker, Pixel3DMM, NeRSemble's), or --face "
            "makehuman or --face flame2023.npz for our own fit to the landmarks; or --no-codes "
            "for shards to look at only.",
        )
    return Settled("none", "none: the shards cannot be trained on")


def _require_pose(
    capture: Capture, trackings: Trackings | None, steps: Sequence[Timestep], ways: Ways
) -> None:
    """Pass if there is a head pose of some timestep."""
    needs_flame = False
    reason = "it ships none"
    for i in np.unique(np.linspace(0, len(steps) - 1, LOOKS).round().astype(int)):
        step = steps[i]
        try:
            tracked = None if trackings is None else trackings.fit(step)
            fit = capture.flame(step) if tracked is None else tracked[0]
            if capture.head_to_world(step) is not None:
                return
        except MissingItemError as error:
            reason = error.problem
            continue
        if fit is not None and ways.flame:
            flame_model(ways.flame).require(fit.version)
            return
        needs_flame |= fit is not None
    if needs_flame:
        raise InputError(
            f"The head poses of {capture.name} depend on the joints of FLAME.",
            "Give the converted model: --flame flame2023.npz (see `fastgha flame convert`).",
        )
    raise InputError(
        f"{capture.name} has no head pose ({reason.removesuffix('.')}).",
        "Add --face makehuman (or a converted FLAME model) for our own fit, or --tracking with a "
        "VHAP export of this capture and --flame.",
    )


class Trackings:
    """What trackers left of one capture, under a folder.

    A tracking is the capture's and a sentence's if its path says so: `<capture>/<sentence>`,
    `<person>_<sentence>_...`, or a sentence's short name (EMO-1); without a sentence it is of all.
    Frames are matched by their numbers; where a tracker counted them anew, by their order.

    Raises:
        InputError: If there is none, or two of one sentence.
    """

    def __init__(self, root: Path, capture: Capture, alone: bool) -> None:
        self._root, self._capture = root, capture
        self._paths = _matched(root, capture, alone)
        self._frames: dict[str, dict[int, Frame]] = {}
        self._read: tuple[Path, Tracking] | None = None
        self._worlds: dict[Path, np.ndarray | None] = {}

    @property
    def words(self) -> str:
        """Which trackers, and of which layout."""
        kinds: dict[str, None] = {}
        for path in self._paths.values():
            one = self._load(next(iter(frames_of(path).values())).file)
            name = f"{one.tracker} ({path.name})" if path.suffix == ".npz" else one.tracker
            kinds[f"{name}: {one.layout}"] = None
        return ", ".join(kinds)

    def has(self, step: Timestep) -> bool:
        """Say whether there is a frame of a timestep."""
        sentence = self._sentence(step)
        return sentence is not None and step.index in self._numbered(sentence)

    def code(self, step: Timestep) -> ExpressionCode:
        """Return the code of a timestep.

        Raises:
            MissingItemError: If the tracking left it out.
        """
        tracking, row, _ = self._find(step)
        return tracking.fits[row].code() if tracking.given is None else tracking.given[row]

    def fit(self, step: Timestep) -> tuple[FlameFit, Float64[np.ndarray, "4 4"]] | None:
        """Return the FLAME parameters and the motion from their world to the capture's.

        Returns:
            None if that motion is not known, as of a tracker of single videos.

        Raises:
            MissingItemError: If the tracking left the timestep out.
        """
        tracking, row, path = self._find(step)
        world = self._world(path, tracking.tracker)
        return None if world is None or not tracking.fits else (tracking.fits[row], world)

    def _find(self, step: Timestep) -> tuple[Tracking, int, Path]:
        sentence = self._sentence(step)
        frame = None if sentence is None else self._numbered(sentence).get(step.index)
        if sentence is None or frame is None:
            raise MissingItemError(
                f"The tracking in {self._root} has no frame of {step.name}.",
                "Track it too, or leave it out.",
            )
        return self._load(frame.file), frame.row, self._paths[sentence]

    def _sentence(self, step: Timestep) -> str | None:
        return next((name for name in (step.sentence, "") if name in self._paths), None)

    def _load(self, file: Path) -> Tracking:
        if self._read is None or self._read[0] != file:
            try:
                self._read = file, read_tracking(file)
            except MissingItemError:
                raise
            except InputError as error:
                raise MissingItemError(error.problem, error.remedy) from error
        return self._read[1]

    def _numbered(self, sentence: str) -> dict[int, Frame]:
        """Return the frames of a tracking by the capture's own numbers."""
        if sentence in self._frames:
            return self._frames[sentence]
        path = self._paths[sentence]
        frames = frames_of(path)
        if self._capture.source != FolderCapture.source:
            frames = {_original(path).get(n, n): frame for n, frame in frames.items()}
        wanted = sorted(t.index for t in self._capture.timesteps if sentence in ("", t.sentence))
        known = len(frames.keys() & set(wanted))
        if known < KNOWN * len(frames):
            if len(frames) != len(wanted):
                raise InputError(
                    f"{path} has the frames {min(frames)} to {max(frames)}, {len(frames)} of them; "
                    f"{self._capture.name} {sentence} has {wanted[0]} to {wanted[-1]}, "
                    f"{len(wanted)} of them: which is which cannot be told.",
                    "Number the tracker's frames as the data set does.",
                )
            frames = {n: frames[k] for n, k in zip(wanted, sorted(frames), strict=True)}
        self._frames[sentence] = frames
        return frames

    def _world(self, path: Path, tracker: str) -> np.ndarray | None:
        """Return the motion from a tracking's world to the capture's; None if it is not known."""
        if path not in self._worlds:
            if tracker == "NeRSemble":
                self._worlds[path] = np.eye(4)
            else:
                self._worlds[path] = _export_to_world(path, self._capture)
        return self._worlds[path]


def _matched(root: Path, capture: Capture, alone: bool) -> dict[str, Path]:
    """Return the trackings of a capture by sentence; an empty name stands for all of them."""
    if not root.exists():
        raise InputError(f"There is no folder {root}.", "Give the folder that a tracker wrote.")
    labels: dict[str, Path] = {}
    for path in _walk(root, DEPTH):
        label = path.relative_to(root).as_posix()
        labels[root.name if label == "." else label] = path
    names = {capture.name, capture.subject}
    mine = [label for label in labels if any(_says(label, name) for name in names)]
    mine = mine or (list(labels) if alone else [])
    if not mine:
        there = f"; it has trackings of {', '.join(list(labels)[:6])}" if labels else ""
        raise InputError(
            f"{root} has no tracking of {capture.name}{there}.",
            "Name them by capture and sentence: <capture>/<sentence>/...",
        )
    found: dict[str, list[Path]] = {}
    for label in mine:
        found.setdefault(_sentence_of(label, capture.sentences()), []).append(labels[label])
    return {sentence: _only(paths, capture) for sentence, paths in found.items()}


def _only(paths: list[Path], capture: Capture) -> Path:
    best = [path for name in TRACKINGS for path in paths if path.name == name]
    if len(paths) > 1 and not best:
        raise InputError(
            f"{paths[0]} and {paths[1]} are trackings of one sentence of {capture.name}.",
            "Keep one of them.",
        )
    return best[0] if best else paths[0]


def _walk(path: Path, depth: int) -> Iterator[Path]:
    """Give the trackings under a folder, itself included; none inside of another."""
    if is_tracking(path):
        yield path
    elif path.is_dir() and depth >= 0:
        for name in natural(child.name for child in path.iterdir()):
            yield from _walk(path / name, depth - 1)


def _says(label: str, name: str) -> bool:
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", label) is not None


def _sentence_of(label: str, sentences: Sequence[str]) -> str:
    """Return the sentence that a path names in full, or else shortly; empty if none."""
    for names in ({s: s for s in sentences}, _short(sentences)):
        said = [sentence for name, sentence in names.items() if _says(label, name)]
        if said:
            return max(said, key=len)
    return ""


def _short(sentences: Sequence[str]) -> Mapping[str, str]:
    """Return short names that only one sentence has: EMO-1 of EMO-1-shout+laugh."""
    found: dict[str, list[str]] = {}
    for sentence in sentences:
        if match := re.match(r"[A-Z]+-\d+", sentence):
            found.setdefault(match[0], []).append(sentence)
    return {name: some[0] for name, some in found.items() if len(some) == 1}


def _original(path: Path) -> Mapping[int, int]:
    """Return the numbers of the recording's frames by those of an export."""
    file = _export(path) / "transforms.json"
    if not file.is_file():
        return {}
    numbers: dict[int, int] = {}
    for frame in read_json(file).get("frames", []):
        if isinstance(frame, dict) and isinstance(index := frame.get("timestep_index"), int):
            digits = re.search(r"(\d+)$", str(frame.get("timestep_id", "")))
            original = frame.get("timestep_index_original", index)
            numbers[index] = int(digits[1]) if digits else int(original)
    return numbers


def _export(path: Path) -> Path:
    return path.parent if path.name == "flame_param" else path


def _export_to_world(path: Path, capture: Capture) -> np.ndarray | None:
    """Return the motion from a VHAP export's world to the capture's, by the cameras of both.

    An export turns the world to its cameras' axes and moves it to the head.

    Raises:
        InputError: If the cameras do not fit each other.
    """
    folder = _export(path)
    if not folder.is_dir() or not any(folder.glob("transforms*.json")):
        return None
    if folder.resolve() == getattr(capture, "path", Path()).resolve():
        return np.eye(4)
    export = FolderCapture(folder)
    step = export.timesteps[0]
    motions: list[np.ndarray] = []
    for name in export.cameras:
        if name not in capture.cameras or not export.has(step, name):
            continue
        try:
            theirs = export.camera(step, name)
            mine = capture.camera(capture.timesteps[0], name)
        except MissingItemError:
            continue
        if theirs is not None and mine is not None:
            E, F = (c.world_to_camera.double().numpy() for c in (mine, theirs))
            motions.append(np.linalg.inv(E) @ F)
    if not motions:
        return None
    mean = np.mean(motions, axis=0)
    try:
        mean[:3, :3], _ = nearest_rotation(mean[:3, :3])
    except CameraError as error:
        raise InputError(f"{folder}: {error.problem}", error.remedy) from error
    far = max(float(np.linalg.norm(m[:3, 3] - mean[:3, 3])) for m in motions)
    turned = max(
        float(np.degrees(np.arccos(np.clip((np.trace(m[:3, :3].T @ mean[:3, :3]) - 1) / 2, -1, 1))))
        for m in motions
    )
    if far > SAME_WORLD_M or turned > SAME_WORLD_DEGREES:
        raise InputError(
            f"The cameras of {folder} are not those of {capture.name}: {1000 * far:.1f} mm and "
            f"{turned:.2f} degrees apart after the best rigid motion.",
            "Export the tracking of this very recording.",
        )
    return mean
