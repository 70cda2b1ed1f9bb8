"""An avatar: a canonical head that can be animated and drawn, and its file.

The file is one safetensors: canonical Gaussians, their features, the deformation network, and
as JSON the layout of the codes and what made it. It never needs the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.core.config import from_dict, to_dict
from pipeline.core.errors import ShapeError
from pipeline.core.types import Camera, ExpressionCode, Gaussians, View
from pipeline.faces.guide import Rig, TrackedMesh
from pipeline.faces.layouts import require_layout
from pipeline.io.tensors import read_header, restore, write_tensors
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked, BakedConfig
from pipeline.model.config import DeformConfig
from pipeline.model.deform import Deformation, PreparedHead
from pipeline.model.fastgha import FastGHA, Precision, autocast
from pipeline.render import Backend, Rendering, render
from pipeline.system.files import require_file

FORMAT = "fastgha-avatar"
VERSION = 1
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
        """
        guide = model.guide(mesh, views.camera.to("cpu"))
        if guide is not None:
            guide = guide.to(views.image.device)
        head = model.reconstruct(views, guide)
        kept = head[head.gaussians.opacities >= VISIBLE]
        return Avatar(kept, model.deformation, layout, dict(made), model.precision)

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
        values = code.values.to(self.canonical.means)
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
        white = torch.ones(3).to(gaussians.means)
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
        write_tensors(path, tensors, facts)

    @staticmethod
    def load(path: Path | str, precision: Precision = "auto") -> Avatar:
        """Read an avatar file.

        Raises:
            InputError: If there is no file.
            FormatError: If it is truncated, not an avatar, or of another version.
        """
        path = require_file(Path(path), "an avatar")
        facts = read_header(path, FORMAT, VERSION)
        tensors = load_file(path)
        gaussians = _gaussians(tensors, "gaussians.")
        features = tensors["features"]
        sizes, guided = facts["deformation"], bool(facts.get("guided"))
        if facts.get("baked"):
            deformation = Baked(from_dict(BakedConfig, sizes))
        else:
            # Files from before there was a choice of colour spaces do not name theirs.
            config = from_dict(DeformConfig, {"color_space": "linear", **sizes})
            deformation = Deformation(features.shape[1], config, guided)
        restore(deformation, tensors, "deformation.", path)
        deformation.eval().requires_grad_(False)
        rig = _rig(tensors, facts["layout"]) if guided else None
        head = CanonicalHead(gaussians, features, rig)
        refined = _gaussians(tensors, "shown.") if "shown.means" in tensors else None
        return Avatar(head, deformation, facts["layout"], facts["made"], precision, refined)

    @cached_property
    def _prepared(self) -> PreparedHead:
        assert isinstance(self.deformation, Deformation)
        return self.deformation.prepare(self.head)


def _rig(tensors: Mapping[str, Tensor], layout: str) -> Rig:
    neutral, vertex, weight = (tensors[f"rig.{name}"] for name in ("neutral", "vertex", "weight"))
    return Rig(layout, neutral, vertex.long(), weight)


def _gaussians(tensors: Mapping[str, Tensor], prefix: str) -> Gaussians:
    return Gaussians(
        **{k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    )
