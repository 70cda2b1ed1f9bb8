"""How well heads are found in pictures: people are drawn, detected, fitted, and compared.

The fit of many points stands beside that of 68 landmarks, on the same pictures and faces.

Letters: n pictures, m moments, v views.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image

from pipeline.bench.rows import BenchRow, table
from pipeline.core.arrays import Rgb
from pipeline.core.types import Camera, ExpressionCode
from pipeline.evaluate.tables import Table
from pipeline.faces.layouts import ARKIT, arkit_to_code, code_to_arkit, gaze_angles
from pipeline.perception.detectors import get_detector
from pipeline.perception.landmarks import Detector, Face
from pipeline.perception.points import PointsSeen
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.render.cpu.threads import run, thread_count
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression, sequence
from pipeline.synthetic.subject import Frame, Subject
from pipeline.system.pools import one_thread
from pipeline.system.progress import Progress, silent
from pipeline.tracking.align import umeyama
from pipeline.tracking.fit import Observations, TrackConfig, track
from pipeline.tracking.models import FaceState, MakeHumanFace
from pipeline.tracking.tracker import HeadTracker

SIZE, FPS = 384, 25.0
SHUT = 0.8
"""A lid of at least this weight is shut; seen as shut from half of it."""
DETECTOR = "mesh"
COLUMNS = {
    "setting": "{setting}",
    "fit": "{fit}",
    "deg (p90)": "{rotation_deg:.2f} ({rotation_p90:.2f})",
    "between": "{between_deg:.2f}",
    "shift mm": "{shift_mm:.1f}",
    "face mm": "{vertex_mm:.2f}",
    "motion mm (of)": "{motion_mm:.2f} ({motion_true_mm:.2f})",
    "gaze deg": "{gaze_deg:.1f}",
    "shut": "{lids:.0%}",
    "focal %": "{focal_percent:.1f}",
    "per s": "{frames_per_s:.1f}",
}


class Row(BenchRow):
    """One setting and fit; medians over pictures of all people, where nothing else is said."""

    setting: str
    fit: str
    people: int
    frames: int
    """Pictures in which a face was detected, of all people."""
    missed: int
    """Pictures in which none was."""
    rotation_deg: float
    rotation_p90: float
    between_deg: float
    """Of the rotation from a picture to the next; of a video's still head, its jitter."""
    shift_mm: float
    """Of the head's place before the camera."""
    vertex_mm: float
    """Mean over the face, in the head frame; of unknown cameras, which leave the size open, after
    the best rigid motion and scale."""
    motion_mm: float
    """Error of how far the face moves from rest, mean."""
    motion_true_mm: float
    gaze_deg: float
    """Of the eyes in the head, open ones only."""
    lids: float
    """Share of shut lids that are seen as shut; nan if there is none."""
    focal_percent: float
    frames_per_s: float
    """Moments, with detection."""


@dataclass(frozen=True)
class Scene:
    """Pictures of one person and the truth about them."""

    pictures: list[Rgb]
    cameras: list[Camera]
    """Of each, from the head frame."""
    rig: list[Camera] | None
    """Of each, from the world, if they are known."""
    moments: list[int]
    weights: np.ndarray
    """[m, 52]"""
    subject: Subject
    video: bool = False


@dataclass(frozen=True)
class Answer:
    """What a fit says of those pictures of a scene in which a face was found."""

    which: list[int]
    cameras: list[Camera]
    neutral: np.ndarray
    posed: np.ndarray
    """Of each moment that is left."""
    codes: ExpressionCode
    moments: list[int]
    """For each picture, the row of `posed`."""
    seconds: float


