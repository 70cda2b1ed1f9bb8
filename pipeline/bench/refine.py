"""How good a fit to a video becomes with time: from a network, from the bare mesh, from others.

The truth is held back: frames at the end of the video for which nothing was chosen; of a synthetic
person also views from beyond any that was filmed.

Letters: m frames, h w size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.create import of_footage
from pipeline.avatar.fit import FitConfig, Look, corrected, fit, psnr_where
from pipeline.avatar.start import bare_mesh, light
from pipeline.avatar.video import Footage, VideoConfig, read_footage, with_roles
from pipeline.bench.rows import BenchRow, table
from pipeline.core.errors import MissingPackageError, MissingWeightsError
from pipeline.core.framing import CROP_CENTER
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.evaluate.baselines import nearest_input
from pipeline.evaluate.tables import Table
from pipeline.faces.layouts import arkit_to_code
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.perception.detectors import get_detector
from pipeline.perception.lpips import load_lpips
from pipeline.perception.matting import get_matting
from pipeline.prep import photos
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.render import render
from pipeline.synthetic.expressions import sequence
from pipeline.system.progress import Bars, no_bars
from pipeline.tracking.tracker import HeadTracker, landmarks_of

MOUTH, EYES = slice(48, 68), slice(36, 48)
"""Landmarks."""
TURN, NOD = 25.0, 8.0
"""Degrees that a synthetic person's head turns to each side, and nods."""
BEYOND = 30.0
"""Degrees that views are beyond any that was filmed."""
ALIGNING, ALIGN_STEPS = {"turn": 2e-3, "shift": 1e-3}, 40
"""Rates of a pose that is fitted to a held-back frame: radians and metres a step."""
TRUTH = 24
"""Frames that are compared."""
BARE = "bare mesh"
MARKS = (0.0, 0.1, 0.25, 0.5, 1.0)
"""Shares of the time after which the avatar is measured."""
COLUMNS = {
    "start": "{start}",
    "s": "{seconds:.0f}",
    "of judges dB": "{judges:.2f}",
    "head dB": "{psnr:.2f}",
    "aligned dB": "{aligned:.2f}",
    "with shoulders": "{whole:.2f}",
    "SSIM": "{ssim:.3f}",
    "LPIPS": "{lpips:.3f}",
    "mouth dB": "{mouth:.2f}",
    "eyes dB": "{eyes:.2f}",
    "not filmed dB": "{beyond:.2f}",
    "steps/s": "{steps_per_s:.1f}",
    "Gaussians": "{gaussians:,}",
    "frames/s": "{fps:.0f}",
    "MB": "{file_mb:.2f}",
}


class Row(BenchRow):
    """An avatar at one moment of its fit; means over held-back frames."""

    start: str
    seconds: float
    psnr: float
    """Of the head, dB."""
    aligned: float
    """The same where the pose of each of these frames, and nothing else, is fitted to it before it
    is compared: how good the avatar is, apart from the tracker. nan but at the end."""
    judges: float
    """The same of the held-back frames among the fitted ones, dB."""
    whole: float
    """Of all that the matte covers, with neck and shoulders, dB."""
    ssim: float
    lpips: float
    """nan if its network is not there."""
    mouth: float
    """PSNR about the mouth, dB."""
    eyes: float
    beyond: float
    """PSNR of the head from views beyond any filmed, dB; nan where no truth is known."""
    steps_per_s: float
    gaussians: int
    fps: float
    """Frames a second of 256 pixels, deformed and drawn."""
    file_mb: float


@dataclass(frozen=True)
class Scene:
    """A video, and what is known beyond it."""

    footage: Footage
    beyond: View | None = None
    """Views that no frame shows."""
    codes: ExpressionCode | None = None
    """Their expressions."""


class Clock:
    """Seconds of work, without those of measuring."""

    def __init__(self, seconds: Callable[[], float] = time.perf_counter) -> None:
        self._seconds, self._out = seconds, 0.0

    def __call__(self) -> float:
        """Return the seconds that count."""
        return self._seconds() - self._out

    def leave_out(self, work: Callable[[], None]) -> None:
        """Do something that does not count."""
        begun = self._seconds()
        work()
        self._out += self._seconds() - begun


