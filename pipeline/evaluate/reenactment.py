"""Self-reenactment: a few frames of a video make an avatar, and it is driven by the others.

Cameras and codes of all frames are the tracker's, so nothing but a video is needed; heads end at
the neck. Beside the avatar stands the input frame that is seen from the nearest direction, as it
is: whatever an avatar adds must be better than that.

Letters: m tracked frames, v chosen ones, h w size.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from PIL import Image
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fit import psnr_where
from pipeline.avatar.refine import RefineConfig, refine
from pipeline.captures.capture import RawView
from pipeline.captures.video import CAMERA, VideoCapture
from pipeline.core.errors import InputError
from pipeline.core.types import View
from pipeline.evaluate.baselines import nearest_input
from pipeline.evaluate.metrics import psnr, ssim
from pipeline.evaluate.report import Picture, Report, error_map
from pipeline.evaluate.results import machine
from pipeline.evaluate.tables import Table
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.io.images import encode_png, write_rgb
from pipeline.io.sheets import grid, to_bytes
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.model.fastgha import MAX_VIEWS
from pipeline.perception.landmarks import Detector
from pipeline.perception.matting import MattingModel, get_matting
from pipeline.prep import track_video
from pipeline.prep.photos import cut_head, stacked
from pipeline.prep.stages.crop import cropped, square_at_head
from pipeline.system.files import digest, require_file, write_whole
from pipeline.system.progress import Bars, Progress, no_bars, silent
from pipeline.system.stage import claim
from pipeline.tracking.track_file import TrackFile, read_track
from pipeline.tracking.tracker import HeadTracker

INPUTS, TARGETS = 4, 48
SHOWN = 6
"""Held-out frames on the sheet."""
COLUMNS = ("PSNR, dB", "SSIM", "PSNR of the head, dB", "SSIM of the head")
NEAREST, REFINED = "nearest input frame", "avatar, refined"


@dataclass(frozen=True)
class Reenactment:
    """What is measured."""

    video: Path
    model: Path | None = None
    """Checkpoint or run; the shipped one if not given."""
    inputs: int = INPUTS
    frames: tuple[int, ...] = ()
    """Numbers of the input frames; spread over the head's turns if not given."""
    targets: int = TARGETS
    """Held-out frames that are compared, evenly over the video."""
    size: int | None = None
    """Width of the pictures; the model's if not given."""
    matting: str = "modnet"
    device: str = "cpu"
    refine_s: float = 0.0
    """Seconds in which the avatar is refined on the inputs; it stands beside the plain one."""


@dataclass(frozen=True)
class Cutting:
    """What decides the pictures that are kept of a video."""

    size: int
    matting: str


