"""Learn what a fit to points errs by in who a person is, from drawn people.

Out   OUT: correction.safetensors, the regressions of `pipeline.tracking.correction`

    python tools/learn_correction.py OUT --people 600 --workers 2

People are drawn as four calibrated cameras see them at three moments, detected and fitted as
`fastgha bench track` does: all pictures as a rig, and one of each moment as photographs. What the
regressions leave of the errors is told by tenths of the people held back.
"""

# pyright: basic
import argparse
import hashlib
import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from pipeline.bench.detect import SIZE, draw_rig, find_faces, moments_left, see_faces
from pipeline.io.tensors import write_tensors
from pipeline.perception.detectors import get_detector
from pipeline.perception.points import PointsFinder
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.tracking.bundle import Sighting, fit
from pipeline.tracking.correction import KIND, SETTINGS, VERSION, Setting, predictors
from pipeline.tracking.models import identity_space
from pipeline.tracking.surface import STATE, Surface
from pipeline.tracking.tracker import RIG, HeadTracker, TrackerConfig

MOMENTS, VIEWS = 3, 4
RIDGE = 300.0
"""In people: coefficients of predictors of size one are drawn to none."""
WILD = 6.0
"""Sigmas beyond which a fit failed: nothing is learnt from it."""
TENTHS = 10
Rows = dict[str, list[tuple[np.ndarray, np.ndarray]]]
"""By setting, of each person: predictors and the error of identity."""


class Fits:
    """Fits drawn people, and compares."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.detector, finder = get_detector("mesh").make(), PointsFinder()
        self.tracker = HeadTracker(finder)
        self.surface = Surface(finder.vertices)
        self.bias = get_detector("mesh").bias()
        mean, basis = identity_space()
        self.mean, self.inverse = mean, np.linalg.pinv(basis.reshape(len(basis), -1).T)

    def __call__(self, seed: int, who: int) -> Rows:
        """Return a person's predictors and error of identity, by setting, where the fit held."""
        subject, rng = person(SyntheticConfig(split="train", seed=seed), who)
        scene = draw_rig(subject, rng, MOMENTS)
        faces = find_faces(scene, self.detector)
        which = [i for i, face in enumerate(faces) if face is not None]
        seen = see_faces(scene, faces, self.tracker)
        assert scene.rig is not None  # it is calibrated
        every = {
            i: Sighting(one.points, one.sigma, (SIZE, SIZE), scene.moments[i], scene.rig[i],
                        marks=one.marks, numbers=one.numbers, numbers_sigma=one.numbers_sigma)
            for one, i in zip(seen, which, strict=True)
        }  # fmt: skip
        # Of each moment another camera's picture, as if no camera were known.
        single = [i for i in which if i % VIEWS == scene.moments[i]]
        true = self.inverse @ (subject.head.neutral - self.mean).ravel()
        rows: Rows = {}
        if which:
            _, moments = moments_left(scene, which)
            rig = [replace(every[i], moment=m) for i, m in zip(which, moments, strict=True)]
            rows |= self._row("rig", rig, RIG, true)
        if len(single) == MOMENTS:
            free = [replace(every[i], camera=None, lens=scene.moments[i]) for i in single]
            rows |= self._row("photographs", free, TrackerConfig(), true)
        return rows

    def _row(
        self, setting: Setting, seen: list[Sighting], config: TrackerConfig, true: np.ndarray
    ) -> Rows:
        found = fit(self.surface, seen, config.points, bias=self.bias)
        if np.median(found.misfit) > WILD:
            return {}
        told = np.mean([one.numbers[STATE:] for one in seen if one.numbers is not None], axis=0)
        return {setting: [(predictors(found.identity, told), true - found.identity)]}


def some(job: tuple[int, range]) -> Rows:
    """Fit some people of a seed."""
    fits, rows = Fits(), {}
    for who in job[1]:
        join(rows, fits(job[0], who))
    return rows


def join(rows: Rows, more: Rows) -> None:
    """Add rows to others."""
    for setting, some in more.items():
        rows.setdefault(setting, []).extend(some)


def solve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and shift of y by x, by ridge regression on x of size one."""
    centre, unit = x.mean(0), x.std(0)
    z, off = (x - centre) / unit, y - y.mean(0)
    slope = np.linalg.solve(z.T @ z + RIDGE * np.eye(z.shape[1]), z.T @ off).T / unit
    return slope, y.mean(0) - slope @ centre


def left(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return errors of the front of the face at rest before and after, medians, millimetres."""
    mean, basis = identity_space()
    front = basis[:, mean[:, 2] > 0.02]
    rest = np.zeros_like(y)
    tenth = np.arange(len(x)) % TENTHS
    for k in range(TENTHS):
        slope, shift = solve(x[tenth != k], y[tenth != k])
        rest[tenth == k] = y[tenth == k] - x[tenth == k] @ slope.T - shift

    def middle(errors: np.ndarray) -> float:
        way = np.einsum("nk,kvc->nvc", errors, front)
        return 1000 * float(np.median(np.linalg.norm(way, axis=-1).mean(1)))

    return middle(y), middle(rest)


def save(out: Path, rows: Rows, facts: dict) -> None:
    """Learn from all, and write the regressions with their provenance beside them."""
    tensors, notes = {}, []
    for setting in SETTINGS:
        x, y = (np.stack(part) for part in zip(*rows[setting], strict=True))
        slope, shift = solve(x, y)
        tensors |= {f"{setting}.slope": torch.from_numpy(slope).half(),
                    f"{setting}.shift": torch.from_numpy(shift).half()}  # fmt: skip
        before, after = left(x, y)
        notes.append(
            f"{setting}: {len(x)} people, tenths of them held back: face at rest off by "
            f"{before:.2f} mm, corrected {after:.2f} mm"
        )
        print(notes[-1])
    path = out / "correction.safetensors"
    write_tensors(path, tensors, {"format": KIND, "version": VERSION})
    facts = {**facts, "notes": notes}
    facts[path.name] = f"sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    (out / "PROVENANCE.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """Draw, fit and learn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--people", type=int, default=600, help="of each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[900, 902])
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        (seed, range(first, min(first + 20, args.people)))
        for seed in args.seeds
        for first in range(0, args.people, 20)
    ]
    rows: Rows = {}
    with get_context("spawn").Pool(args.workers) as pool:
        for n, found in enumerate(pool.imap(some, jobs)):
            join(rows, found)
            print(f"{n + 1} of {len(jobs)} parts, {len(rows['rig'])} people", flush=True)
    seeds = " ".join(map(str, args.seeds))
    command = f"python tools/learn_correction.py OUT --people {args.people} --seeds {seeds}"
    save(args.out, rows, {"made_by": [command]})


if __name__ == "__main__":
    main()