def bench(
    scene: Scene,
    *,
    model: Path | None = None,
    old: Sequence[Path] = (),
    config: FitConfig | None = None,
    bare: bool = True,
    seconds: Callable[[], float] = time.perf_counter,
    bars: Bars = no_bars,
) -> list[Row]:
    """Fit avatars to a video from several starts, and measure them on the way.

    Args:
        scene: See `filmed` and `synthetic`.
        model: Checkpoint; the shipped one if not given.
        old: Other checkpoints to begin from.
        config: How it is fitted.
        bare: Whether it also begins from the bare mesh.
        seconds: The clock.
        bars: Shows how far it is.
    """
    config = config or FitConfig()
    rows = [_nearest(scene)]
    starts: dict[str, Callable[[], Avatar]] = {
        "network": lambda: _of_network(checkpoint_path(model), scene.footage)
    }
    if bare:
        starts[BARE] = lambda: bare_mesh(scene.footage)
    for path in old:
        starts[path.stem] = lambda path=path: _of_network(checkpoint_path(path), scene.footage)
    for name, start in starts.items():
        # A bare mesh has no hair and no mouth: it is nothing to hold an avatar to.
        how = replace(config, held=0.0) if name == BARE else config
        with bars(f"Fitting from {name}") as tick:
            rows += _fitted(scene, name, start(), how, Clock(seconds), tick)
    return rows


def show(rows: Sequence[Row], name: str) -> Table:
    """Return the rows as they are printed."""
    return table(f"Held-back frames of {name}, against time of fitting", COLUMNS, rows)


def filmed(path: Path, size: int = 512, bars: Bars = no_bars) -> Scene:
    """Return a real video: tracked, cut out."""
    cut = get_matting("modnet")()
    find = get_detector(photos.DETECTOR).make()
    footage = read_footage(path, size, detector=find, tracker=HeadTracker(), matting=cut, bars=bars)
    return Scene(footage)


def synthetic(seconds: float = 10.0, size: int = 256, number: int = 0, fps: float = 25.0) -> Scene:
    """Return a video of a synthetic test person whose cameras, mesh and codes are the truth.

    The head turns and nods while it speaks; views beyond are more to the side by `BEYOND`.
    """
    subject, rng = person(SyntheticConfig(split="test"), number)
    count = round(seconds * fps)
    weights = sequence(rng, count, fps)
    phase = np.linspace(0, 2 * math.pi, count)
    yaw, pitch = np.radians(TURN) * np.sin(phase), np.radians(NOD) * np.sin(2.3 * phase)
    cameras = _around(yaw, pitch, size)
    frames = [subject.render(w, cameras[i]) for i, w in enumerate(weights)]
    codes = arkit_to_code(weights)
    pixels = [np.concatenate([f.rgb, f.alpha[..., None]], -1) for f in frames]
    footage = Footage(
        name=f"synthetic person {number}",
        pixels=torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous(),
        inside=torch.tensor([0.0, 0, 1, 1]).repeat(count, 1),
        cameras=cameras,
        codes=codes,
        neutral=subject.head.neutral,
        posed=np.stack([f.vertices for f in frames]),
        sharpness=np.ones(count),
        frames=np.arange(count),
    )
    footage = with_roles(footage, VideoConfig())
    rows = _evenly(footage.unseen, 8)
    side = np.radians(TURN + BEYOND) * np.where(np.arange(len(rows)) % 2, 1.0, -1.0)
    places = _around(side, np.zeros(len(rows)), size)
    drawn = [subject.render(weights[row], places[i]) for i, row in enumerate(rows)]
    image = np.stack([f.rgb for f in drawn]).transpose(0, 3, 1, 2) / np.float32(255)
    alpha = np.stack([f.alpha for f in drawn])[:, None] / np.float32(255)
    beyond = View(torch.from_numpy(image).float(), torch.from_numpy(alpha).float(), places)
    return Scene(footage, beyond, ExpressionCode(codes.values[rows], codes.layout))


