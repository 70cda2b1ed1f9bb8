"""An avatar: a canonical head that can be animated and drawn, and its file.

The file is one safetensors: canonical Gaussians, their features, the deformation network, and
as JSON the layout of the codes and what made it. It never needs the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from pipeline.core.config import short, to_dict
from pipeline.core.errors import MissingWeightsError, ShapeError
from pipeline.core.types import Camera, ExpressionCode, Gaussians, View
from pipeline.faces.guide import Rig, TrackedMesh
from pipeline.faces.heads import head_model
from pipeline.faces.layouts import LAYOUTS, require_layout
from pipeline.io import sharing
from pipeline.io.tensors import (
    built,
    damaged,
    fact,
    read_header,
    read_tensors,
    settings,
    write_tensors,
)
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked, BakedConfig
from pipeline.model.config import DeformConfig
from pipeline.model.deform import Deformation, PreparedHead
from pipeline.model.fastgha import FastGHA, Precision, autocast
from pipeline.render import Backend, Rendering, render
from pipeline.system.files import require_file, sweep_parts

FORMAT = "fastgha-avatar"
SHARED = "head.avatar"
"""Its name in a folder that is shared."""
VERSION = 1
IMAGE_SIZE = 256
"""Of avatars from before their files said it."""
FIELDS = ("means", "quats", "scales", "opacities", "colors")
FARTHEST, LARGEST = 100.0, 10.0
"""Metres: of a Gaussian from the head's origin, and of its size."""
VISIBLE = 1 / 255
"""Below this opacity a Gaussian is never drawn, whatever the expression."""


