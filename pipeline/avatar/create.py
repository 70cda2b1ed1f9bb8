"""From pictures, or a video, to an avatar: what `fastgha avatar` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fit import FitConfig, FitReport, Tell, fit
from pipeline.avatar.refine import RefineConfig, held_back, refine
from pipeline.avatar.start import light
from pipeline.avatar.video import Footage, VideoConfig, read_footage
from pipeline.avatar.video import sheet as video_sheet
from pipeline.core.errors import InputError
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import MAKEHUMAN, neutral_code
from pipeline.io.camera_file import read_cameras
from pipeline.io.images import write_rgb
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.model.fastgha import MAX_VIEWS, FastGHA
from pipeline.perception.detectors import get_detector
from pipeline.perception.device import networks_on
from pipeline.perception.matting import get_matting
from pipeline.prep import photos
from pipeline.system.files import digest
from pipeline.system.progress import Bars, Progress, no_bars, silent
from pipeline.tracking.tracker import HeadTracker

TOLERANCE = 1.1
"""Times its error before that a held-back picture may be off when others refine the avatar: they
are fewer, and from elsewhere; it is off by some hundredths more where all other views gain."""
VIDEO_SIZE = 512
"""Of the crops of a video, pixels."""


def make_avatar(
    pictures: Sequence[Path | photos.Picture],
    model: Path | None = None,
    *,
    matting: str = "modnet",
    size: int | None = None,
    sheet: Path | None = None,
    refine_s: float = 0.0,
    cameras: Path | None = None,
    face: int | None = None,
    device: str = "cpu",
    progress: Progress = silent,
    note: Callable[[str], None] | None = None,
) -> Avatar:
    """Make an avatar of 1 to 6 pictures of one person.

    Args:
        pictures: Files of photographs, or pictures.
        model: Checkpoint; the shipped one if not given.
        matting: Name of the matting network.
        size: Width and height of the crops, pixels; the model's if not given.
        sheet: Where to write a picture of crops, mattes and landmarks.
        refine_s: Seconds of gradient steps on the pictures.
        cameras: File of the pictures' cameras, if they are known.
        face: Which face, where there are several; see `photos.estimate_views`.
        device: Where all networks compute, and where the avatar is.
        progress: Called after each picture.
        note: Told what was decided about a picture.

    Raises:
        InputError: If there are too many pictures, one cannot be read, or shows no face.
        MissingWeightsError: If a matting or landmark network is not on this machine.
    """
    if not 1 <= len(pictures) <= MAX_VIEWS:
        raise InputError(
            f"{len(pictures)} photographs are too many.", f"Choose the best 1 to {MAX_VIEWS}."
        )
    make_matting = get_matting(matting)
    # A wrong path should not wait until the networks are loaded.
    taken = [one if isinstance(one, photos.Picture) else photos.read_picture(one)
             for one in pictures]  # fmt: skip
    known = None if cameras is None else read_cameras(cameras)
    checkpoint = checkpoint_path(model)
    net, loaded = load_model(checkpoint)
    said: list[str] = []
    with networks_on(device):
        find, cut = get_detector(photos.DETECTOR).make(), make_matting()
    found = photos.estimate_views(
        taken, size or net.config.image_size, matting=cut, detector=find, tracker=HeadTracker(),
        known=known, which=face, progress=progress, note=said.append if note is None else note,
    )  # fmt: skip
    if sheet is not None:
        write_rgb(sheet, np.asarray(photos.sheet(found).convert("RGB")))
    facts: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": digest(checkpoint),
        "pictures": len(pictures),
        "matting": matting,
    }
    if known is not None and known.frame == "world" and known.static:
        facts["head_to_world"] = found.tracked.bundle.poses[0].tolist()
    layout = str(loaded.header["layout"])
    made = reconstruct(net.to(device), found, layout, facts)
    if refine_s <= 0:
        return made
    codes, tell = _codes(found, layout), said.append if note is None else note
    return _refined(net, made, found, codes, refine_s, tell)


def make_video_avatar(
    video: Path,
    model: Path | None = None,
    *,
    also: Sequence[Path] = (),
    matting: str = "modnet",
    seconds: float = 120.0,
    size: int = VIDEO_SIZE,
    sheet: Path | None = None,
    device: str = "cpu",
    bars: Bars = no_bars,
    note: Callable[[str], None] = lambda _: None,
    tell: Tell = lambda look, now: None,
) -> tuple[Avatar, FitReport | None]:
    """Make an avatar of a video of one person, and fit it to the frames.

    Args:
        video: A video file, or a folder of its frames.
        model: Checkpoint; the shipped one if not given.
        also: Photographs of the same person, which go to the network too.
        matting: Name of the matting network.
        seconds: Of fitting, after which the result is a light, baked avatar; with none it is what
            the network makes of the chosen frames.
        size: Width and height of the largest crops, pixels.
        sheet: Where to write a picture of the frames and what they are for.
        device: Where the networks compute; the fit is on the CPU.
        bars: Shows how far it is.
        note: Told what was decided.
        tell: Told how the fit goes, see `fit`.

    Raises:
        As `read_footage`; InputError also if the model is guided by another head.
    """
    make_matting = get_matting(matting)
    photographs = [photos.read_picture(one) for one in also]
    checkpoint = checkpoint_path(model)
    net, loaded = load_model(checkpoint)
    with networks_on(device):
        find, cut = get_detector(photos.DETECTOR).make(), make_matting()
    footage = read_footage(
        video, size, also=photographs, detector=find, tracker=HeadTracker(), matting=cut,
        config=VideoConfig(), bars=bars, note=note,
    )  # fmt: skip
    if sheet is not None:
        write_rgb(sheet, video_sheet(footage))
    facts = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": digest(checkpoint),
        "pictures": len(footage.inputs),
        "matting": matting,
        "video_frames": len(footage),
    }
    made = of_footage(net.to(device), footage, str(loaded.header["layout"]), facts)
    if seconds <= 0:
        return made, None
    with bars("Making it light"):
        begun = light(made.to("cpu"), footage)
    return fit(begun, footage, FitConfig(seconds), tell=tell)


def of_footage(
    net: FastGHA, footage: Footage, layout: str, facts: dict[str, Any] | None = None
) -> Avatar:
    """Make an avatar of the input frames of a video in one pass.

    Raises:
        InputError: If the model takes codes of another head than the tracked one.
    """
    if layout != footage.codes.layout:
        raise InputError(
            f"A video is tracked with the MakeHuman head; this model takes {layout}.",
            "Give a model of MakeHuman codes.",
        )
    side = min(net.config.image_size, footage.pixels.shape[-1])
    view = footage.views(footage.inputs, side).to(next(net.parameters()).device)
    mesh = footage.mesh(footage.inputs) if net.config.guide != "none" else None
    return Avatar.create(net, view, layout, facts or {}, mesh)


def reconstruct(
    net: FastGHA, found: photos.Photos, layout: str, facts: dict[str, Any] | None = None
) -> Avatar:
    """Make an avatar of pictures in which the head is tracked.

    Args:
        net: A trained model.
        found: The pictures.
        layout: Of the codes that the model was trained with.
        facts: To keep in the avatar's file.

    Raises:
        InputError: If the model is guided by another head than the tracked one.
    """
    guided = net.config.guide != "none"
    if guided and layout != MAKEHUMAN:
        raise InputError(
            f"Photographs are tracked with the MakeHuman head; this model takes {layout}.",
            "Give a model of MakeHuman codes, or one without a guide.",
        )
    view = found.view.to(next(net.parameters()).device)
    mesh = found.tracked.mesh if guided else None
    return Avatar.create(net, view, layout, facts or {}, mesh)


def _refined(
    net: FastGHA,
    made: Avatar,
    found: photos.Photos,
    codes: ExpressionCode,
    seconds: float,
    note: Callable[[str], None],
) -> Avatar:
    """Refine an avatar, unless a picture that is held back says that it gets worse."""
    if len(found.view) < 2:
        note("One picture alone cannot tell whether refinement helps: it is left out.")
        return made

    def make(rows: list[int]) -> Avatar:
        mesh = found.tracked.mesh[rows] if made.head.rig is not None else None
        return Avatar.create(net, found.view[rows].to(made.device), made.layout, {}, mesh)

    held, was, now = held_back(make, found.view, codes, RefineConfig(seconds / 2))
    said = (
        f"Refined by the others, the avatar is off {found.names[held]} by {now:.4f}, not {was:.4f}"
    )
    if now > TOLERANCE * was:
        note(f"{said}: it stays as it was.")
        return made
    note(f"{said}.")
    return refine(made, found.view, codes, RefineConfig(seconds / 2))[0]


def _codes(found: photos.Photos, layout: str) -> ExpressionCode:
    """Return the pictures' expressions; none is known of another head model than the tracked."""
    if layout == found.tracked.codes.layout:
        return found.tracked.codes
    return ExpressionCode(neutral_code(layout).values.repeat(len(found.view), 1), layout)