def bench(
    people: int = 4, frames: int = 8, seed: int = 0, progress: Progress = silent
) -> list[Row]:
    """Draw people of the test split, find their heads with both fits, compare.

    Args:
        people: How many.
        frames: Moments of the calibrated rig; a video has three times as many.
        seed: Start of all random numbers.
        progress: Told after each person and setting.

    Raises:
        MissingPackageError: If the detector's package is not installed.
        MissingWeightsError: If its weights are not here.
    """
    torch.set_num_threads(max(torch.get_num_threads(), 1))
    detector, tracker = get_detector(DETECTOR).make(), HeadTracker()
    old = MakeHumanFace()
    makers: list[tuple[str, Callable[[Subject, np.random.Generator, int], Scene]]] = [
        ("4 calibrated views", draw_rig),
        ("4 photographs, cameras unknown", _photographs),
        ("video, still head", _video),
    ]
    rows: list[Row] = []
    for i, (setting, make) in enumerate(makers):
        scenes: list[Scene] = []
        answers: dict[str, list[Answer | None]] = {"points": [], "68 landmarks": []}
        for who in range(people):
            subject, rng = person(SyntheticConfig(split="test", seed=seed), who)
            scene = make(subject, rng, frames)
            scenes.append(scene)
            answers["points"].append(_points(scene, tracker, detector))
            answers["68 landmarks"].append(_landmarks(scene, old, detector))
            progress(i * people + who + 1, len(makers) * people)
        rows += [_row(setting, name, scenes, found) for name, found in answers.items()]
    return rows


def show(rows: Sequence[Row]) -> Table:
    """Return the rows as they are printed."""
    people, missed = rows[0]["people"], sum(row["missed"] for row in rows) // 2
    title = f"{people} people drawn, detected and fitted"
    return table(title, COLUMNS, rows, [f"No face was detected in {missed} pictures."])


def draw_rig(subject: Subject, rng: np.random.Generator, frames: int) -> Scene:
    """Draw some moments of a person as four calibrated cameras see them."""
    weights = np.stack([sample_expression(rng) for _ in range(frames)])
    cameras = sample_cameras(rng, frames, 4, SIZE)
    pairs = [(t, v) for t in range(frames) for v in range(4)]
    return Scene(
        [_draw(subject, weights[t], cameras[t][v], rng) for t, v in pairs],
        [cameras[t][v] for t, v in pairs],
        [cameras[0][v] for _, v in pairs],
        [t for t, _ in pairs],
        weights,
        subject,
    )


def _photographs(subject: Subject, rng: np.random.Generator, frames: int) -> Scene:
    weights = np.stack([sample_expression(rng) for _ in range(4)])
    cameras = sample_cameras(rng, 4, 4, SIZE)
    seen = [cameras[t][t] for t in range(4)]
    pictures = [_draw(subject, w, c, rng) for w, c in zip(weights, seen, strict=True)]
    return Scene(pictures, seen, None, [0, 1, 2, 3], weights, subject)


def _video(subject: Subject, rng: np.random.Generator, frames: int) -> Scene:
    weights = sequence(rng, 3 * frames, FPS)
    camera = sample_cameras(rng, 1, 1, SIZE)[0][0]
    backdrop = _backdrop(rng)
    pictures = [_over(subject.render(w, camera), backdrop) for w in weights]
    n = len(pictures)
    return Scene(pictures, [camera] * n, None, list(range(n)), weights, subject, video=True)