@dataclass(frozen=True)
class Avatar:
    """A head in the head frame that takes on any expression of its layout."""

    head: CanonicalHead
    deformation: Deformation | Baked
    """The network of the model, or linear shapes that `pipeline.avatar.bake` made of it."""
    layout: str
    """Of the codes that drive it."""
    made: Mapping[str, Any]
    """What made it: program version, checkpoint, number of pictures."""
    precision: Precision = "auto"
    refined_gaussians: Gaussians | None = None
    """The head's Gaussians as `pipeline.avatar.refine` left them. The deformation goes on as if
    they were where the model had put them: it has never seen others."""

    @staticmethod
    @torch.no_grad()
    def create(
        model: FastGHA,
        views: View,
        layout: str,
        made: Mapping[str, Any],
        mesh: TrackedMesh | None = None,
    ) -> Avatar:
        """Make an avatar of 1 to 6 views in one pass.

        Gaussians that could never be drawn are left out.

        Args:
            model: A trained model.
            views: Pictures with mattes and cameras.
            layout: Of the codes that the model was trained with.
            made: Facts to keep in the file.
            mesh: As tracked in the pictures, for a guided model.

        Raises:
            InputError: If the model is guided and there is no mesh.
            ShapeError: If what it makes is not finite.
        """
        guide = model.guide(mesh, views.camera.to("cpu"))
        if guide is not None:
            guide = guide.to(views.image.device)
        head = model.reconstruct(views, guide)
        if not all(bool(torch.isfinite(x).all()) for x in vars(head.gaussians).values()):
            raise ShapeError(
                "The model makes no head of these pictures: its numbers overflow.",
                "Take another checkpoint.",
            )
        kept = head[head.gaussians.opacities >= VISIBLE]
        facts = {"image_size": views.camera.width, **made}
        return Avatar(kept, model.deformation, layout, facts, model.precision)

    @property
    def device(self) -> torch.device:
        """Where it is, and is drawn."""
        return self.head.gaussians.means.device

    @property
    def image_size(self) -> int:
        """Width of the pictures that it was made of, pixels."""
        return int(self.made.get("image_size", IMAGE_SIZE))

    def to(self, device: torch.device | str) -> Avatar:
        """Return the same avatar on another device; the model it came of stays where it is."""
        if self.device == torch.device(device):
            return self
        refined = self.refined_gaussians
        return replace(
            self,
            head=self.head.to(device),
            deformation=deepcopy(self.deformation).to(device),
            refined_gaussians=None if refined is None else refined.to(device),
        )

    @property
    def canonical(self) -> Gaussians:
        """The head before any expression: the neutral one of a guided model.

        Of another, no picture has ever supervised it.
        """
        return self.head.gaussians if self.refined_gaussians is None else self.refined_gaussians

    @property
    def head_to_world(self) -> Tensor | None:
        """The head's pose [4, 4] in the world of the cameras it was made with, if one was given."""
        pose = self.made.get("head_to_world")
        return None if pose is None else torch.tensor(pose)

    @torch.no_grad()
    def animate(self, code: ExpressionCode) -> Gaussians:
        """Return the Gaussians under one expression.

        Raises:
            LayoutError: If the code is of another layout.
            ShapeError: If it is a sequence; animate one frame at a time.
        """
        require_layout(code, self.layout)
        if code.values.ndim != 1:
            raise ShapeError(
                f"One expression has 120 numbers; got {list(code.values.shape)}.",
                "Animate one frame at a time.",
            )
        moved = self._moved(code.values.to(self.canonical.means))
        # Of weights that each are numbers, or a code that no face makes; nan fails too.
        if not float(moved.means.abs().max()) <= FARTHEST:
            raise ShapeError(
                f"The avatar flies apart under this expression: over {FARTHEST:g} m.",
                "Give another expression; if all do this, make the avatar again.",
            )
        return moved

    def _moved(self, values: Tensor) -> Gaussians:
        if isinstance(self.deformation, Baked):
            return self.deformation(self.head, values)
        with autocast(values.device, self.precision):
            moved = self.deformation(self._prepared, values)
        if self.refined_gaussians is not None:
            still = self.head.gaussians
            moved = replace(
                self.refined_gaussians,
                means=self.refined_gaussians.means + (moved.means - still.means),
                colors=self.refined_gaussians.colors + (moved.colors - still.colors),
            )
        return replace(moved, colors=moved.colors.clamp(0, 1))

    def render(self, code: ExpressionCode, camera: Camera, backend: Backend = "auto") -> Rendering:
        """Draw the head under an expression, on white."""
        return self.draw(self.animate(code), camera, backend)

    @torch.no_grad()
    def draw(self, gaussians: Gaussians, camera: Camera, backend: Backend = "auto") -> Rendering:
        """Draw Gaussians of this head on white."""
        white = gaussians.means.new_ones(3)
        camera = camera.to(gaussians.means.device)
        return render(gaussians, camera, background=white, backend=backend)

    def save(self, path: Path) -> None:
        """Write the avatar file whole; shapes of a baked one in half precision."""
        tensors = {
            **{f"gaussians.{k}": v for k, v in vars(self.head.gaussians).items()},
            "features": self.head.features,
            **{f"deformation.{k}": v for k, v in self.deformation.state_dict().items()},
        }
        if self.refined_gaussians is not None:
            tensors |= {f"shown.{k}": v for k, v in vars(self.refined_gaussians).items()}
        rig = self.head.rig
        if rig is not None:
            tensors |= {
                "rig.neutral": rig.neutral,
                "rig.vertex": rig.vertex.int(),
                "rig.weight": rig.weight,
            }
        baked = isinstance(self.deformation, Baked)
        if baked:
            for name in ("deformation.shapes", "deformation.mean"):
                tensors[name] = tensors[name].half()
        facts = {
            "format": FORMAT,
            "version": VERSION,
            "baked": baked,
            "guided": rig is not None,
            "layout": self.layout,
            "deformation": to_dict(self.deformation.config),
            "made": dict(self.made),
        }
        sweep_parts(path)
        write_tensors(path, tensors, facts)

    @staticmethod
    def load(path: Path | str, precision: Precision = "auto") -> Avatar:
        """Read an avatar file.

        Raises:
            InputError: If there is no file.
            FormatError: If it is truncated, not an avatar, or of another version.
        """
        path = require_file(Path(path), "an avatar")
        facts = {"guided": False, "baked": False} | read_header(path, FORMAT, VERSION)
        tensors = read_tensors(path)
        layout, made = fact(facts, "layout", str, path), fact(facts, "made", dict, path)
        sizes, guided = fact(facts, "deformation", dict, path), fact(facts, "guided", bool, path)
        if layout not in LAYOUTS:
            raise damaged(path, f"its layout {short(layout)} is none of {', '.join(LAYOUTS)}")
        gaussians = _gaussians(tensors, "gaussians.", path)
        n, features = len(gaussians), tensors.get("features", torch.zeros(0))
        if features.ndim != 2 or len(features) != n or not features.is_floating_point():
            raise damaged(path, f"features are {_said(features)}")
        if fact(facts, "baked", bool, path):
            config = settings(BakedConfig, sizes, path)
            if config.moving > n:
                raise damaged(path, f"{config.moving} of its {n} Gaussians move")
            deformation = built(lambda: Baked(config), tensors, "deformation.", path)
        else:
            # Files from before there was a choice of colour spaces do not name theirs.
            net = settings(DeformConfig, {"color_space": "linear", **sizes}, path)
            deformation = built(
                lambda: Deformation(features.shape[1], net, guided), tensors, "deformation.", path
            )
        deformation.eval().requires_grad_(False)
        rig = _rig(tensors, layout, n, path) if guided else None
        head = CanonicalHead(gaussians, features.float(), rig)
        refined = _gaussians(tensors, "shown.", path) if "shown.means" in tensors else None
        if refined is not None and len(refined) != n:
            raise damaged(path, f"{len(refined)} of its {n} Gaussians are refined")
        return Avatar(head, deformation, layout, made, precision, refined)

    @staticmethod
    def from_pretrained(
        place: str | Path, revision: str | None = None, precision: Precision = "auto"
    ) -> Avatar:
        """Return an avatar that was shared.

        Args:
            place: A folder with `head.avatar`, an avatar file, or `owner/name` on the hub.
            revision: Branch, tag or commit on the hub.
            precision: Of its arithmetic.

        Raises:
            InputError: If it is not there.
            FormatError: If it is not a whole avatar.
            MissingPackageError: If it is on the hub, and huggingface_hub is not installed.
        """
        return Avatar.load(sharing.find(place, SHARED, revision), precision)

    def save_pretrained(self, folder: Path | str, *, about: str = "", license: str = "") -> Path:
        """Write the avatar and a card about it into a folder."""
        with TemporaryDirectory(prefix="fastgha-") as aside:
            self.save(Path(aside) / SHARED)
            card = self.card(about, license)
            return sharing.save(Path(folder), SHARED, Path(aside) / SHARED, card)

    def push_to_hub(
        self, repository: str, *, about: str = "", license: str = "", private: bool = True
    ) -> str:
        """Put the avatar, with a card, into a repository of the hub; return its address.

        It is a person's face: share it only where that person agreed to it.

        Args:
            repository: `owner/name`; made if need be.
            about: Who it is and who agreed to what, in Markdown.
            license: Identifier of the hub; empty if none is given.
            private: Whether a new repository is.

        Raises:
            InputError: If the hub refuses, or cannot be reached.
            MissingPackageError: If huggingface_hub is not installed.
        """
        with TemporaryDirectory(prefix="fastgha-") as aside:
            self.save(Path(aside) / SHARED)
            card = self.card(about, license)
            return sharing.push(repository, SHARED, Path(aside) / SHARED, card, private=private)

    def card(self, about: str = "", license: str = "") -> str:
        """Return what the avatar says of itself, as a card of the hub."""
        form = "baked shapes" if isinstance(self.deformation, Baked) else "network"
        facts = "\n".join(
            [
                "| | |", "|---|---|",
                f"| Gaussians | {len(self.canonical):,} |",
                f"| deformation | {form} |",
                f"| expression codes | `{self.layout}` |",
                f"| pictures it was made of | {short(self.made.get('pictures', 'not said'))} |",
            ]
        )  # fmt: skip
        use = (
            "```python\nfrom fastgha import Avatar\n\n"
            'avatar = Avatar.from_pretrained("owner/name")\n```'
        )
        consent = "Made from pictures of a person; use it only as that person agreed to."
        paragraphs = [*([about] if about else []), facts, use, consent]
        return sharing.card("A head avatar of fastgha", license, paragraphs)

    @cached_property
    def _prepared(self) -> PreparedHead:
        assert isinstance(self.deformation, Deformation)
        return self.deformation.prepare(self.head)


