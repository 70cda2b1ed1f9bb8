"""An avatar as a page: one static folder that needs no server program and no network."""

from __future__ import annotations

import base64
import gzip
import html
import json
import struct
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int8
from torch import Tensor

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import DISTANCE, FIELD
from pipeline.core.errors import ConfigError
from pipeline.expressions.sequences import Sequence
from pipeline.faces import layouts
from pipeline.faces.layouts import ARKIT_NAMES, EXPRESSION, MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.model.baked import Baked
from pipeline.system import weights
from pipeline.system.assets import ASSETS
from pipeline.system.files import sweep_parts, write_folder
from pipeline.system.provenance import program, statement

WEB = ASSETS / "web"
REGIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "mouth": {
        "smile": ("mouthSmileLeft", "mouthSmileRight"),
        "frown": ("mouthFrownLeft", "mouthFrownRight"),
        "pucker": ("mouthPucker",),
        "funnel": ("mouthFunnel",),
        "upper lip": ("mouthUpperUpLeft", "mouthUpperUpRight"),
        "lower lip": ("mouthLowerDownLeft", "mouthLowerDownRight"),
        "press": ("mouthPressLeft", "mouthPressRight"),
        "mouth left": ("mouthLeft",),
        "mouth right": ("mouthRight",),
    },
    "jaw": {
        "jaw": ("jawOpen",),
        "jaw left": ("jawLeft",),
        "jaw right": ("jawRight",),
        "jaw forward": ("jawForward",),
    },
    "eyes": {
        "eyelids": ("eyeBlinkLeft", "eyeBlinkRight"),
        "wide": ("eyeWideLeft", "eyeWideRight"),
        "squint": ("eyeSquintLeft", "eyeSquintRight"),
        "look left": ("eyeLookOutLeft", "eyeLookInRight"),
        "look right": ("eyeLookInLeft", "eyeLookOutRight"),
        "look up": ("eyeLookUpLeft", "eyeLookUpRight"),
        "look down": ("eyeLookDownLeft", "eyeLookDownRight"),
    },
    "brows": {
        "brows up": ("browInnerUp", "browOuterUpLeft", "browOuterUpRight"),
        "brows down": ("browDownLeft", "browDownRight"),
    },
    "cheeks and nose": {
        "cheeks": ("cheekPuff",),
        "sneer": ("noseSneerLeft", "noseSneerRight"),
    },
}
"""Sliders by region of the face, each of some ARKit units."""
UNITS = {name: units for region in REGIONS.values() for name, units in region.items()}
RAW = 8
"""Raw expression numbers that get sliders in layouts without ARKit units."""
TRACKER = "webcam"
"""Folder of the face tracker beside the page."""
FILES = ("index.html", "page.js", "fastgha-avatar.js", "LICENSES.txt")
"""Of the page, beside the avatar."""


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
        on = np.zeros(len(ARKIT_NAMES), np.float32)
        on[[ARKIT_NAMES.index(unit) for unit in units]] = 1
        found[name] = arkit_to_code(on).values - rest
    return found


def export_web(avatar: Avatar, out: Path, sequence: Sequence, *, webcam: bool = False) -> Path:
    """Write a page that shows a baked avatar, with sliders and a sequence to play.

    Args:
        avatar: A baked avatar.
        out: Folder to write.
        sequence: Expressions in the avatar's layout.
        webcam: Put a face tracker beside the page, so that a webcam drives the head.

    Returns:
        The page, `index.html`. It opens from the disk, or from any server of files.

    Raises:
        ConfigError: If the avatar is not baked, or its layout has no face units for a webcam.
        MissingWeightsError: If the face tracker is not on this machine.
        InputError: If the folder cannot be written to; nothing is left in it then.
    """
    files = site_files(avatar_script(avatar, sequence))
    if webcam:
        if avatar.layout != MAKEHUMAN:
            raise ConfigError(
                f"A webcam drives face units, which {avatar.layout} has not.",
                "Leave out --webcam, or take a model of MakeHuman codes.",
            )
        files["index.html"] = page({"webcam": f"{TRACKER}/"}).encode()
        tracker = {file.name: partial(_put, file.read_bytes()) for file in tracker_files()}
        write_folder(out / TRACKER, tracker)
    for name in files:
        sweep_parts(out / name)
    write_folder(out, {name: partial(_put, data) for name, data in files.items()})
    return out / "index.html"


def site_files(script: bytes) -> dict[str, bytes]:
    """Return the files of a page by name, its `index.html` last.

    Args:
        script: The avatar, from `avatar_script`.
    """
    return {
        "avatar.js": script,
        **{name: (WEB / name).read_bytes() for name in (*FILES[1:], "README.md")},
        "package.json": json.dumps(_package(), indent=1).encode(),
        "index.html": page({}).encode(),
    }


def tracker_files() -> list[Path]:
    """Return the files of the face tracker that a page drives a head with.

    Raises:
        MissingWeightsError: If one is not on this machine.
    """
    return [weights.find(name) for name in weights.SETS["webcam"]]


def page(settings: dict[str, Any], avatar: str = "avatar.js") -> str:
    """Return the page.

    Args:
        settings: What its script finds on the root element, by name.
        avatar: File that it shows, beside it; none if empty.
    """
    text = (WEB / "index.html").read_text(encoding="utf-8")
    words = {"program": program(), "statement": statement(), "title": "Head avatar"}
    words |= {"settings": json.dumps(settings), "avatar": avatar}
    for word, value in words.items():
        text = text.replace(f"{{{{{word}}}}}", html.escape(value))
    return text


