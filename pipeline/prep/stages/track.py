"""Stage: cameras in the head frame, expression code, landmarks and mesh in space.

What the capture ships or a tracker left of it is taken; landmarks in space come from several
calibrated cameras. If our own fit is asked for, the head is fitted to what these cameras see: first
the person, over a few moments, then every moment, a few together. In photographs and videos, all of
a person together, the head is tracked without knowing the cameras.

Out   work/<capture>/person.npz   identity [k] of the MakeHuman head, whose points are seen; seat
      [4 4] (of that head in the shipped head frame; [0 4] if none is shipped)
      work/<capture>/track/<timestep>.npz   world_to_camera [v 4 4] and K [v 3 3] (head frame,
      metres, raw pixels; nan where unknown), code [120] (nan where unknown), landmarks [68 3],
      vertices [n 3], neutral [n 3] (n is 0 where unknown), error [v] (share of the face by which
      a camera misses); notes: layout of the code, topology of the mesh
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float64, Int

from pipeline.captures.capture import Timestep
from pipeline.core.errors import CameraError, FastGHAError, FormatError, MissingItemError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.faces.flame_fit import FlameFit
from pipeline.faces.heads import topology_of
from pipeline.perception.points import PointsSeen, seen_of
from pipeline.prep.codes import Trackings, face_model, flame_model
from pipeline.prep.items import WORK, Item, load_item, save_item
from pipeline.prep.photos import MAX_MISFIT, MAX_MISFIT_KNOWN
from pipeline.prep.plan import Job
from pipeline.system.files import inside
from pipeline.tracking.tracker import VIDEO, HeadTracker, TrackedHead, is_cut
from pipeline.tracking.triangulate import triangulate

T = TypeVar("T")

TOGETHER = 8
"""Timesteps that our own fit takes in one go."""
TOLERANCE = 0.03
"""Landmarks may be so far off, in widths of the face."""
PERSON = "person.npz"
MOMENTS = 12
"""Timesteps, spread over the capture, that tell who the person is."""


@dataclass(frozen=True)
class Moment:
    """What the cameras of a rig see of one timestep."""

    points: Float64[np.ndarray, "v 68 2"]
    """Landmarks, pixels of the raw pictures; nan where no face was found."""
    seen: Mapping[int, PointsSeen]
    """Points of the head, by the number of the view; of calibrated views alone."""
    sizes: Int[np.ndarray, "v 2"]
    """Width and height of the pictures."""
    E: Float64[np.ndarray, "v 4 4"]
    """World to camera; nan where unknown."""
    K: Float64[np.ndarray, "v 3 3"]
    pose: Float64[np.ndarray, "4 4"] | None
    """Shipped head pose, head to world."""
    reason: str
    """Why nothing can be made of it; empty if something can."""
    dropped: Mapping[str, str]
    """Reasons of views, by camera."""


@dataclass(frozen=True)
class Person:
    """What is the same in all timesteps of a capture, of the MakeHuman head."""

    identity: Float64[np.ndarray, "k"]
    seat: Float64[np.ndarray, "4 4"] | None
    """To the frame of the shipped head poses; None if none are shipped."""


@dataclass(frozen=True)
class Shown:
    """The views of some moments in one list, as a fit takes them."""

    seen: list[PointsSeen]
    sizes: list[tuple[int, int]]
    cameras: list[Camera]
    """From a frame of each one's moment."""
    moments: list[int]
    views: list[int]

    @staticmethod
    def of(moments: Sequence[Moment], frames: Sequence[Float64[np.ndarray, "4 4"]]) -> Shown:
        """Gather views, with cameras from a frame of each moment, which goes to their world."""
        out = Shown([], [], [], [], [])
        for n, (moment, frame) in enumerate(zip(moments, frames, strict=True)):
            for v, one in moment.seen.items():
                width, height = moment.sizes[v].tolist()
                E, K = torch.from_numpy(moment.E[v] @ frame), torch.from_numpy(moment.K[v])
                out.seen.append(one)
                out.sizes.append((width, height))
                out.cameras.append(Camera(E, K, width, height))
                out.moments.append(n)
                out.views.append(v)
        return out


