"""From pictures to an avatar: what `fastgha avatar` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.refine import RefineConfig, refine
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
from pipeline.system.progress import Progress, silent
from pipeline.tracking.tracker import HeadTracker


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
    return refine(made, found.view, _codes(found, layout), RefineConfig(refine_s))[0]


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


def _codes(found: photos.Photos, layout: str) -> ExpressionCode:
    """Return the pictures' expressions; none is known of another head model than the tracked."""
    if layout == found.tracked.codes.layout:
        return found.tracked.codes
    return ExpressionCode(neutral_code(layout).values.repeat(len(found.view), 1), layout)