@torch.no_grad()
def measure(avatar: Avatar, scene: Scene, size: int = 256) -> Mapping[str, float]:
    """Return the figures of an avatar on the frames for which nothing was chosen."""
    footage = scene.footage
    size = min(size, footage.pixels.shape[-1])

    def draw(rows: Sequence[int], truth: View) -> Tensor:
        return _draw(avatar, truth.camera, footage.codes, rows)

    found = dict(_held_back(footage, size, draw))
    found["beyond"] = math.nan
    if scene.beyond is not None and scene.codes is not None:
        seen = _draw(avatar, scene.beyond.camera, scene.codes, range(len(scene.beyond)))
        found["beyond"] = _psnr(seen, scene.beyond.image, scene.beyond.alpha > 0.5)
    return found


def aligned(avatar: Avatar, footage: Footage, count: int = 8, size: int = 256) -> float:
    """Return the PSNR of the head, dB, at the best pose near each held-back frame's."""
    rows = _evenly(footage.unseen, count)
    size = min(size, footage.pixels.shape[-1])
    truth, head = footage.views(rows, size), footage.head(rows, size)
    best: list[Tensor] = []
    for n, row in enumerate(rows):
        moved = avatar.animate(footage.codes[row])
        pose = {key: torch.zeros(3, requires_grad=True) for key in ALIGNING}
        own = {**pose, "exposure": torch.zeros(3)}
        groups = [{"params": [pose[key]], "lr": rate} for key, rate in ALIGNING.items()]
        adam, found = torch.optim.Adam(groups), list[Tensor]()
        for _ in range(ALIGN_STEPS):
            drawn = render(corrected(moved, own), truth.camera[n], background=torch.ones(3))
            picture, wanted = drawn.color.permute(2, 0, 1)[None], truth.image[n : n + 1]
            found.append(psnr_where(picture.detach(), wanted, head[n : n + 1])[0])
            loss = ((picture - wanted).abs() * head[n]).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        best.append(torch.stack(found).max())
    return float(torch.stack(best).mean())


def _of_network(checkpoint: Path, footage: Footage) -> Avatar:
    net, loaded = load_model(checkpoint)
    return light(of_footage(net, footage, str(loaded.header["layout"])), footage)


def _fitted(
    scene: Scene,
    name: str,
    start: Avatar,
    config: FitConfig,
    clock: Clock,
    tick: Callable[[int, int], None],
) -> list[Row]:
    rows: list[Row] = []
    due = [mark * config.seconds for mark in MARKS]

    def tell(look: Look, now: Callable[[], Avatar]) -> None:
        tick(round(look.seconds), round(config.seconds))
        if due and look.seconds >= due[0]:
            while due and look.seconds >= due[0]:
                due.pop(0)
            clock.leave_out(lambda: rows.append(_row(scene, name, look, now())))

    kept, report = fit(start, scene.footage, config, tell=tell, clock=clock)
    last = replace(report.best, seconds=report.looks[-1].seconds)
    row = _row(scene, f"{name}, kept", last, kept)
    row["aligned"] = aligned(kept, scene.footage)
    return [*rows, row]


def _row(scene: Scene, name: str, look: Look, avatar: Avatar) -> Row:
    with TemporaryDirectory(prefix="fastgha-") as folder:
        avatar.save(path := Path(folder) / "x.avatar")
        size = path.stat().st_size / 1e6
    return Row(
        start=name,
        seconds=look.seconds,
        **measure(avatar, scene),
        aligned=math.nan,
        steps_per_s=look.steps / max(look.seconds, 1e-9),
        gaussians=len(avatar.canonical),
        fps=_speed(avatar, scene.footage),
        file_mb=size,
    )


def _nearest(scene: Scene) -> Row:
    """Return what the nearest input frame, as it is, reaches."""
    size = min(256, scene.footage.pixels.shape[-1])
    inputs = scene.footage.views(scene.footage.inputs, size)

    def draw(rows: Sequence[int], truth: View) -> Tensor:
        return nearest_input(inputs, truth.camera)

    found = _held_back(scene.footage, size, draw)
    none = math.nan
    return Row(start="nearest input frame", seconds=0.0, **found, aligned=none, beyond=none,
               steps_per_s=0.0, gaussians=0, fps=none, file_mb=0.0)  # fmt: skip


