"""How far an avatar's mouth and eyes go under a code, beside the person's own.

No detector is asked, whose errors would be measured too. The truth is drawn under many strengths
of one movement, and the one that looks most like the avatar under the whole of it is found.

Letters: k strengths, h height, w width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.bench.rows import BenchRow, table
from pipeline.core.errors import InputError
from pipeline.core.geometry import project
from pipeline.core.types import Camera, View
from pipeline.evaluate.tables import Table
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import ARKIT, ARKIT_NAMES, MAKEHUMAN, arkit_to_code
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.subject import Frame, Subject
from pipeline.system.progress import Progress, silent

MOUTH, EYES = slice(48, 68), slice(36, 48)
MARGIN = 0.03
"""Around the landmarks, widths of the picture."""
STRENGTHS = np.linspace(0.0, 1.0, 11)
GAZE_DEGREES = 13.0
"""Of the eyes at a gaze unit's weight 1, to the sides; up and down are nearly as far."""
INPUTS = 4


@dataclass(frozen=True)
class Movement:
    """One movement of the face, with a strength in [-1, 1] or [0, 1]."""

    name: str
    landmarks: slice
    weights: Callable[[float], Float32[np.ndarray, "52"]]
    low: float = 0.0
    asked: tuple[float, ...] = (1.0,)
    """Strengths that the avatar is asked for."""


class Row(BenchRow):
    """One movement; means over people."""

    movement: str
    people: int
    share: float
    """How far the avatar goes, of how far it was asked to."""
    error: float
    """Mean distance of the strength found from that asked for."""
    degrees: float
    """The same for the gaze, in degrees; nan for other movements."""


COLUMNS = {
    "movement": "{movement}",
    "share of the truth": "{share:.0%}",
    "error": "{error:.2f}",
    "degrees": "{degrees:.1f}",
}


def movements() -> tuple[Movement, ...]:
    """Return what is measured: jaw, lids, and the gaze to the sides and up and down."""

    def of(**weights: float) -> Callable[[float], Float32[np.ndarray, "52"]]:
        def at(strength: float) -> Float32[np.ndarray, "52"]:
            w = np.zeros(len(ARKIT_NAMES), np.float32)
            for name, sign in weights.items():
                w[ARKIT[name]] = max(sign * strength, 0.0)
            return w

        return at

    aside = of(eyeLookOutLeft=1, eyeLookInRight=1, eyeLookInLeft=-1, eyeLookOutRight=-1)
    upward = of(eyeLookUpLeft=1, eyeLookUpRight=1, eyeLookDownLeft=-1, eyeLookDownRight=-1)
    both = (-0.8, 0.8)
    return (
        Movement("jaw open", MOUTH, of(jawOpen=1)),
        Movement("lids shut", EYES, of(eyeBlinkLeft=1, eyeBlinkRight=1)),
        Movement("gaze aside", EYES, aside, -1.0, both),
        Movement("gaze up and down", EYES, upward, -1.0, both),
    )


@torch.no_grad()
def bench(
    checkpoint: Path | None = None,
    *,
    people: int = 12,
    size: int = 256,
    progress: Progress = silent,
) -> list[Row]:
    """Measure avatars of held-out synthetic people, made of four pictures with known meshes.

    Args:
        checkpoint: Of the model; the shipped one if not given.
        people: How many.
        size: Width and height of all pictures, pixels.
        progress: Told after each person.

    Raises:
        InputError: If the model takes other codes than those of the synthetic people.
    """
    net, loaded = load_model(checkpoint_path(checkpoint))
    if loaded.header["layout"] != MAKEHUMAN:
        raise InputError(
            f"Synthetic people move by codes of {MAKEHUMAN}; this model takes "
            f"{loaded.header['layout']}.",
            "Give a model that was trained on synthetic people.",
        )
    every: dict[str, list[tuple[float, float]]] = {m.name: [] for m in movements()}
    front = orbit(1, size)[0]
    for who in range(people):
        subject, rng = person(SyntheticConfig(split="test"), who)
        weights = np.stack([sample_expression(rng) for _ in range(INPUTS)])
        cameras = sample_cameras(rng, 1, INPUTS, size)[0]
        frames = [subject.render(w, cameras[i]) for i, w in enumerate(weights)]
        mesh = TrackedMesh(MAKEHUMAN, subject.head.neutral, np.stack([f.vertices for f in frames]))
        avatar = Avatar.create(net, _view(frames, cameras), MAKEHUMAN, {}, mesh)
        for movement in movements():
            every[movement.name] += _person(avatar, subject, movement, front)
        progress(who + 1, people)
    return [_row(name, np.array(found), people) for name, found in every.items()]