@torch.no_grad()
def reenact(
    request: Reenactment,
    out: Path | None = None,
    bars: Bars = no_bars,
    *,
    detector: Detector | None = None,
    tracker: HeadTracker | None = None,
    matting: MattingModel | None = None,
) -> Report:
    """Measure a model by self-reenactment of a video.

    Args:
        request: What is measured.
        out: Folder for the sheet; the tracking and the cut frames are kept there, so that a
            stopped run goes on, and another model is measured on the same pictures at once.
        bars: Shows how far it is.
        detector: Finds faces; the face mesh if not given.
        tracker: The shipped one if not given.
        matting: The network that the request names if not given.

    Raises:
        InputError: If there is no such video, or it has too few frames that show a face.
        StaleOutputError: If `out` holds pictures of another video, size or matting.
    """
    require_file(request.video, "a video")
    net, loaded = load_model(checkpoint_path(request.model))
    net = net.to(request.device)
    size = request.size or net.config.image_size
    with ExitStack() as stack:
        folder = out or Path(stack.enter_context(TemporaryDirectory(prefix="fastgha-")))
        work = folder / "frames"
        claim(work, Cutting(size, request.matting), made="*", upstream=digest(request.video),
              overwrite=False)  # fmt: skip
        track = _tracked(request.video, work, bars, detector, tracker)
        inputs, targets = choose(track, request)
        with bars("Cutting out the head") as tick:
            cut = matting or get_matting(request.matting)()
            views = _frames(request.video, track, inputs + targets, size, work, cut, tick)
    seen, truth = views[: len(inputs)], views[len(inputs) :]
    layout = str(loaded.header["layout"])
    mesh = None if net.config.guide == "none" else _mesh(track, inputs)
    avatar = Avatar.create(net, seen.to(request.device), layout, {}, mesh)
    avatars = {"avatar": avatar}
    if request.refine_s > 0:
        config = RefineConfig(request.refine_s)
        with bars("Refining") as tick:
            avatars[REFINED], _ = refine(avatar, seen, track.codes[inputs], config, tick)
    methods: dict[str, Tensor] = {}
    with bars("Drawing") as tick:
        for done, (name, one) in enumerate(avatars.items()):
            drawn: list[Tensor] = []
            for n, row in enumerate(targets):
                picture = one.render(track.codes[row], truth.camera[n]).color
                drawn.append(picture.permute(2, 0, 1).clamp(0, 1).cpu())
                tick(done * len(targets) + n + 1, len(avatars) * len(targets))
            methods[name] = torch.stack(drawn)
    methods[NEAREST] = nearest_input(seen, truth.camera)
    figures = {name: compare(pictures, truth) for name, pictures in methods.items()}
    values: dict[str, Any] = {
        "video": request.video.name,
        "video_sha256": digest(request.video),
        "checkpoint_sha256": digest(checkpoint_path(request.model)),
        "size": size,
        "matting": request.matting,
        "refine_s": request.refine_s,
        "inputs": track.frames[inputs].tolist(),
        "input_yaw_degrees": [round(float(y), 1) for y in np.degrees(yaws(track))[inputs]],
        "targets": track.frames[targets].tolist(),
        "figures": {name: dict(zip(COLUMNS, rows.mean(1).tolist(), strict=True))
                    for name, rows in figures.items()},
        "frames": {name: rows.T.tolist() for name, rows in figures.items()},
        "machine": machine(request.device),
    }  # fmt: skip
    pictures: tuple[Picture, ...] = ()
    if out is not None:
        path = out / "sheet.png"
        write_rgb(path, _sheet(seen, methods, truth))
        pictures = (
            (f"Inputs; truth, each avatar, its error, and the {NEAREST}, frame by frame.", path),
        )
    return Report(f"Self-reenactment of {request.video.name}", (_table(figures, values),), pictures,
                  values)  # fmt: skip


def choose(track: TrackFile, request: Reenactment) -> tuple[list[int], list[int]]:
    """Return which rows of a tracking are inputs and which are compared.

    Raises:
        InputError: If there are too few, or an input that was asked for shows no face.
    """
    if request.frames:
        rows = {int(frame): row for row, frame in enumerate(track.frames)}
        lost = [frame for frame in request.frames if frame not in rows]
        if lost:
            raise InputError(
                f"No face is tracked in frame {lost[0]} of {request.video}.",
                f"Choose frames from {min(rows)} to {max(rows)} that show one.",
            )
        inputs = [rows[frame] for frame in request.frames]
    else:
        # As far apart as the head turned, and none of them twice.
        yaw, inputs = yaws(track), list[int]()
        for wanted in np.linspace(yaw.min(), yaw.max(), request.inputs):
            order = np.argsort(np.abs(yaw - wanted), kind="stable").tolist()
            inputs += [row for row in order if row not in inputs][:1]
    if not 1 <= len(inputs) <= MAX_VIEWS:
        raise InputError(f"{len(inputs)} frames make no avatar.", f"Choose 1 to {MAX_VIEWS}.")
    others = [row for row in range(len(track.frames)) if row not in inputs]
    if not others:
        raise InputError(
            f"{request.video} has no tracked frame beside the {len(inputs)} inputs.",
            "Give a longer video.",
        )
    count = min(request.targets, len(others))
    spread = np.linspace(0, len(others) - 1, count).round().astype(int)
    return inputs, [others[n] for n in spread]


