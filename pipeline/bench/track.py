"""How well the tracker finds what is known: synthetic heads, their landmarks with noise.

Letters: t frames, v views.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch

from pipeline.bench.rows import BenchRow, table
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.evaluate.tables import Table
from pipeline.faces.layouts import arkit_to_code
from pipeline.faces.makehuman import Head
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.people import sample_identity
from pipeline.system.progress import Progress, silent
from pipeline.tracking.align import umeyama
from pipeline.tracking.fit import Observations, TrackConfig, track
from pipeline.tracking.models import FaceState, MakeHumanFace

SIZE = 512
COLUMNS = {
    "capture": "{capture}",
    "miss px": "{reprojection_px:.2f}",
    "face mm": "{vertex_mm:.2f}",
    "motion mm (of)": "{expression_mm:.2f} ({expression_size_mm:.2f})",
    "camera deg": "{camera_degrees:.2f}",
    "frames/s": "{frames_per_s:.1f}",
}


class Found(BenchRow):
    """How far one person, or the mean of several, is from the truth."""

    reprojection_px: float
    vertex_mm: float
    """Of the face, after the best rigid motion and scale."""
    expression_mm: float
    """Error of how far the face moves from rest."""
    expression_size_mm: float
    """How far it moves in truth."""
    code_rms: float
    code_size_rms: float
    camera_degrees: float
    frames_per_s: float


class Row(Found):
    """One kind of capture."""

    capture: str
    people: int
    frames: int
    noise_px: float


def bench(
    people: int = 4, frames: int = 8, noise: float = 1.0, seed: int = 0, progress: Progress = silent
) -> list[Row]:
    """Track people that the identity space was not made of; one row for each kind of capture.

    Args:
        people: How many.
        frames: Of each.
        noise: Standard deviation of a landmark's coordinate, pixels of 512.
        seed: Start of all random numbers.
        progress: Told after each person.
    """
    model = MakeHumanFace()
    kinds = (("4 calibrated views", 4), ("1 view, camera unknown", 0))
    rows: list[Row] = []
    for i, (kind, views) in enumerate(kinds):
        every: list[Found] = []
        for who in range(people):
            rng = np.random.default_rng([seed, who])
            every.append(_person(model, rng, frames, views, noise))
            progress(i * people + who + 1, len(kinds) * people)
        rows.append(Row(capture=kind, people=people, frames=frames, noise_px=noise, **_mean(every)))
    return rows


def show(rows: Sequence[Row], people: int, frames: int, noise: float) -> Table:
    """Return the rows as they are printed."""
    title = f"{people} people, {frames} frames each, landmarks with {noise:g} px of noise"
    return table(title, COLUMNS, rows)


def _mean(every: Sequence[Found]) -> Found:
    def mean(key: str) -> float:
        return float(np.mean([one[key] for one in every]))

    return Found(
        reprojection_px=mean("reprojection_px"), vertex_mm=mean("vertex_mm"),
        expression_mm=mean("expression_mm"), expression_size_mm=mean("expression_size_mm"),
        code_rms=mean("code_rms"), code_size_rms=mean("code_size_rms"),
        camera_degrees=mean("camera_degrees"), frames_per_s=mean("frames_per_s"),
    )  # fmt: skip


def _person(
    model: MakeHumanFace, rng: np.random.Generator, frames: int, views: int, noise: float
) -> Found:
    head = Head(sample_identity(rng))
    weights = np.stack([sample_expression(rng) for _ in range(frames)])
    truth = arkit_to_code(weights)
    faces = np.stack([head.vertices(w) for w in weights])
    points = torch.from_numpy(np.stack([head.landmarks(f) for f in faces]))
    count = max(views, 1)
    sampled = sample_cameras(rng, frames, count, SIZE)
    cameras = Camera(
        sampled.world_to_camera.reshape(frames, count, 4, 4),
        sampled.K.reshape(frames, count, 3, 3), SIZE, SIZE,
    )  # fmt: skip
    if views:
        fixed = cameras[0]
        cameras = Camera(
            fixed.world_to_camera.expand(frames, -1, -1, -1), fixed.K.expand(frames, -1, -1, -1),
            SIZE, SIZE,
        )  # fmt: skip
    clean = np.stack(
        [[project(cameras[t][v], points[t])[0].double().numpy() for v in range(count)]
         for t in range(frames)]
    )  # fmt: skip
    seen = clean + rng.normal(0, noise, clean.shape)
    known = cameras[0] if views else None
    start = time.perf_counter()
    found = track(model, Observations(seen, known, ((SIZE, SIZE),) * frames), TrackConfig())
    seconds = time.perf_counter() - start
    with torch.no_grad():
        got = model.vertices(found.identity, found.state).double().numpy()
    E = torch.stack([c.world_to_camera for c in found.cameras])[:, 0].double().numpy()
    E0 = cameras.world_to_camera[:, 0].double().numpy()
    # The face: what the landmarks surround; the back of a head is anybody's guess.
    ids = faces[0][:, 2] > 0.02
    vertex: list[float] = []
    turn: list[float] = []
    for t in range(frames):
        aligned = umeyama(got[t][ids], faces[t][ids].astype(float))
        assert aligned is not None  # so many points of a face fix it
        vertex.append(np.linalg.norm(aligned(got[t][ids]) - faces[t][ids], axis=1).mean())
        turn.append(_degrees(E[t, :3, :3] @ E0[t, :3, :3].T))
    still = head.neutral
    with torch.no_grad():
        rest = model.vertices(found.identity, _rest(found.state)).double().numpy()[0]
    moved = np.linalg.norm((got - rest) - (faces - still), axis=-1)[:, ids].mean()
    size = np.linalg.norm(faces - still, axis=-1)[:, ids].mean()
    code = (found.codes.values - truth.values)[:, :39].double().pow(2).mean().sqrt()
    reach = truth.values[:, :39].double().pow(2).mean().sqrt()
    off = np.sqrt((found.errors**2).mean())
    return {
        "reprojection_px": float(off),
        "vertex_mm": 1000 * float(np.mean(vertex)),
        "expression_mm": 1000 * float(moved),
        "expression_size_mm": 1000 * float(size),
        "code_rms": float(code),
        "code_size_rms": float(reach),
        "camera_degrees": float(np.mean(turn)),
        "frames_per_s": frames / seconds,
    }


def _rest(state: FaceState) -> FaceState:
    return FaceState(*(torch.zeros_like(getattr(state, f.name)) for f in fields(state)))


def _degrees(R: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))))