def _speed(avatar: Avatar, footage: Footage) -> float:
    cameras = footage.cameras.resized(256, 256)
    times: list[float] = []
    for row in _evenly(footage.unseen, 20):
        begun = time.perf_counter()
        avatar.render(footage.codes[row], cameras[row])
        times.append(time.perf_counter() - begun)
    return 1 / float(np.median(times[2:] or times))


def _draw(
    avatar: Avatar, cameras: Camera, codes: ExpressionCode, rows: Sequence[int]
) -> Float[Tensor, "m 3 h w"]:
    drawn = [avatar.render(codes[row], cameras[n]).color for n, row in enumerate(rows)]
    return torch.stack(drawn).permute(0, 3, 1, 2).clamp(0, 1)


def _held_back(
    footage: Footage, size: int, draw: Callable[[Sequence[int], View], Tensor]
) -> Mapping[str, float]:
    """Compare what is drawn of the held-back frames with them."""
    rows = _evenly(footage.unseen, TRUTH)
    truth = footage.views(rows, size)
    found = dict(_compared(draw(rows, truth), truth, footage, rows))
    rows = _evenly(footage.judges, TRUTH)
    truth = footage.views(rows, size)
    found["judges"] = _psnr(draw(rows, truth), truth.image, footage.head(rows, size))
    return found


def _compared(
    drawn: Float[Tensor, "m 3 h w"], truth: View, footage: Footage, rows: Sequence[int]
) -> Mapping[str, float]:
    from torchmetrics.functional.image import structural_similarity_index_measure

    head = footage.head(rows, truth.camera.width)
    found = structural_similarity_index_measure(
        drawn, truth.image, data_range=1.0, sigma=1.5, kernel_size=11, return_full_image=True
    )
    like = (found[1] * head).sum((1, 2, 3)) / (3 * head.sum((1, 2, 3)))
    parts = [[_about(footage, row, n, truth, part) for n, row in enumerate(rows)]
             for part in (MOUTH, EYES)]  # fmt: skip
    mouth, eyes = (_psnr(drawn, truth.image, torch.stack(part)) for part in parts)
    return {
        "psnr": _psnr(drawn, truth.image, head),
        "whole": _psnr(drawn, truth.image, truth.alpha > 0.5),
        "ssim": float(like.mean()),
        "lpips": _lpips(drawn, truth.image),
        "mouth": mouth,
        "eyes": eyes,
    }


def _lpips(drawn: Tensor, truth: Tensor) -> float:
    try:
        return float(load_lpips("alex")(drawn, truth).mean())
    except (MissingWeightsError, MissingPackageError):
        return math.nan


def _psnr(drawn: Tensor, truth: Tensor, where: Bool[Tensor, "m 1 h w"]) -> float:
    return float(psnr_where(drawn, truth, where).mean())


def _about(footage: Footage, row: int, n: int, truth: View, part: slice) -> Bool[Tensor, "1 h w"]:
    """Return the box about some landmarks of a frame."""
    points = torch.from_numpy(landmarks_of(footage.posed[row])[part])
    at, _ = project(truth.camera[n], points)
    low, high = at.min(0).values, at.max(0).values
    grow = 0.2 * (high - low).max()
    (left, top), (right, bottom) = (low - grow).tolist(), (high + grow).tolist()
    h, w = truth.image.shape[-2:]
    y, x = torch.arange(h)[:, None] + 0.5, torch.arange(w) + 0.5
    return ((x > left) & (x < right) & (y > top) & (y < bottom))[None]


def _around(yaw: np.ndarray, pitch: np.ndarray, size: int) -> Camera:
    """Return cameras a metre from the head."""
    a, b = (torch.from_numpy(np.asarray(x)).float() for x in (yaw, pitch))
    target = torch.tensor(CROP_CENTER).float().expand(len(a), 3)
    center = target + torch.stack([a.sin() * b.cos(), b.sin(), a.cos() * b.cos()], -1)
    f = size / 0.38
    K = torch.tensor([[f, 0, size / 2], [0, f, size / 2], [0, 0, 1]]).expand(len(a), 3, 3)
    return Camera(look_at(center, target), K.contiguous(), size, size)


def _evenly(rows: Sequence[int], most: int) -> list[int]:
    at = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
    return [rows[i] for i in at.tolist()]
