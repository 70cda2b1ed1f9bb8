"""The whole job on the embedded default: pictures in, animated avatar out, measured.

A synthetic person that the shipped model never saw stands in for the user's photographs, so
that everything can be compared with the truth.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from pipeline.avatar.animate import write_video
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import orbit
from pipeline.core.types import Camera, View
from pipeline.evaluate.metrics import psnr, ssim
from pipeline.expressions.sequences import read_sequence
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import code_to_arkit
from pipeline.io.images import write_rgb
from pipeline.io.sheets import to_bytes
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.synthetic.expressions import sample_expression
from pipeline.synthetic.subject import Subject
from pipeline.system.assets import SEQUENCE
from pipeline.system.files import digest, write_text
from pipeline.system.progress import Progress

Bar = Callable[[str], AbstractContextManager[Progress]]
"""Gives a progress bar with a title."""

INPUT_YAWS = (-45.0, -15.0, 15.0, 45.0)
COMPARED = 6
"""Frames shown and measured against the truth."""
WORD_HEIGHT = 22


@dataclass(frozen=True)
class DemoReport:
    """What the demo left behind, and how good it is."""

    out: Path
    psnr: float
    ssim: float
    gaussians: int
    seconds: dict[str, float]


def run(
    out: Path,
    bar: Bar,
    *,
    model: Path | None = None,
    identity: int = 7,
    size: int | None = None,
    device: str = "cpu",
) -> DemoReport:
    """Make an avatar of a person the model never saw and animate it.

    Args:
        out: Folder for avatar, video, contact sheet and figures.
        bar: Makes progress bars.
        model: Checkpoint; the shipped one if not given.
        identity: Number of the held-out person.
        size: Width and height of all pictures, pixels; the model's if not given.
        device: Where the avatar is made and drawn.
    """
    seconds: dict[str, float] = {}
    path = checkpoint_path(model)
    net, checkpoint = load_model(path)
    net, size = net.to(device), size or net.config.image_size
    layout = str(checkpoint.header["layout"])
    sequence = read_sequence(SEQUENCE, layout)
    subject, rng = person(SyntheticConfig(split="test"), identity)

    with bar("Taking four pictures") as tick, _timed(seconds, "pictures"):
        expressions = np.stack([sample_expression(rng) for _ in INPUT_YAWS])
        cameras = _inputs(size)
        inputs = _photograph(subject, expressions, cameras, tick)
    with bar("Making the avatar") as tick, _timed(seconds, "reconstruction"):
        facts = {"checkpoint": path.name, "checkpoint_sha256": digest(path), "pictures": 4}
        # A tracker's part: the person is synthetic, so that its mesh is known.
        meshes = np.stack([subject.head.vertices(weights) for weights in expressions])
        mesh = TrackedMesh(layout, subject.head.neutral, meshes)
        avatar = Avatar.create(net, inputs.to(device), layout, facts, mesh)
        avatar.save(out / "head.avatar")
        tick(1, 1)
    along = orbit(len(sequence), size)
    with bar("Animating") as tick, _timed(seconds, "video"):
        write_video(out / "head.mp4", [avatar], [sequence], along, progress=tick)
    with bar("Comparing with the truth") as tick, _timed(seconds, "comparison"):
        frames = np.linspace(0, len(sequence) - 1, COMPARED + 2).round().astype(int)[1:-1].tolist()
        weights = code_to_arkit(sequence.codes[frames]).numpy()
        truth = _photograph(subject, weights, along[frames], tick).image
        drawn = (
            torch.stack(
                [avatar.render(sequence.codes[i], along[i]).color.permute(2, 0, 1) for i in frames]
            )
            .clamp(0, 1)
            .cpu()
        )
        canonical = avatar.draw(avatar.canonical, orbit(1, size)[0]).color.permute(2, 0, 1).cpu()
        write_rgb(out / "contact_sheet.png", contact_sheet(inputs.image, canonical, drawn, truth))
    report = DemoReport(
        out,
        float(psnr(drawn, truth).mean()),
        float(ssim(drawn, truth).mean()),
        len(avatar.canonical),
        seconds,
    )
    figures = {
        "psnr": report.psnr,
        "ssim": report.ssim,
        "frames": frames,
        "gaussians": report.gaussians,
        "seconds": seconds,
        **facts,
    }
    write_text(out / "figures.json", json.dumps(figures, indent=1))
    return report


def contact_sheet(
    inputs: Float[Tensor, "v 3 h w"],
    canonical: Float[Tensor, "3 h w"],
    drawn: Float[Tensor, "t 3 h w"],
    truth: Float[Tensor, "t 3 h w"],
) -> UInt8[np.ndarray, "H W 3"]:
    """Lay out: inputs and the canonical head; frames of the animation; the truth under them."""
    blank = torch.ones_like(canonical)
    columns = max(len(drawn), len(inputs) + 1)
    rows = [
        ("inputs, then the canonical head", [*inputs, canonical]),
        ("animated, unseen expressions and views", list(drawn)),
        ("truth", list(truth)),
    ]
    strips: list[np.ndarray] = []
    for word, pictures in rows:
        filled = [*pictures, *[blank] * (columns - len(pictures))]
        strip = to_bytes(torch.cat(filled, dim=-1))
        label = Image.new("RGB", (strip.shape[1], WORD_HEIGHT), "white")
        ImageDraw.Draw(label).text((6, 4), word, fill="black", font_size=14)
        strips += [np.asarray(label), strip]
    return np.concatenate(strips)


def _inputs(size: int) -> Camera:
    """Return the cameras of the four pictures: a quarter circle in front of the head."""
    front = orbit(1, size)
    yaw = torch.deg2rad(torch.tensor(INPUT_YAWS))
    turn = torch.eye(4).repeat(len(yaw), 1, 1)
    turn[:, 0, 0], turn[:, 0, 2] = yaw.cos(), -yaw.sin()
    turn[:, 2, 0], turn[:, 2, 2] = yaw.sin(), yaw.cos()
    return Camera(front.world_to_camera @ turn, front.K.expand(len(yaw), 3, 3), size, size)


def _photograph(
    subject: Subject, weights: Float[np.ndarray, "t 52"], cameras: Camera, progress: Progress
) -> View:
    """Draw the person under each expression from the camera of the same number."""
    images: list[Tensor] = []
    alphas: list[Tensor] = []
    for i in range(len(cameras)):
        frame = subject.render(weights[i], cameras[i])
        images.append(torch.from_numpy(frame.rgb).permute(2, 0, 1).float() / 255)
        alphas.append(torch.from_numpy(frame.alpha)[None].float() / 255)
        progress(i + 1, len(cameras))
    return View(torch.stack(images), torch.stack(alphas), cameras)


class _timed:  # noqa: N801  reads as a verb where it is used
    """Notes how long a block takes."""

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = round(time.perf_counter() - self._start, 3)
