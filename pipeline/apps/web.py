"""An avatar as a page: one static folder that needs no server program and no network."""

from __future__ import annotations

import base64
import html
import json
from functools import partial
from math import atan, degrees
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import DISTANCE, FIELD
from pipeline.core.errors import ConfigError
from pipeline.expressions.sequences import Sequence
from pipeline.faces.layouts import ARKIT_NAMES, EXPRESSION, MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.model.baked import Baked
from pipeline.system.assets import ASSETS
from pipeline.system.files import sweep_parts, write_folder
from pipeline.system.provenance import program, statement

WEB = ASSETS / "web"
UNITS: dict[str, tuple[str, ...]] = {
    "jaw": ("jawOpen",),
    "eyelids": ("eyeBlinkLeft", "eyeBlinkRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "frown": ("mouthFrownLeft", "mouthFrownRight"),
    "pucker": ("mouthPucker",),
    "brows up": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
    "brows down": ("browDownLeft", "browDownRight"),
    "look left": ("eyeLookOutLeft", "eyeLookInRight"),
    "look right": ("eyeLookInLeft", "eyeLookOutRight"),
    "look up": ("eyeLookUpLeft", "eyeLookUpRight"),
    "look down": ("eyeLookDownLeft", "eyeLookDownRight"),
    "cheeks": ("cheekPuff",),
}
"""Sliders, each of some ARKit units."""
RAW = 8
"""Raw expression numbers that get sliders in layouts without ARKit units."""


def sliders(layout: str) -> dict[str, Float[Tensor, "120"]]:
    """Return for each named slider what it adds to the neutral code at its end."""
    rest = neutral_code(layout).values
    if layout != MAKEHUMAN:
        unit = torch.eye(100)[:RAW]
        found: dict[str, Tensor] = {}
        for i in range(RAW):
            add = torch.zeros(120)
            add[EXPRESSION] = 2 * unit[i]
            found[f"expression {i + 1}"] = add
        return found
    found = {}
    for name, units in UNITS.items():
        weights = np.zeros(len(ARKIT_NAMES), np.float32)
        weights[[ARKIT_NAMES.index(unit) for unit in units]] = 1
        found[name] = arkit_to_code(weights).values - rest
    return found


def export_web(avatar: Avatar, out: Path, sequence: Sequence) -> Path:
    """Write a page that shows a baked avatar, with sliders and a sequence to play.

    Args:
        avatar: A baked avatar.
        out: Folder to write.
        sequence: Expressions in the avatar's layout.

    Returns:
        The page, `index.html`. It opens from the disk, or from any server of files.

    Raises:
        ConfigError: If the avatar is not baked.
        InputError: If the folder cannot be written to; nothing is left in it then.
    """
    net = avatar.deformation
    if not isinstance(net, Baked):
        raise ConfigError(
            "The page needs a baked avatar.", "Make one: fastgha bake me.avatar -o fast.avatar."
        )
    hidden = net.config.hidden
    units = sliders(avatar.layout)
    nothing = torch.zeros(0)
    full = {
        **{name: value for name, value in vars(avatar.canonical).items()},
        "neutral": neutral_code(avatar.layout).values,
        "units": torch.stack(list(units.values())),
        "linear_weight": net.linear.weight,
        "linear_bias": net.linear.bias,
        "hidden_weight": net.hidden.weight if net.hidden is not None else nothing,
        "hidden_bias": net.hidden.bias if net.hidden is not None else nothing,
        "out_weight": net.out.weight if net.out is not None else nothing,
    }
    light = {"shapes": net.shapes, "mean": net.mean, "codes": sequence.codes.values}
    parts: list[bytes] = []
    arrays: dict[str, tuple[int, int]] = {}
    start = 0
    for values, kind in ((full, "<f4"), (light, "<f2")):
        for name, value in values.items():
            raw = value.detach().cpu().numpy().astype(kind).tobytes()
            arrays[name] = (start, value.numel())
            parts.append(raw)
            start += len(raw)
    header = {
        "program": program(),
        "layout": avatar.layout,
        "gaussians": len(avatar.canonical),
        "moving": net.config.moving,
        "rank": net.config.rank,
        "hidden": hidden,
        "frames": len(sequence),
        "units": list(units),
        "distance": DISTANCE,
        "fov": degrees(2 * atan(FIELD / 2 / DISTANCE)),
        "arrays": arrays,
    }
    data = base64.b64encode(b"".join(parts)).decode()
    script = f"window.FASTGHA = {{header: {json.dumps(header)}, data: {json.dumps(data)}}};\n"
    page = (WEB / "index.html").read_text()
    words = {"program": program(), "statement": statement(), "title": "Head avatar"}
    for word, text in words.items():
        page = page.replace(f"{{{{{word}}}}}", html.escape(text))
    files = {
        "avatar.js": script.encode(),
        "viewer.js": (WEB / "viewer.js").read_bytes(),
        "LICENSES.txt": (WEB / "LICENSES.txt").read_bytes(),
        "index.html": page.encode(),
    }
    for name in files:
        sweep_parts(out / name)
    write_folder(out, {name: partial(_put, data) for name, data in files.items()})
    return out / "index.html"


def _put(data: bytes, part: Path) -> None:
    part.write_bytes(data)