def yaws(track: TrackFile) -> Float64[np.ndarray, "m"]:
    """Return from how far to the head's left each frame sees it, radians."""
    centers = track.cameras.centers.double().numpy()
    return np.arctan2(centers[:, 0], centers[:, 2])


def compare(drawn: Float[Tensor, "v 3 h w"], truth: View) -> Float64[np.ndarray, "4 v"]:
    """Return PSNR and SSIM of each picture, then those of the pixels that the head covers."""
    head = truth.alpha > 0.5
    found = structural_similarity_index_measure(
        drawn, truth.image, data_range=1.0, sigma=1.5, kernel_size=11, return_full_image=True
    )
    like = (found[1] * head).sum((1, 2, 3)) / (3 * head.sum((1, 2, 3)))
    rows = (
        psnr(drawn, truth.image),
        ssim(drawn, truth.image),
        psnr_where(drawn, truth.image, head),
        like,
    )
    return torch.stack(rows).double().numpy()


def _tracked(
    video: Path,
    work: Path,
    bars: Bars,
    detector: Detector | None,
    tracker: HeadTracker | None,
) -> TrackFile:
    """Track the video, or read what an earlier run tracked."""
    path = work / "track.npz"
    if not path.exists():
        with bars("Tracking the head") as tick:
            track_video.run(video, path, detector=detector, tracker=tracker, progress=tick)
    return read_track(path)


def _mesh(track: TrackFile, rows: Sequence[int]) -> TrackedMesh:
    model = head_model(track.codes.layout)
    posed = [model.posed(track.neutral, track.codes[row]) for row in rows]
    return TrackedMesh(track.codes.layout, track.neutral, np.stack(posed))


def _frames(
    video: Path,
    track: TrackFile,
    rows: Sequence[int],
    size: int,
    work: Path,
    matting: MattingModel,
    progress: Progress = silent,
) -> View:
    """Cut the head out of some frames; those that an earlier run cut are read."""
    found: dict[int, View] = {}
    capture = VideoCapture(video)
    try:
        for done, row in enumerate(sorted(rows), start=1):
            path, camera = work / f"{int(track.frames[row]):06d}.png", track.cameras[row]
            if not path.exists():
                step = capture.timesteps[int(track.frames[row])]
                raw = RawView(capture.view(step, CAMERA).image, None, None)
                view = cut_head(raw, camera, _mesh(track, [row]), size, matting)
                pixels = np.concatenate([to_bytes(view.image), to_bytes(view.alpha)], axis=-1)
                write_whole(path, lambda part, p=pixels: part.write_bytes(encode_png(p)))
            with Image.open(path) as picture:
                pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255
            seen = cropped(camera, square_at_head(camera), size)
            found[row] = View(pixels[:3], pixels[3:], seen)
            progress(done, len(rows))
    finally:
        capture.close()
    return stacked([found[row] for row in rows])


def _table(figures: dict[str, np.ndarray], values: dict[str, Any]) -> Table:
    digits = (2, 3, 2, 3)
    rows = [
        (name, *(f"{mean:.{d}f}" for mean, d in zip(found.mean(1), digits, strict=True)))
        for name, found in figures.items()
    ]
    title = f"{values['video']}: {len(values['targets'])} held-out frames, {values['size']} px"
    notes = (
        f"Inputs: frames {', '.join(map(str, values['inputs']))}, seen from "
        f"{', '.join(f'{yaw:.0f}' for yaw in values['input_yaw_degrees'])} degrees.",
        "Cameras, codes and the person's mesh come from tracking the whole video.",
    )
    return Table(title, ("", *COLUMNS), tuple(rows), notes)


def _sheet(seen: View, methods: dict[str, Tensor], truth: View) -> np.ndarray:
    shown = np.linspace(0, len(truth) - 1, min(SHOWN, len(truth))).round().astype(int).tolist()
    true, rows = truth.image[shown], list[Tensor]()
    for name, pictures in methods.items():
        drawn = pictures[shown]
        rows += [drawn] if name == NEAREST else [drawn, error_map(drawn, true)]
    return grid([seen.image, true, *rows])