@dataclass
class TrackStage:
    """Tracks one timestep, or several together."""

    job: Job
    _trackings: dict[str, Trackings] = field(default_factory=lambda: dict[str, Trackings]())
    _tracker: HeadTracker | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave what was read behind: a worker reads its own."""
        return {**self.__dict__, "_trackings": {}, "_tracker": None}

    def __call__(self, group: tuple[str, tuple[int, ...]]) -> None:
        """Make the items of a group of timesteps of one capture."""
        name, steps = group
        if not self.job.reader.calibrated:
            self._estimate(name, steps)
        elif self.job.config.face:
            self._fit(name, steps)
        else:
            for i in steps:
                self._shipped(name, i)

    def groups(self, todo: list[tuple[str, int]]) -> list[tuple[str, tuple[int, ...]]]:
        """Return what is tracked together."""
        if self.job.reader.calibrated and not self.job.config.face:
            return [(name, (i,)) for name, i in todo]
        if not self.job.reader.calibrated:
            names = dict.fromkeys(name for name, _ in todo)
            return [(name, tuple(range(self._count(name)))) for name in names]
        blocks = sorted({(name, i // TOGETHER) for name, i in todo})
        return [
            (name, tuple(range(b * TOGETHER, min((b + 1) * TOGETHER, self._count(name)))))
            for name, b in blocks
        ]

    def _count(self, name: str) -> int:
        return len(self.job.plans[name].timesteps)

    def _shipped(self, name: str, i: int) -> None:
        plan, capture = self.job.plans[name], self.job.capture(name)
        step = plan.timesteps[i]
        dropped: dict[str, str] = {}
        notes: dict[str, str] = {}
        pose = attempt(lambda: capture.head_to_world(step), "timestep", dropped)
        mesh = attempt(lambda: capture.mesh(step), "timestep", dropped)
        neutral = None
        tracked = attempt(lambda: self._parameters(name, step), "timestep", dropped)
        if self.job.config.flame and tracked is not None:
            posed = attempt(lambda: self._flame(*tracked), "timestep", dropped)
            # A mesh of the data set belongs to its own head pose.
            if posed is not None and (self.job.config.tracking or pose is None or mesh is None):
                pose, mesh, neutral = posed
                model = flame_model(self.job.config.flame)
                faces = model.faces.numpy().astype(np.int32)
                notes["topology"] = topology_of(faces, len(model.template))
        code = attempt(lambda: self._code(name, step), "timestep", dropped)
        if code is not None:
            notes["layout"] = code.layout
        E, K = self._cameras(name, i, dropped)
        if pose is None:
            dropped.setdefault("timestep", "no head pose: the capture ships none that is complete")
            self._save(name, i, np.full_like(E, np.nan), np.full_like(K, np.nan), dropped=dropped)
            return
        to_head = E @ pose
        self._save(
            name, i, to_head, K,
            code=None if code is None else code.values.numpy(),
            landmarks=self._in_space(name, i, to_head, K),
            vertices=None if mesh is None else (mesh - pose[:3, 3]) @ pose[:3, :3],
            neutral=neutral, dropped=dropped, notes=notes,
        )  # fmt: skip

    def _tracking(self, name: str) -> Trackings | None:
        """Return the trackings of a capture, if any were given."""
        folder = self.job.config.tracking
        if folder and name not in self._trackings:
            alone = len(self.job.plans) == 1
            self._trackings = {name: Trackings(Path(folder), self.job.capture(name), alone)}
        return self._trackings.get(name)

    def _code(self, name: str, step: Timestep) -> ExpressionCode | None:
        tracking = self._tracking(name)
        return self.job.capture(name).code(step) if tracking is None else tracking.code(step)

    def _parameters(self, name: str, step: Timestep) -> tuple[FlameFit, np.ndarray] | None:
        """Return FLAME parameters and the motion from their world to the capture's."""
        tracking = self._tracking(name)
        if tracking is not None:
            return tracking.fit(step)
        fit = self.job.capture(name).flame(step)
        return None if fit is None else (fit, np.eye(4))

    def _flame(self, fit: FlameFit, world: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return head pose and vertices in the capture's world, and the neutral mesh."""
        model = flame_model(self.job.config.flame)
        vertices = model.of(fit) @ world[:3, :3].T + world[:3, 3]
        return world @ model.head_to_world(fit), vertices, model.rest(fit)

    def _cameras(self, name: str, i: int, dropped: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the cameras of a timestep, world to camera [v 4 4] and K [v 3 3]; nan if lost."""
        plan, capture = self.job.plans[name], self.job.capture(name)
        views = len(plan.cameras)
        E, K = np.full((views, 4, 4), np.nan), np.full((views, 3, 3), np.nan)
        for v, camera in enumerate(plan.cameras):
            step = plan.timesteps[i]
            found = attempt(lambda c=camera, s=step: capture.camera(s, c), camera, dropped)
            if found is not None:
                E[v], K[v] = found.world_to_camera.double().numpy(), found.K.double().numpy()
        return E, K

    def _in_space(self, name: str, i: int, E: np.ndarray, K: np.ndarray) -> np.ndarray:
        """Return the landmarks [68, 3] where the cameras of the head frame see them."""
        points = load_item(self.job.path("landmarks", name, i)).arrays["points"]
        known = np.isfinite(E).all((1, 2))
        extent = np.ptp(np.nan_to_num(points), axis=1).max(-1)
        return triangulate(points[known], E[known], K[known], TOLERANCE * extent[known])

    def _fit(self, name: str, steps: tuple[int, ...]) -> None:
        """Fit the head to a few timesteps of a person who is known."""
        moments = {i: self._moment(name, i) for i in steps}
        for i, moment in moments.items():
            if moment.reason:
                self._lose(name, i, moment)
        good = [i for i, moment in moments.items() if not moment.reason]
        if not good:
            return
        try:
            person = self._person(name)
        except CameraError as error:
            for i in good:
                self._lose(name, i, replace(moments[i], reason=error.problem))
            return
        # Where the capture ships head poses, only how the head sits in them is ours.
        told = [i for i in good if person.seat is not None and moments[i].pose is not None]
        for some in (told, [i for i in good if i not in told]):
            if some:
                self._fit_moments(name, {i: moments[i] for i in some}, person, some is told)

    def _fit_moments(
        self, name: str, moments: Mapping[int, Moment], person: Person, told: bool
    ) -> None:
        frames = [np.eye(4)] * len(moments)
        if told:
            frames = [m.pose @ person.seat for m in moments.values()]  # pyright: ignore
        shown = Shown.of(list(moments.values()), frames)
        try:
            head = self._head_tracker.fit(
                shown.seen, shown.sizes, cameras=shown.cameras, moments=shown.moments,
                views=shown.views, poses="told" if told else "each", identity=person.identity,
            )  # fmt: skip
        except CameraError as error:
            for i, moment in moments.items():
                self._lose(name, i, replace(moment, reason=error.problem))
            return
        for n, (i, moment) in enumerate(moments.items()):
            of = {v: k for k, v in enumerate(shown.views) if shown.moments[k] == n}
            self._keep(name, i, moment, frames[n] @ head.bundle.poses[n], head, n, of)

    def _moment(self, name: str, i: int) -> Moment:
        """Return what cameras see of a timestep, and its shipped head pose.

        Raises:
            FormatError: If the landmarks were found without the points of the head.
        """
        capture, step = self.job.capture(name), self.job.plans[name].timesteps[i]
        dropped: dict[str, str] = {}
        path = self.job.path("landmarks", name, i)
        arrays = load_item(path).arrays
        points = arrays["points"].astype(np.float64)
        if "seen_points" not in arrays and np.isfinite(points).any():
            raise FormatError(
                f"{path} has landmarks alone, our own fit sees more of the head.",
                "It is of an older version: run the recipe again with --overwrite.",
            )
        E, K = self._cameras(name, i, dropped)
        known = np.asarray(np.isfinite(E).all((1, 2)))
        points[~known] = np.nan
        every = seen_of(arrays) if "seen_points" in arrays else []
        seen = {v: one for v, one in enumerate(every) if one is not None and known[v]}
        pose = attempt(lambda: capture.head_to_world(step), "timestep", dropped)
        reason = dropped.pop("timestep", "")
        if not reason and len(seen) < 2:
            why = next(iter(dropped.values()), "")
            reason = f"a face was found in {len(seen)} calibrated views only, our own fit needs two"
            reason += f" ({why.removesuffix('.')})" if why else ""
        return Moment(points, seen, arrays["sizes"], E, K, pose, reason, dropped)

    def _person(self, name: str) -> Person:
        """Return what is the same in all timesteps of a capture; found once, then read.

        Raises:
            CameraError: If too few timesteps show the face.
        """
        path = inside(self.job.out / WORK, name, PERSON)
        if not path.exists():
            every = range(self._count(name))
            chosen = np.unique(np.linspace(0, len(every) - 1, 3 * MOMENTS).round().astype(int))
            moments = [self._moment(name, int(i)) for i in chosen]
            good = [moment for moment in moments if not moment.reason]
            if not good:
                raise CameraError("No timestep shows the face in two views.", "Leave it out.")
            posed = [moment for moment in good if moment.pose is not None]
            some = (posed or good)[:: -(-len(posed or good) // MOMENTS)]
            shown = Shown.of(some, [np.eye(4) if m.pose is None else m.pose for m in some])
            found = self._head_tracker.know(
                shown.seen, shown.sizes, shown.cameras, shown.moments,
                "static" if posed else "each",
            )  # fmt: skip
            seat = found.poses[0] if posed else np.zeros((0, 4))
            save_item(path, Item({"identity": found.identity, "seat": seat}))
        arrays = load_item(path).arrays
        return Person(arrays["identity"], arrays["seat"] if len(arrays["seat"]) else None)

    def _keep(
        self,
        name: str,
        i: int,
        moment: Moment,
        pose: Float64[np.ndarray, "4 4"],
        head: TrackedHead,
        n: int,
        of: Mapping[int, int],
    ) -> None:
        """Save one timestep of a fit.

        Args:
            name: Of the capture.
            i: Of the timestep, in the plan.
            moment: What was seen of it.
            pose: Head to world.
            head: The fit.
            n: Of the moment, in the fit.
            of: Pictures of the fit, by the number of their view.
        """
        E = moment.E @ pose
        pictures = list(of.values())
        error, extent = np.full(len(E), np.nan), np.ptp(moment.points, axis=1).max(-1)
        error[list(of)] = head.bundle.errors[pictures] / extent[list(of)]
        dropped = dict(moment.dropped)
        if not float(np.median(head.bundle.misfit[pictures])) <= MAX_MISFIT_KNOWN:
            miss = float(np.median(head.bundle.errors[pictures]))
            dropped["timestep"] = f"our own fit is off by {miss:.0f} pixels from what is seen"
        mesh, code = head.mesh, head.codes[n]
        neutral: np.ndarray | None = mesh.neutral
        notes = {"layout": mesh.layout, "topology": head.topology}
        if self.job.config.tracking:
            step = self.job.plans[name].timesteps[i]
            code = attempt(lambda: self._code(name, step), "timestep", dropped)
            if code is not None and code.layout != mesh.layout:
                # The mesh is of another head than the codes: it cannot guide, only be looked at.
                notes, neutral = {"layout": code.layout}, None
        self._save(
            name, i, E, moment.K, code=None if code is None else code.values.numpy(),
            landmarks=self._in_space(name, i, E, moment.K), vertices=mesh.posed[n],
            neutral=neutral, error=error, dropped=dropped, notes=notes,
        )  # fmt: skip

    def _lose(self, name: str, i: int, moment: Moment) -> None:
        E, K = np.full_like(moment.E, np.nan), np.full_like(moment.K, np.nan)
        self._save(name, i, E, K, dropped={**moment.dropped, "timestep": moment.reason})

    def _estimate(self, name: str, steps: tuple[int, ...]) -> None:
        items = {i: load_item(self.job.path("landmarks", name, i)) for i in steps}
        seen = [i for i, item in items.items() if "seen_points" in item.arrays]
        for i in set(steps) - set(seen):
            reason = next(iter(items[i].notes.values()), "no face was found")
            self._nothing(name, i, reason.removesuffix("."))
        if not seen:
            return
        try:
            head = self._tracked(name, [items[i] for i in seen], seen)
        except CameraError as error:
            for i in seen:
                self._nothing(name, i, error.problem)
            return
        bias = np.zeros((68, 3)) if self.job.detector is None else self.job.detector.bias()
        for n, i in enumerate(seen):
            camera, bundle = head.bundle.cameras[n], head.bundle
            face = float(np.ptp(items[i].arrays["points"][0], axis=0).max())
            far = not bundle.misfit[n] <= MAX_MISFIT
            off = f"the tracked head is off by {bundle.errors[n]:.0f} pixels from what is seen"
            self._save(
                name, i, camera.world_to_camera.double().numpy()[None],
                camera.K.double().numpy()[None], code=head.codes.values[n].numpy(),
                landmarks=head.seen_landmarks(n) + bias, vertices=head.mesh.posed[n],
                neutral=head.mesh.neutral, error=bundle.errors[n : n + 1] / face,
                dropped={"timestep": off} if far else {},
                notes={"layout": head.mesh.layout, "topology": head.topology},
            )  # fmt: skip

    def _nothing(self, name: str, i: int, reason: str) -> None:
        E, K = np.full((1, 4, 4), np.nan), np.full((1, 3, 3), np.nan)
        self._save(name, i, E, K, dropped={"timestep": reason})

    @property
    def _head_tracker(self) -> HeadTracker:
        if self._tracker is None:
            face = self.job.config.face
            self._tracker = HeadTracker(
                detector=self.job.detector or "mesh", face=face_model(face) if face else None
            )
        return self._tracker

    def _tracked(self, name: str, items: list[Item], steps: list[int]) -> TrackedHead:
        """Fit the head to what was seen in all pictures of one person.

        Raises:
            CameraError: If nothing fits.
        """
        every = [seen_of(item.arrays)[0] for item in items]
        seen = [one for one in every if one is not None]
        sizes = [(int(w), int(h)) for w, h in (item.arrays["sizes"][0] for item in items)]
        told = [float(item.arrays["focal"][0]) for item in items]
        focals = [focal if np.isfinite(focal) else None for focal in told]
        if not self.job.reader.moving:
            return self._head_tracker.fit(seen, sizes, focals=focals)
        # A frame follows from another only if it is the next one of the same shot.
        frames = [self.job.plans[name].timesteps[i].index for i in steps]
        shots = [item.arrays["thumbnail"] for item in items]
        cuts = [n for n in range(1, len(items))
                if frames[n] != frames[n - 1] + 1 or is_cut(shots[n - 1], shots[n])]  # fmt: skip
        return self._head_tracker.fit(
            seen, sizes, focals=focals, lenses=[0] * len(seen), cuts=cuts, config=VIDEO
        )

    def _save(
        self,
        name: str,
        i: int,
        E: np.ndarray,
        K: np.ndarray,
        *,
        code: np.ndarray | None = None,
        landmarks: np.ndarray | None = None,
        vertices: np.ndarray | None = None,
        neutral: np.ndarray | None = None,
        error: np.ndarray | None = None,
        dropped: dict[str, str] | None = None,
        notes: dict[str, str] | None = None,
    ) -> None:
        arrays = {
            "world_to_camera": E,
            "K": K,
            "code": np.full(120, np.nan) if code is None else code,
            "landmarks": np.full((68, 3), np.nan) if landmarks is None else landmarks,
            "vertices": np.zeros((0, 3)) if vertices is None else vertices,
            "neutral": np.zeros((0, 3)) if neutral is None else neutral,
            "error": np.full(len(E), np.nan) if error is None else error,
        }
        save_item(self.job.path("track", name, i), Item(arrays, {}, dropped or {}, notes or {}))


def attempt(get: Callable[[], T], name: str, dropped: dict[str, str]) -> T | None:
    """Call `get`; a fault of the data becomes a reason."""
    try:
        return get()
    except MissingItemError as error:
        dropped[name] = error.problem
    except FastGHAError as error:
        dropped[name] = str(error)
    return None
