"""From photographs to an avatar: what `fastgha avatar` does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.refine import RefineConfig, refine
from pipeline.core.errors import InputError
from pipeline.core.types import Camera, ExpressionCode, View
from pipeline.faces.guide import TrackedMesh
from pipeline.faces.layouts import MAKEHUMAN, neutral_code
from pipeline.io.camera_file import read_cameras
from pipeline.io.images import read_rgb, write_rgb
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.model.fastgha import MAX_VIEWS
from pipeline.perception.detectors import get_detector
from pipeline.perception.device import networks_on
from pipeline.perception.matting import get_matting
from pipeline.prep import photos
from pipeline.system.files import digest
from pipeline.system.progress import Progress, silent
from pipeline.tracking.fit import Observations, Track, track
from pipeline.tracking.models import FaceState, MakeHumanFace
from pipeline.tracking.tracker import HeadTracker

DETECTOR = "mesh"
"""Of landmarks: it follows the head also where the head hides itself."""


def make_avatar(
    paths: Sequence[Path],
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
    """Make an avatar of 1 to 6 photographs of one person.

    Args:
        paths: The photographs.
        model: Checkpoint; the shipped one if not given.
        matting: Name of the matting network.
        size: Width and height of the crops, pixels; the model's if not given.
        sheet: Where to write a picture of crops, mattes and landmarks.
        refine_s: Seconds of gradient steps on the photographs.
        cameras: File of the photographs' cameras, if they are known.
        face: Which face, where there are several; see `photos.estimate_views`.
        device: Where all networks compute, and where the avatar is.
        progress: Called after each photograph.
        note: Told what was decided about a photograph.

    Raises:
        InputError: If there are too many photographs, one cannot be read, or shows no face.
        MissingWeightsError: If a matting or landmark network is not on this machine.
    """
    if not 1 <= len(paths) <= MAX_VIEWS:
        raise InputError(
            f"{len(paths)} photographs are too many.", f"Choose the best 1 to {MAX_VIEWS}."
        )
    make_matting = get_matting(matting)
    for path in paths:
        read_rgb(path)  # a wrong path should not wait until the networks are loaded
    known = None if cameras is None else read_cameras(cameras)
    checkpoint = checkpoint_path(model)
    net, loaded = load_model(checkpoint)
    said: list[str] = []
    net = net.to(device)
    with networks_on(device):
        find, cut = get_detector(DETECTOR).make(), make_matting()
    found = photos.estimate_views(
        paths, size or net.config.image_size, matting=cut, detector=find, tracker=HeadTracker(),
        known=known, which=face, progress=progress, note=said.append if note is None else note,
    )  # fmt: skip
    if sheet is not None:
        write_rgb(sheet, np.asarray(photos.sheet(found).convert("RGB")))
    facts: dict[str, Any] = {
        "checkpoint": checkpoint.name,
        "checkpoint_sha256": digest(checkpoint),
        "pictures": len(paths),
        "matting": matting,
    }
    if known is not None and known.frame == "world" and known.static and found.tracked is not None:
        facts["head_to_world"] = found.tracked.bundle.poses[0].tolist()
    layout, view = str(loaded.header["layout"]), found.view
    if net.config.guide == "none":
        made = Avatar.create(net, view.to(device), layout, facts)
        if refine_s <= 0:
            return made
        return refine(made, view, _codes(found, layout), RefineConfig(refine_s))[0]
    if layout != MAKEHUMAN:
        raise InputError(
            f"Photographs are tracked with the MakeHuman head; this model takes {layout}.",
            "Give a model of MakeHuman codes, or one without a guide.",
        )
    view, mesh, codes = tracked(found)
    made = Avatar.create(net, view.to(device), layout, facts, mesh)
    return refine(made, view, codes, RefineConfig(refine_s))[0] if refine_s > 0 else made


def tracked(found: photos.Photos) -> tuple[View, TrackedMesh, ExpressionCode]:
    """Fit the head model to the photographs' landmarks: their cameras, meshes and expressions.

    Returns:
        The pictures with the cameras that the mesh is seen from, the mesh, and a code for each.
    """
    if found.tracked is not None:
        return found.view, found.tracked.mesh, found.tracked.codes
    model, fit = MakeHumanFace(), _fit(found)
    with torch.no_grad():
        rest = FaceState.neutral(model.expression_size)
        neutral = model.vertices(fit.identity, rest)[0].numpy()
        posed = model.vertices(fit.identity, fit.state).numpy()
    E, K = (
        torch.cat([getattr(camera, name) for camera in fit.cameras]).float()
        for name in ("world_to_camera", "K")
    )
    K[:, :2, 2] = found.view.camera.K[:, :2, 2]
    camera = Camera(E, K, found.view.camera.width, found.view.camera.height)
    mesh = TrackedMesh(model.layout, neutral, posed)
    return replace(found.view, camera=camera), mesh, fit.codes


def _codes(found: photos.Photos, layout: str) -> ExpressionCode:
    """Fit the head model to the photographs' landmarks, for their expressions."""
    if layout != MAKEHUMAN:  # no other head model comes with the package
        return ExpressionCode(neutral_code(layout).values.repeat(len(found.view), 1), layout)
    return _fit(found).codes if found.tracked is None else found.tracked.codes


def _fit(found: photos.Photos) -> Track:
    size, K = found.view.camera.width, found.view.camera.K.double().numpy()
    # The lens' axis meets the photograph in its middle, not the crop in its own.
    points = (found.landmarks + size / 2 - K[:, None, :2, 2])[:, None]
    bias = get_detector(DETECTOR).bias()
    sizes = ((size, size),) * len(found.view)
    focals = tuple(K[:, 0, 0].tolist())
    return track(MakeHumanFace(), Observations(points, None, sizes, bias, focals))