def avatar_script(avatar: Avatar, sequence: Sequence) -> bytes:
    """Return a baked avatar as the page reads it: a script, so that it opens from the disk too.

    Raises:
        ConfigError: If the avatar is not baked.
    """
    packed = gzip.compress(_pack(avatar, sequence), 9, mtime=0)
    data = base64.b64encode(packed).decode()
    return f'(globalThis.fastghaAvatars??={{}})[document.currentScript.src]="{data}";\n'.encode()


def _pack(avatar: Avatar, sequence: Sequence) -> bytes:
    """Return length of the header, header (JSON) and arrays, each at a multiple of 4 bytes."""
    net = avatar.deformation
    if not isinstance(net, Baked):
        raise ConfigError(
            "The page needs a baked avatar.", "Make one: fastgha bake me.avatar -o fast.avatar."
        )
    nothing = torch.zeros(0)
    shapes, steps = _bytes_of(net.shapes)
    controls = sliders(avatar.layout)
    basis = layouts.expression_basis() if avatar.layout == MAKEHUMAN else np.zeros(0)
    full = {
        "means": avatar.canonical.means,
        "neutral": neutral_code(avatar.layout).values,
        "controls": torch.stack(list(controls.values())),
        "basis": torch.from_numpy(basis),
        "linear_weight": net.linear.weight,
        "linear_bias": net.linear.bias,
        "hidden_weight": net.hidden.weight if net.hidden is not None else nothing,
        "hidden_bias": net.hidden.bias if net.hidden is not None else nothing,
        "out_weight": net.out.weight if net.out is not None else nothing,
        "steps": steps,
    }
    colors = avatar.canonical.colors.clone()
    colors[net.config.moving :].clamp_(0, 1)  # those that move are cut when they have moved
    still = {name: getattr(avatar.canonical, name) for name in ("quats", "scales", "opacities")}
    light = {"colors": colors, "mean": net.mean, "codes": sequence.codes.values}
    parts: list[bytes] = []
    arrays: dict[str, tuple[str, int, int]] = {}
    start = 0
    for values, kind in ((full, "<f4"), (still | light, "<f2"), ({"shapes": shapes}, "|i1")):
        for name, value in values.items():
            raw = value.detach().cpu().numpy().astype(kind).tobytes()
            arrays[name] = (kind, start, value.numel())
            parts.append(raw + bytes(-len(raw) % 4))
            start += len(parts[-1])
    header = {
        "program": program(),
        "layout": avatar.layout,
        "gaussians": len(avatar.canonical),
        "moving": net.config.moving,
        "rank": net.config.rank,
        "hidden": net.config.hidden,
        "frames": len(sequence),
        "fps": sequence.fps,
        "controls": _controls(avatar.layout),
        "arkit": _arkit() if avatar.layout == MAKEHUMAN else None,
        "distance": DISTANCE,
        "field": FIELD,
    }
    # Places count from the beginning of the file, so the header's length must be known: it is
    # written once with zeros for room.
    room = len(json.dumps({**header, "arrays": arrays})) + 16 * len(arrays)
    room += -(room + 4) % 4
    placed = {name: (kind, at + room + 4, count) for name, (kind, at, count) in arrays.items()}
    text = json.dumps({**header, "arrays": placed}).encode().ljust(room)
    return struct.pack("<I", room) + text + b"".join(parts)


def _bytes_of(
    shapes: Float[Tensor, "r m 6"],
) -> tuple[Int8[Tensor, "6 r m"], Float[Tensor, "r 6"]]:
    """Return shapes in 8 bits, and the size of a step of each shape and channel."""
    steps = shapes.abs().amax(1) / 127 if shapes.shape[1] else shapes.new_zeros(len(shapes), 6)
    levels = (shapes / steps.clamp(min=1e-30)[:, None]).round().clamp(-127, 127)
    return levels.permute(2, 0, 1).to(torch.int8).contiguous(), steps


def _controls(layout: str) -> list[dict[str, Any]]:
    if layout != MAKEHUMAN:
        return [{"name": name, "region": "expression"} for name in sliders(layout)]
    return [
        {"name": name, "region": region, "units": units}
        for region, controls in REGIONS.items()
        for name, units in controls.items()
    ]


def _arkit() -> dict[str, Any]:
    """What the page needs to make codes of ARKit weights, as `arkit_to_code` does."""
    return {
        "names": ARKIT_NAMES,
        "units": layouts.EXPRESSION_UNITS,
        "jawOpen": layouts.JAW_OPEN,
        "jawSide": layouts.JAW_SIDE,
        "up": layouts.GAZE_UP,
        "down": layouts.GAZE_DOWN,
        "side": layouts.GAZE_SIDE,
    }


def _package() -> dict[str, Any]:
    """Return what npm reads of the folder."""
    return {
        "name": "fastgha-head",
        "version": "1.0.0",
        "description": "A head avatar as the custom element <fastgha-avatar>.",
        "license": "SEE LICENSE IN LICENSES.txt",
        "main": "fastgha-avatar.js",
        "files": ["*.js", "index.html", "LICENSES.txt", TRACKER],
        "private": True,
    }


def _put(data: bytes, part: Path) -> None:
    part.write_bytes(data)