def _rig(tensors: Mapping[str, Tensor], layout: str, n: int, path: Path) -> Rig:
    parts = {name: tensors.get(f"rig.{name}", torch.zeros(0)) for name in ("neutral", "weight")}
    vertex = tensors.get("rig.vertex", torch.zeros(0))
    neutral, weight = parts["neutral"], parts["weight"]
    if neutral.ndim != 2 or neutral.shape[1] != 3 or not _within(neutral, -FARTHEST, FARTHEST):
        raise damaged(path, f"its mesh is {_said(neutral)}")
    if vertex.shape != (n,) or vertex.is_floating_point():
        raise damaged(path, f"rig.vertex is {_said(vertex)}")
    if weight.shape != (n,) or not _within(weight, 0, 1):
        raise damaged(path, f"rig.weight is {_said(weight)}")
    try:
        head = head_model(layout)
    except MissingWeightsError:  # which is said when the avatar is animated
        return Rig(layout, neutral.float(), vertex.long(), weight.float())
    count = int(head.faces.max()) + 1
    if len(neutral) != head.controls:
        raise damaged(path, f"its mesh has {len(neutral)} vertices, a head {head.controls}")
    if n and not (int(vertex.min()) >= 0 and int(vertex.max()) < count):
        raise damaged(path, f"its Gaussians hang on vertices that are not there ({count} are)")
    return Rig(layout, neutral.float(), vertex.long(), weight.float())


def _gaussians(tensors: Mapping[str, Tensor], prefix: str, path: Path) -> Gaussians:
    parts: dict[str, Tensor] = {name: tensors.get(prefix + name, torch.zeros(0)) for name in FIELDS}
    n = len(parts["means"]) if parts["means"].ndim else 0
    shapes: dict[str, tuple[int, ...]] = dict(
        zip(FIELDS, ((n, 3), (n, 4), (n, 3), (n,), (n, 3)), strict=True)
    )
    for name, value in parts.items():
        if value.shape != shapes[name] or not value.is_floating_point() or not n:
            raise damaged(path, f"{name} of its Gaussians are {_said(value)}")
    bounds = {
        "means": (-FARTHEST, FARTHEST), "quats": (-1e6, 1e6), "scales": (0, LARGEST),
        "opacities": (0, 1), "colors": (-10, 10),
    }  # fmt: skip
    for name, (low, high) in bounds.items():
        if not _within(parts[name], low, high):
            raise damaged(path, f"{name} of its Gaussians are not within {low:g} to {high:g}")
    return Gaussians(**{name: value.float() for name, value in parts.items()})


def _within(values: Tensor, low: float, high: float) -> bool:
    return not values.numel() or (
        values.is_floating_point() and float(values.min()) >= low and float(values.max()) <= high
    )


def _said(values: Tensor) -> str:
    return f"{str(values.dtype).removeprefix('torch.')} {list(values.shape)}, or missing"
