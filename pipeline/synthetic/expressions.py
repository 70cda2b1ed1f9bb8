"""Draw expressions: ARKit-52 weights of single moments and of moving faces.

Real expressions move few units at a time, both sides nearly alike; drawing all units freely
gives grimaces that nobody makes.

Letters: t frames.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from pipeline.faces.layouts import ARKIT, ARKIT_NAMES

Weights = Float32[np.ndarray, "52"]
WeightSequence = Float32[np.ndarray, "t 52"]


@dataclass(frozen=True)
class _Habit:
    """How often and how strongly one unit, or a pair of units, is used."""

    unit: str
    """Name, without Left and Right for a pair."""
    chance: float
    top: float
    """Greatest weight."""
    seconds: float = 0.5
    """Time constant in sequences."""


HABITS = (
    _Habit("browDown", 0.22, 1.0),
    _Habit("browInnerUp", 0.2, 1.0),
    _Habit("browOuterUp", 0.2, 1.0),
    _Habit("cheekPuff", 0.07, 0.9),
    _Habit("cheekSquint", 0.15, 0.9),
    _Habit("eyeSquint", 0.15, 0.9),
    _Habit("eyeWide", 0.12, 0.9),
    _Habit("jawForward", 0.07, 0.7),
    _Habit("mouthDimple", 0.1, 0.8),
    _Habit("mouthFrown", 0.14, 0.9),
    _Habit("mouthFunnel", 0.12, 0.9, 0.3),
    _Habit("mouthLowerDown", 0.14, 0.9, 0.3),
    _Habit("mouthPress", 0.1, 0.8),
    _Habit("mouthPucker", 0.14, 0.9, 0.3),
    _Habit("mouthRollLower", 0.08, 0.7, 0.3),
    _Habit("mouthRollUpper", 0.08, 0.7, 0.3),
    _Habit("mouthShrugLower", 0.08, 0.7),
    _Habit("mouthShrugUpper", 0.08, 0.7),
    _Habit("mouthSmile", 0.3, 1.0, 0.7),
    _Habit("mouthStretch", 0.1, 0.8),
    _Habit("mouthUpperUp", 0.14, 0.9, 0.3),
    _Habit("noseSneer", 0.12, 0.9),
)
EXTREME = 0.25
"""Share of single expressions with a wide jaw, bared teeth, shut eyes or a strong gaze."""
MOUTH = frozenset(h.unit for h in HABITS if h.unit.startswith("mouth"))
MOUTH_TOTAL = 1.5
"""The weights of all mouth shapes together stay below this: more tears the lips apart."""


def sample_expression(rng: np.random.Generator) -> Weights:
    """Draw one expression: a few units, nearly symmetric, often with an open mouth."""
    w = np.zeros(len(ARKIT_NAMES))
    strength: dict[str, Any] = {
        h.unit: h.top * rng.beta(1.3, 1.3) if rng.random() < h.chance else 0.0 for h in HABITS
    }
    _limit_mouth(strength)
    for unit, value in strength.items():
        skew = np.exp(rng.normal(0, 0.12)) if rng.random() < 0.85 else rng.uniform(0, 0.4)
        _put(w, unit, value, skew, left_first=bool(rng.random() < 0.5))
    if rng.random() < 0.55:
        w[ARKIT["jawOpen"]] = rng.beta(1.1, 1.6)
        if rng.random() < 0.15:
            w[ARKIT["mouthClose"]] = w[ARKIT["jawOpen"]] * rng.uniform(0.3, 0.95)
    if rng.random() < 0.15:
        w[ARKIT[str(rng.choice(["jawLeft", "jawRight"]))]] = rng.uniform(0.1, 0.8)
    if rng.random() < 0.12:
        w[ARKIT[str(rng.choice(["mouthLeft", "mouthRight"]))]] = rng.uniform(0.1, 0.8)
    if rng.random() < 0.05:
        w[ARKIT["tongueOut"]] = rng.uniform(0.3, 0.9)
        w[ARKIT["jawOpen"]] = max(w[ARKIT["jawOpen"]], rng.uniform(0.35, 0.7))
        w[ARKIT["mouthClose"]] = 0.0
    kind = rng.random()
    if kind < 0.15:
        lids = np.full(2, rng.uniform(0.85, 1.0))
    elif kind < 0.2:
        lids = rng.permutation([rng.uniform(0.8, 1.0), rng.uniform(0, 0.15)])
    elif kind < 0.5:
        lids = np.full(2, rng.uniform(0.0, 0.5))
    else:
        lids = np.zeros(2)
    w[ARKIT["eyeBlinkLeft"]], w[ARKIT["eyeBlinkRight"]] = lids
    if rng.random() < 0.7:
        _look(w, rng.normal(0, 0.5), rng.normal(0, 0.45))
    if rng.random() < EXTREME:
        _exaggerate(w, rng)
    return _bounded(w).astype(np.float32)


def _exaggerate(w: Weights, rng: np.random.Generator) -> None:
    """Open the jaw wide, bare the teeth, shut the eyes or turn them far, over what is there."""
    kind = str(rng.choice(["jaw", "teeth", "lids", "gaze"]))
    if kind == "jaw":
        w[ARKIT["jawOpen"]], w[ARKIT["mouthClose"]] = rng.uniform(0.75, 1.0), 0.0
    elif kind == "teeth":
        bare, open_ = rng.uniform(0.6, 1.0, 4), rng.uniform(0.0, 0.25)
        for side in ("Left", "Right"):
            w[ARKIT[f"mouthUpperUp{side}"]], w[ARKIT[f"mouthLowerDown{side}"]] = bare[:2]
            w[ARKIT[f"mouthSmile{side}"]] = max(w[ARKIT[f"mouthSmile{side}"]], bare[2] - 0.3)
        w[ARKIT["jawOpen"]], w[ARKIT["mouthClose"]] = open_, 0.0
    elif kind == "lids":
        w[ARKIT["eyeBlinkLeft"]] = w[ARKIT["eyeBlinkRight"]] = 1.0
    else:
        around = rng.uniform(0, 2 * np.pi)
        _look(w, 1.4 * np.cos(around), 1.4 * np.sin(around))


def sequence(rng: np.random.Generator, frames: int, fps: float) -> WeightSequence:
    """Draw a moving face that speaks, smiles, blinks and looks around.

    Each habit is an Ornstein-Uhlenbeck process, of which only what rises above a threshold is
    seen; mouth openings, smiles, blinks and glances come on top as short events, so that even
    a few seconds show all of them.
    """
    w = np.zeros((frames, len(ARKIT_NAMES)))
    time = np.arange(frames) / fps
    length = frames / fps
    strength: dict[str, Any] = {
        h.unit: h.top * _above(rng, frames, fps, h.seconds, h.chance) for h in HABITS
    }
    strength["mouthSmile"] = np.maximum(
        strength["mouthSmile"], _bumps(rng, time, every=3.0, width=1.6, low=0.6, high=1.0)
    )
    strength["browOuterUp"] = np.maximum(
        strength["browOuterUp"], _bumps(rng, time, every=4.0, width=0.9, low=0.4, high=1.0)
    )
    _limit_mouth(strength)
    for unit, value in strength.items():
        skew = np.exp(_ou(rng, frames, fps, 1.0) * 0.1)
        _put(w, unit, value, skew, left_first=bool(rng.random() < 0.5))
    speech = np.maximum(
        0.6 * _above(rng, frames, fps, 0.18, 0.5),
        _bumps(rng, time, every=2.2, width=0.7, low=0.55, high=0.95),
    )
    w[:, ARKIT["jawOpen"]] = speech
    w[:, ARKIT["mouthClose"]] = speech * 0.6 * _above(rng, frames, fps, 0.4, 0.1)
    side = 0.6 * _ou(rng, frames, fps, 0.8)
    w[:, ARKIT["jawLeft"]] = np.clip(side - 0.5, 0, 0.6)
    w[:, ARKIT["jawRight"]] = np.clip(-side - 0.5, 0, 0.6)
    blink = _bumps(rng, time, every=2.4, width=0.3, low=0.97, high=1.0)
    w[:, ARKIT["eyeBlinkLeft"]] = w[:, ARKIT["eyeBlinkRight"]] = blink
    # The eyes rest, jump and rest: a filtered staircase, not a random walk.
    jumps = np.sort(rng.uniform(0, length, max(int(length / 0.9), 2)))
    place = np.searchsorted(jumps, time)
    rests = rng.uniform(-0.9, 0.9, (len(jumps) + 1, 2))
    yaw, pitch = _smooth(rests[place], max(1, round(0.08 * fps))).T
    for t in range(frames):
        _look(w[t], yaw[t], pitch[t])
    return np.stack([_bounded(row) for row in w]).astype(np.float32)


def _limit_mouth(strength: dict[str, Any]) -> None:
    """Weaken the mouth shapes together where they are too many."""
    total = sum((strength[u] for u in MOUTH), start=np.zeros(()))
    share = np.minimum(1.0, MOUTH_TOTAL / np.maximum(total, 1e-9))
    for unit in MOUTH:
        strength[unit] = strength[unit] * share


def _put(
    w: np.ndarray,
    unit: str,
    value: float | np.ndarray,
    skew: float | np.ndarray,
    *,
    left_first: bool,
) -> None:
    """Write a unit, or a pair of which one side is `skew` times the other."""
    if unit in ARKIT:
        w[..., ARKIT[unit]] = value
        return
    sides = ("Left", "Right") if left_first else ("Right", "Left")
    w[..., ARKIT[unit + sides[0]]] = value
    w[..., ARKIT[unit + sides[1]]] = value * skew


def _look(w: np.ndarray, yaw: float, pitch: float) -> None:
    """Turn both eyes: yaw to the subject's left and pitch up, as shares of the units' reach."""
    yaw, pitch = float(np.clip(yaw, -1, 1)), float(np.clip(pitch, -1, 1))
    for side, sign in (("Left", 1), ("Right", -1)):
        w[ARKIT[f"eyeLookOut{side}"]] = max(sign * yaw, 0)
        w[ARKIT[f"eyeLookIn{side}"]] = max(-sign * yaw, 0)
        w[ARKIT[f"eyeLookUp{side}"]] = max(pitch, 0)
        w[ARKIT[f"eyeLookDown{side}"]] = max(-pitch, 0)


def _bounded(w: np.ndarray) -> np.ndarray:
    """Keep weights in [0, 1] and free of contradictions."""
    w = w.clip(0, 1)
    w[ARKIT["mouthClose"]] = min(w[ARKIT["mouthClose"]], w[ARKIT["jawOpen"]])
    for side in ("Left", "Right"):
        shut = w[ARKIT[f"eyeBlink{side}"]]
        for unit in ("eyeWide", "eyeSquint"):
            w[ARKIT[unit + side]] *= 1 - shut
        # A gaze moves the lid as well: with a shut eye it would push it through the other.
        w[ARKIT[f"eyeLookDown{side}"]] *= 1 - 0.8 * shut
    return w


def _ou(rng: np.random.Generator, frames: int, fps: float, seconds: float) -> np.ndarray:
    """Return an Ornstein-Uhlenbeck process of variance 1, smoothed over two frames."""
    keep = np.exp(-1 / (fps * seconds))
    noise = rng.normal(size=frames) * np.sqrt(1 - keep**2)
    x = np.empty(frames)
    x[0] = rng.normal()
    for t in range(1, frames):
        x[t] = keep * x[t - 1] + noise[t]
    return _smooth(x[:, None], max(1, round(0.06 * fps)))[:, 0]


def _above(
    rng: np.random.Generator, frames: int, fps: float, seconds: float, chance: float
) -> np.ndarray:
    """Return how far a process rises above the level it passes with a chance, in [0, 1]."""
    level = np.sqrt(2) * _inverse_erf(1 - 2 * chance)
    return np.clip((_ou(rng, frames, fps, seconds) - level) / 1.3, 0, 1)


def _inverse_erf(x: float) -> float:
    """Return the inverse error function to three digits (Winitzki)."""
    a = 0.147
    log = np.log(1 - x * x)
    first = 2 / (np.pi * a) + log / 2
    return float(np.sign(x) * np.sqrt(np.sqrt(first**2 - log / a) - first))


def _bumps(
    rng: np.random.Generator, time: np.ndarray, *, every: float, width: float, low: float,
    high: float,
) -> np.ndarray:  # fmt: skip
    """Return raised-cosine bumps, one in each stretch of `every` seconds at a random place."""
    out = np.zeros(len(time))
    end = time[-1] if len(time) else 0.0
    for start in np.arange(0, max(end, 1e-6), every):
        room = min(every, end - start)
        center = start + rng.uniform(0.3, 0.7) * room
        phase = np.clip(np.abs(time - center) / (width / 2), 0, 1)
        out = np.maximum(out, rng.uniform(low, high) * (0.5 + 0.5 * np.cos(np.pi * phase)))
    return out


def _smooth(values: np.ndarray, frames: int) -> np.ndarray:
    """Average over a few frames along the first axis, the ends held."""
    padded = np.concatenate([values[:1].repeat(frames, 0), values, values[-1:].repeat(frames, 0)])
    kernel = np.ones(2 * frames + 1) / (2 * frames + 1)
    return np.stack([np.convolve(c, kernel, "valid") for c in padded.T], 1)
