"""Stage: cameras in the head frame, expression code, landmarks and mesh in space.

What the capture ships is taken; landmarks in space come from several calibrated cameras. Of
photographs, a few together, a head model is fitted to the landmarks: cameras and expressions.

Out   work/<capture>/track/<timestep>.npz   world_to_camera [v 4 4] and K [v 3 3] (head frame,
      metres, raw pixels; nan where unknown), code [120] (nan where unknown), landmarks [68 3],
      vertices [n 3], neutral [n 3] (n is 0 where unknown), error [v] (share of the face by which
      an estimated camera misses)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from pipeline.captures.capture import factor_head_pose
from pipeline.core.errors import CameraError, FastGHAError, MissingItemError
from pipeline.core.types import Camera
from pipeline.faces.flame import Flame, load_flame
from pipeline.faces.flame_fit import FlameFit
from pipeline.perception.landmarks import MESH_HEAD
from pipeline.prep.items import Item, load_item, save_item
from pipeline.prep.plan import Job
from pipeline.tracking import cameras as estimation
from pipeline.tracking.fit import Observations, TrackConfig, track
from pipeline.tracking.models import FaceState, MakeHumanFace
from pipeline.tracking.triangulate import triangulate

T = TypeVar("T")

TOGETHER = 8
"""Photographs whose cameras are estimated in one go."""
TOLERANCE = 0.03
"""Landmarks may be so far off, in widths of the face."""


SMOOTH = 0.3
"""Of videos, how much less likely a face is that changes from frame to frame."""


@dataclass(frozen=True)
class Found:
    """What was found about one photograph."""

    camera: Camera
    landmarks: np.ndarray
    """[68, 3], where the detector sees them, head frame, metres."""
    error: float
    """Pixels."""
    vertices: np.ndarray | None = None
    neutral: np.ndarray | None = None
    code: np.ndarray | None = None
    notes: dict[str, str] | None = None


@dataclass
class TrackStage:
    """Tracks one timestep, or several photographs together."""

    job: Job

    def __call__(self, group: tuple[str, tuple[int, ...]]) -> None:
        """Make the items of a group of timesteps of one capture."""
        name, steps = group
        if not self.job.reader.calibrated:
            self._estimate(name, steps)
        else:
            for i in steps:
                self._shipped(name, i)

    def groups(self, todo: list[tuple[str, int]]) -> list[tuple[str, tuple[int, ...]]]:
        """Return what is tracked together."""
        if self.job.reader.calibrated:
            return [(name, (i,)) for name, i in todo]
        blocks = sorted({(name, i // TOGETHER) for name, i in todo})
        return [
            (name, tuple(range(b * TOGETHER, min((b + 1) * TOGETHER, self._count(name)))))
            for name, b in blocks
        ]

    def _count(self, name: str) -> int:
        return len(self.job.plans[name].timesteps)

    def _shipped(self, name: str, i: int) -> None:
        plan, capture = self.job.plans[name], self.job.capture(name)
        step, views = plan.timesteps[i], len(plan.cameras)
        E, K = np.full((views, 4, 4), np.nan), np.full((views, 3, 3), np.nan)
        dropped: dict[str, str] = {}
        pose = attempt(lambda: capture.head_to_world(step), "timestep", dropped)
        mesh = attempt(lambda: capture.mesh(step), "timestep", dropped)
        if self.job.config.flame and (pose is None or mesh is None):
            posed = attempt(lambda: self._flame(capture.flame(step)), "timestep", dropped)
            if posed is not None:
                pose, mesh = posed
        if pose is None:
            dropped.setdefault("timestep", "no head pose: the capture ships none that is complete")
            self._save(name, i, E, K, dropped=dropped)
            return
        for v, camera in enumerate(plan.cameras):
            found = attempt(lambda c=camera: capture.camera(step, c), camera, dropped)
            if found is not None:
                head = factor_head_pose(found, pose)
                E[v], K[v] = head.world_to_camera.double().numpy(), head.K.double().numpy()
        vertices = np.zeros((0, 3)) if mesh is None else (mesh - pose[:3, 3]) @ pose[:3, :3]
        code = attempt(lambda: capture.code(step), "timestep", dropped)
        notes = {} if code is None else {"layout": code.layout}
        points = load_item(self.job.path("landmarks", name, i)).arrays["points"]
        known = np.isfinite(E).all((1, 2))
        extent = np.ptp(np.nan_to_num(points), axis=1).max(-1)
        landmarks = triangulate(points[known], E[known], K[known], TOLERANCE * extent[known])
        self._save(
            name, i, E, K,
            code=np.full(120, np.nan) if code is None else code.values.numpy(),
            landmarks=landmarks, vertices=vertices, dropped=dropped, notes=notes,
        )  # fmt: skip

    def _flame(self, fit: FlameFit | None) -> tuple[np.ndarray, np.ndarray] | None:
        """Return head pose and vertices in the world of a FLAME tracking."""
        if fit is None:
            return None
        model = flame_model(self.job.config.flame)
        return model.head_to_world(fit), model.of(fit)

    def _estimate(self, name: str, steps: tuple[int, ...]) -> None:
        items = [load_item(self.job.path("landmarks", name, i)) for i in steps]
        points = np.stack([item.arrays["points"][0] for item in items]).astype(float)
        sizes = [(int(w), int(h)) for w, h in (item.arrays["sizes"][0] for item in items)]
        seen = [n for n in range(len(steps)) if np.isfinite(points[n]).all()]
        found, reason = None, "no face was found"
        if seen:
            try:
                found = self._fitted(points[seen], [sizes[n] for n in seen])
            except CameraError as error:
                reason = error.problem
        for n, i in enumerate(steps):
            E, K = np.full((1, 4, 4), np.nan), np.full((1, 3, 3), np.nan)
            if found is None or n not in seen:
                self._save(name, i, E, K, dropped={"timestep": reason})
                continue
            one = found[seen.index(n)]
            E[0], K[0] = one.camera.world_to_camera.numpy(), one.camera.K.numpy()
            face = float(np.ptp(points[n], axis=0).max())
            self._save(
                name, i, E, K, code=one.code, landmarks=one.landmarks, vertices=one.vertices,
                neutral=one.neutral, error=np.array([one.error / face]), notes=one.notes,
            )  # fmt: skip

    def _fitted(self, points: np.ndarray, sizes: list[tuple[int, int]]) -> list[Found]:
        """Return what landmarks of photographs say about each; raises CameraError."""
        config = self.job.config
        if config.tracker == "none":
            fit = estimation.estimate(list(points), sizes, MESH_HEAD)
            return [
                Found(camera, fit.head, float(error))
                for camera, error in zip(fit.cameras, fit.errors, strict=True)
            ]
        model = face_model()
        bias = np.zeros((68, 3)) if self.job.detector is None else self.job.detector.bias()
        fit = track(
            model,
            Observations(points[:, None], None, tuple(sizes), bias),
            TrackConfig(smooth=SMOOTH if self.job.reader.moving else 0.0),
        )
        with torch.no_grad():
            vertices = model.vertices(fit.identity, fit.state).numpy()
            rest = FaceState.neutral(model.expression_size)
            neutral = model.vertices(fit.identity, rest)[0].numpy()
        landmarks = fit.landmarks.double().numpy() + bias
        return [
            Found(
                fit.cameras[n][0], landmarks[n], float(fit.errors[n, 0]), vertices[n],
                neutral, fit.codes.values[n].numpy(), {"layout": model.layout},
            )
            for n in range(len(points))
        ]  # fmt: skip

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


@functools.cache
def face_model() -> MakeHumanFace:
    """Return the head model, made once in a process."""
    return MakeHumanFace()


@functools.cache
def flame_model(path: str) -> Flame:
    """Return a FLAME model, read once in a process."""
    return load_flame(Path(path))


def attempt(get: Callable[[], T], name: str, dropped: dict[str, str]) -> T | None:
    """Call `get`; a fault of the data becomes a reason."""
    try:
        return get()
    except MissingItemError as error:
        dropped[name] = error.problem
    except FastGHAError as error:
        dropped[name] = str(error)
    return None