def show(rows: Sequence[Row], people: int) -> Table:
    """Return the rows as they are printed."""
    return table(f"Mouth and eyes of {people} people the model never saw", COLUMNS, rows)


def _person(
    avatar: Avatar, subject: Subject, movement: Movement, camera: Camera
) -> list[tuple[float, float]]:
    """Return pairs of the strength asked for and that found."""
    strengths = movement.low + (1.0 - movement.low) * STRENGTHS
    frames = [subject.render(movement.weights(s), camera) for s in strengths]
    window = _window(frames, movement.landmarks, camera)
    truth = np.stack([frame.rgb[window] / np.float32(255) for frame in frames])
    pairs: list[tuple[float, float]] = []
    for asked in movement.asked:
        code = arkit_to_code(movement.weights(asked)[None])[0:1]
        drawn = avatar.render(code[0], camera).color.clamp(0, 1).numpy()[window]
        pairs.append((asked, nearest(strengths, truth, drawn)))
    return pairs


def nearest(
    strengths: Float[np.ndarray, "k"],
    truth: Float[np.ndarray, "k h w 3"],
    drawn: Float[np.ndarray, "h w 3"],
) -> float:
    """Return the strength whose picture is most like one, between the steps too.

    The mean colour of each picture is taken off first: an avatar that is somewhat too dark is not
    one that moves too little.
    """
    seen = truth - truth.mean((1, 2), keepdims=True)
    errors = ((seen - (drawn - drawn.mean((0, 1)))) ** 2).mean((1, 2, 3))
    best = int(errors.argmin())
    if not 0 < best < len(errors) - 1:
        return float(strengths[best])
    before, here, after = errors[best - 1 : best + 2]
    curve = before - 2 * here + after
    part = 0.5 * (before - after) / curve if curve > 0 else 0.0
    return float(strengths[best] + part * (strengths[1] - strengths[0]))


def _window(frames: Sequence[Frame], part: slice, camera: Camera) -> tuple[slice, slice]:
    """Return rows and columns of all that some landmarks reach."""
    points = torch.from_numpy(np.concatenate([frame.landmarks[part] for frame in frames]))
    pixels, _ = project(camera, points)
    margin = MARGIN * camera.width
    low = (pixels.amin(0) - margin).floor().clamp(min=0).int().tolist()
    high = (pixels.amax(0) + margin).ceil().int().tolist()
    return slice(low[1], high[1]), slice(low[0], high[0])


def _row(name: str, found: Float[np.ndarray, "n 2"], people: int) -> Row:
    asked, got = found.T
    error = float(np.abs(got - asked).mean())
    return Row(
        movement=name,
        people=people,
        share=float((got * np.sign(asked)).mean() / np.abs(asked).mean()),
        error=error,
        degrees=error * GAZE_DEGREES if name.startswith("gaze") else float("nan"),
    )


def _view(frames: Sequence[Frame], cameras: Camera) -> View:
    image: Tensor = torch.from_numpy(np.stack([frame.rgb for frame in frames]))
    alpha: Tensor = torch.from_numpy(np.stack([frame.alpha for frame in frames]))
    return View(image.permute(0, 3, 1, 2) / 255, alpha[:, None] / 255, cameras)