def _draw(subject: Subject, weights: np.ndarray, camera: Camera, rng: np.random.Generator) -> Rgb:
    return _over(subject.render(weights, camera), _backdrop(rng))


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """Return a blurred room: a head before plain white is too easy, or too strange."""
    cells = (rng.uniform(40, 220, 3) + rng.normal(0, 35, (6, 6, 3))).clip(0, 255)
    image = Image.fromarray(cells.astype(np.uint8)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(image, np.float32)


def _over(frame: Frame, backdrop: np.ndarray) -> Rgb:
    """Put a head that was drawn on white before something else."""
    alpha = frame.alpha[..., None] / np.float32(255)
    solid = frame.rgb - 255 * (1 - alpha)
    return (solid + (1 - alpha) * backdrop).clip(0, 255).round().astype(np.uint8)


def find_faces(scene: Scene, detector: Detector) -> list[Face | None]:
    """Return the largest face of each picture; found in all threads, as a dataset's are."""
    found: list[Face | None] = [None] * len(scene.pictures)

    def find(i: int) -> None:
        found[i] = max(detector(scene.pictures[i]), key=lambda f: f.size, default=None)

    run(find, len(found), thread_count())
    return found


def see_faces(scene: Scene, faces: Sequence[Face | None], tracker: HeadTracker) -> list[PointsSeen]:
    """Return what is seen of the faces, likewise."""
    shown = [(i, face) for i, face in enumerate(faces) if face is not None]
    seen: dict[int, PointsSeen] = {}

    def see(n: int) -> None:
        i, face = shown[n]
        seen[i] = tracker.see(scene.pictures[i], face)

    threads = thread_count()
    with one_thread():
        run(see, len(shown), threads)
    return [seen[i] for i, _ in shown]


def moments_left(scene: Scene, which: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the moments of some pictures, and the same numbered without gaps."""
    kept = sorted({scene.moments[i] for i in which})
    return kept, [kept.index(scene.moments[i]) for i in which]


def _points(scene: Scene, tracker: HeadTracker, detector: Detector) -> Answer | None:
    start = time.perf_counter()
    if scene.video:
        followed = tracker.follow(scene.pictures, detector)
        if not any(one is not None for one in followed.seen):
            return None
        found, which = tracker.fit_video(followed, (SIZE, SIZE))
        moments = list(range(len(which)))
    else:
        faces = find_faces(scene, detector)
        which = [i for i, face in enumerate(faces) if face is not None]
        if not which:
            return None
        seen = see_faces(scene, faces, tracker)
        _, moments = moments_left(scene, which)
        rig = None if scene.rig is None else [scene.rig[i] for i in which]
        found = tracker.fit(seen, [(SIZE, SIZE)] * len(which), cameras=rig, moments=moments)
    seconds = time.perf_counter() - start
    return Answer(
        which, list(found.bundle.cameras), found.mesh.neutral, found.mesh.posed, found.codes,
        moments, seconds,
    )  # fmt: skip


@torch.no_grad()
def _unposed(model: MakeHumanFace, identity: torch.Tensor, state: FaceState) -> np.ndarray:
    rest = FaceState.neutral(model.expression_size)
    return torch.cat([model.vertices(identity, rest), model.vertices(identity, state)]).numpy()


def _landmarks(scene: Scene, model: MakeHumanFace, detector: Detector) -> Answer | None:
    start = time.perf_counter()
    faces = find_faces(scene, detector)
    kept = [i for i, face in enumerate(faces) if face is not None]
    if not kept:
        return None
    rows, moments = moments_left(scene, kept)
    views = 1 if scene.rig is None else 4
    points = np.full((len(rows), views, 68, 2), np.nan)
    for i, moment in zip(kept, moments, strict=True):
        face = faces[i]
        assert face is not None
        points[moment, i % views] = face.landmarks
    cameras = None
    if scene.rig is not None:
        E, K = (
            torch.stack([getattr(c, n) for c in scene.rig[:4]]) for n in ("world_to_camera", "K")
        )
        cameras = Camera(E, K, SIZE, SIZE)
    seen = Observations(points, cameras, ((SIZE, SIZE),) * len(rows), get_detector(DETECTOR).bias())
    found = track(model, seen, TrackConfig(smooth=0.3 if scene.video else 0.0))
    seconds = time.perf_counter() - start
    both = _unposed(model, found.identity, found.state)
    of = [found.cameras[m][i % views] for i, m in zip(kept, moments, strict=True)]
    return Answer(kept, of, both[0], both[1:], found.codes, moments, seconds)


def _row(setting: str, name: str, scenes: Sequence[Scene], found: Sequence[Answer | None]) -> Row:
    """Compare the answers with the truth."""
    every: dict[str, list[float]] = {}

    def note(key: str, *values: float) -> None:
        every.setdefault(key, []).extend(values)

    missed = 0
    for scene, answer in zip(scenes, found, strict=True):
        if answer is None:
            missed += len(scene.pictures)
            continue
        missed += len(scene.pictures) - len(answer.which)
        got = [c.world_to_camera.double().numpy() for c in answer.cameras]
        true = [scene.cameras[i].world_to_camera.double().numpy() for i in answer.which]
        note("turn", *[_degrees(a[:3, :3] @ b[:3, :3].T) for a, b in zip(got, true, strict=True)])
        steps = [b[:3, :3].T @ a[:3, :3] for a, b in zip(got, got[1:])]
        wanted = [b[:3, :3].T @ a[:3, :3] for a, b in zip(true, true[1:])]
        note("between", *[_degrees(a @ b.T) for a, b in zip(steps, wanted, strict=True)])
        note("shift", *[1000 * _norm(a[:3, 3] - b[:3, 3]) for a, b in zip(got, true, strict=True)])
        focal = [float(c.K[0, 0]) for c in answer.cameras]
        for f, i in zip(focal, answer.which, strict=True):
            note("focal", 100 * abs(f / float(scene.cameras[i].K[0, 0]) - 1))
        moments = [scene.moments[i] for i in answer.which]
        rows = dict(zip(answer.moments, moments, strict=True))
        head = scene.subject.head
        front = head.neutral[:, 2] > 0.02
        weights = code_to_arkit(answer.codes).double().numpy()
        for row, moment in rows.items():
            truth = head.vertices(scene.weights[moment])
            note("vertex", 1000 * _mean(_placed(answer.posed[row], truth, front, scene), front))
            moved = truth - head.neutral
            note("motion", 1000 * _mean(answer.posed[row] - answer.neutral - moved, front))
            note("moved", 1000 * _mean(moved, front))
            w = code_to_arkit(arkit_to_code(scene.weights[moment])).double().numpy()
            for side in ("Left", "Right"):
                shut = w[ARKIT[f"eyeBlink{side}"]]
                if shut >= SHUT:
                    note("shut", float(weights[row, ARKIT[f"eyeBlink{side}"]] >= SHUT / 2))
                if shut < 0.5:
                    note("gaze", _norm(gaze_angles(weights[row], side) - gaze_angles(w, side)))
        note("seconds", answer.seconds)
        note("count", len(rows))

    def middle(key: str) -> float:
        return float(np.median(every[key])) if every.get(key) else float("nan")

    def mean(key: str) -> float:
        return float(np.mean(every[key])) if every.get(key) else float("nan")

    turns = every.get("turn", [float("nan")])
    return Row(
        setting=setting, fit=name, people=len(scenes), frames=len(every.get("turn", [])),
        missed=missed, rotation_deg=middle("turn"), rotation_p90=float(np.percentile(turns, 90)),
        between_deg=middle("between"), shift_mm=middle("shift"), vertex_mm=middle("vertex"),
        motion_mm=mean("motion"), motion_true_mm=mean("moved"), gaze_deg=middle("gaze"),
        lids=mean("shut"), focal_percent=middle("focal"),
        frames_per_s=mean("count") / mean("seconds"),
    )  # fmt: skip


def _placed(
    got: Float[np.ndarray, "v 3"],
    truth: Float[np.ndarray, "v 3"],
    which: np.ndarray,
    scene: Scene,
) -> Float[np.ndarray, "v 3"]:
    """Return how far vertices are off."""
    if scene.rig is None:
        moved = umeyama(got[which].astype(float), truth[which].astype(float))
        assert moved is not None  # so many points of a face fix it
        got = moved(got)
    return got - truth


def _mean(way: Float[np.ndarray, "v 3"], which: np.ndarray) -> float:
    return float(np.linalg.norm(way[which], axis=-1).mean())


def _norm(way: np.ndarray) -> float:
    return float(np.linalg.norm(way))


def _degrees(R: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1))))
