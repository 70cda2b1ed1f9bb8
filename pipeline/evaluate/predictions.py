"""Other methods under the same protocol: what they need, and their pictures read back.

Layout, written and read:

    OUT/targets.json                          everything below, in the order of the protocol
    OUT/<subject>-<avatar>/input-<i>.png      what the avatar is made of, and its matte
    OUT/<subject>-<avatar>/input-<i>-matte.png
    DIR/<subject>-<avatar>/<number>.png       what the method drew for each target, RGB on white
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.core.errors import InputError
from pipeline.core.types import Camera
from pipeline.evaluate.estimates import refuse
from pipeline.evaluate.protocol import Protocol, Task, selection_hash
from pipeline.evaluate.run import Method, Scene, scene
from pipeline.io.images import BROKEN, open_picture, read_rgb, write_rgb
from pipeline.io.sheets import to_bytes
from pipeline.system.files import inside, write_text
from pipeline.system.progress import Progress, silent

LISTED = 8
"""Files that an error names at most."""


def place(task: Task) -> str:
    """Return the folder's name of an avatar."""
    return f"{task.subject}-{task.avatar}"


def export_targets(
    protocol: Protocol, chosen: list[Task], out: Path, progress: Progress = silent
) -> Path:
    """Write what a method needs to be measured: inputs, cameras, codes, list of targets.

    Cameras are OpenCV, `world_to_camera` from the head frame in metres, K in pixels with the
    first pixel's centre at (0.5, 0.5). Codes are 120 numbers of the named layout.

    Returns:
        The list, `targets.json`.
    """
    refuse(protocol, "there are no targets to export")
    avatars: list[dict[str, Any]] = []
    for done, task in enumerate(chosen, start=1):
        seen, _ = scene(task, protocol)
        folder = inside(out, place(task))
        inputs: list[dict[str, Any]] = []
        for i, (image, alpha) in enumerate(zip(seen.inputs.image, seen.inputs.alpha)):
            write_rgb(folder / f"input-{i}.png", to_bytes(image))
            write_rgb(folder / f"input-{i}-matte.png", to_bytes(alpha.expand(3, -1, -1)))
            inputs.append(
                {
                    "picture": f"{place(task)}/input-{i}.png",
                    "matte": f"{place(task)}/input-{i}-matte.png",
                    **_camera(seen.inputs.camera, i),
                    "code": seen.input_codes.values[i].tolist(),
                }
            )
        targets = [
            {
                "picture": f"{place(task)}/{i:05d}.png",
                **_camera(seen.camera, i),
                "code": code.tolist(),
            }
            for i, code in enumerate(seen.codes.values)
        ]
        avatars.append({
            "subject": task.subject, "avatar": task.avatar, "layout": seen.codes.layout,
            "inputs": inputs, "targets": targets,
        })  # fmt: skip
        progress(done, len(chosen))
    listing = {
        "protocol": protocol.name,
        "protocol_hash": protocol.hash,
        "selection": selection_hash(chosen),
        "size": protocol.size,
        "background": "white",
        "avatars": avatars,
    }
    path = out / "targets.json"
    write_text(path, json.dumps(listing))
    return path


def read_predictions(folder: Path, protocol: Protocol, chosen: list[Task]) -> Method:
    """Return a method that reads its pictures from a folder.

    Raises:
        InputError: If pictures are missing or of the wrong size; the first ones are named.
    """
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}.", "Draw the targets that export wrote.")
    files = [
        inside(folder, place(task), f"{i:05d}.png")
        for task in chosen
        for i in range(len(task.targets))
    ]  # fmt: skip
    missing = [str(path.relative_to(folder)) for path in files if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(files)} pictures: "
            f"{', '.join(missing[:LISTED])}{' ...' if len(missing) > LISTED else ''}.",
            "Draw every target that `fastgha eval export-targets` lists.",
        )
    wrong: list[str] = []
    for path in files:
        try:
            with open_picture(path, path) as picture:
                if picture.size != (protocol.size, protocol.size):
                    wrong.append(f"{path.relative_to(folder)} ({picture.width}x{picture.height})")
        except (*BROKEN, InputError):
            wrong.append(f"{path.relative_to(folder)} (not a picture)")
    if wrong:
        raise InputError(
            f"{len(wrong)} pictures are not {protocol.size}x{protocol.size}: "
            f"{', '.join(wrong[:LISTED])}{' ...' if len(wrong) > LISTED else ''}.",
            "Draw them at the size that targets.json names.",
        )

    def draw(seen: Scene) -> Tensor:
        pictures = [
            read_rgb(inside(folder, place(seen.task), f"{i:05d}.png"))
            for i in range(len(seen.task.targets))
        ]
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255

    return draw


def _camera(camera: Camera, i: int) -> dict[str, Any]:
    return {
        "world_to_camera": camera.world_to_camera[i].tolist(),
        "K": camera.K[i].tolist(),
    }
