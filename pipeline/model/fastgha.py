"""The whole model: views to a canonical head, and the deformation that animates it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError, InputError, ShapeError
from pipeline.core.geometry import plucker_rays
from pipeline.core.types import Camera, Gaussians, View
from pipeline.faces.guide import Guide, TrackedMesh, draw_guide
from pipeline.model.activate import HEAD_RADIUS, CanonicalHead, activate, kept
from pipeline.model.config import ModelConfig
from pipeline.model.decoder import Decoder
from pipeline.model.deform import Deformation, PreparedHead
from pipeline.model.features import ConvFeatures, Features
from pipeline.model.hub import WeightsSource
from pipeline.model.interior import Interior
from pipeline.model.transformer import MultiViewTransformer
from pipeline.model.unseen import Unseen

if TYPE_CHECKING:
    from pipeline.model.frozen import FrozenFeatures, VaeDecoder

MAX_VIEWS = 6
NO_GUIDE = "This model is guided by a tracked mesh, and of these pictures none is known."
NO_GUIDE_REMEDY = (
    "Make the shards again with `fastgha prep` (version 3 holds the person's neutral mesh), or "
    "take a model without a guide: --preset small/no-guide."
)
Precision = Literal["auto", "float32", "bfloat16"]


class FastGHA(nn.Module):
    """Few-shot Gaussian head avatars in one pass.

    views -> features (1/8 grid) + Pluecker rays -> transformer over all views
          -> decoder with attention between views -> activate -> CanonicalHead
    CanonicalHead + expression code -> deformation -> Gaussians

    A guided model takes a guide beside the views: see `pipeline.faces.guide`.

    Source:
        Ji et al., FastGHA, ICLR 2026, arXiv 2601.13837.
    """

    def __init__(
        self,
        config: ModelConfig,
        precision: Precision = "auto",
        source: WeightsSource = "pretrained",
    ) -> None:
        super().__init__()
        self.config = config
        self.precision: Precision = precision
        self.features = _features(config, source)
        channels = self.features.grid_channels + 6 + config.guide_channels
        self.transformer = MultiViewTransformer(channels, config.transformer)
        self.decoder = _decoder(config, self.features.skip_channels, source)
        guided = config.guide == "mesh"
        self.deformation = Deformation(config.gaussian_features, config.deform, guided)
        self.interior = None
        if config.interior:
            self.interior = Interior(config.transformer.width, config.gaussian_features)
        self.unseen = None
        if config.unseen:
            self.unseen = Unseen(config.gaussian_features)
        # Raw zeros are a plausible head (see `activate`); start near them.
        with torch.no_grad():
            self.decoder.conv_out.weight *= 0.1
            assert self.decoder.conv_out.bias is not None
            self.decoder.conv_out.bias.zero_()

    def parts(self, names: Sequence[str]) -> list[nn.Module]:
        """Return parts of the model by name, of any depth, as `decoder.conv_out`.

        Raises:
            ConfigError: If there is none of a name.
        """
        known = dict(self.named_modules())
        for name in names:
            if name not in known:
                raise ConfigError(f"The model has no part {name!r}.", nearest(name, list(known)))
        return [known[name] for name in names]

    def guide(self, mesh: TrackedMesh | None, camera: Camera) -> Guide | None:
        """Draw the guide of some views as this model takes it; nothing for a model without.

        Args:
            mesh: As tracked in the views.
            camera: Of the views.

        Raises:
            InputError: If the model is guided and there is no mesh.
        """
        if self.config.guide == "none":
            return None
        if mesh is None:
            raise InputError(NO_GUIDE, NO_GUIDE_REMEDY)
        return draw_guide(mesh, camera, self.config.stride)

    def reconstruct(self, views: View, guide: Guide | None = None) -> CanonicalHead:
        """Make the canonical head of 1 to 6 views.

        Args:
            views: One leading dimension; image height and width are multiples of 16.
            guide: Of the same views, for a guided model; see `guide`.

        Raises:
            ShapeError: If there are too few or too many views, or their size does not fit.
            InputError: If the model is guided and there is no guide, or the other way round.
        """
        return self.reconstruct_sets([views], [guide])[0]

    def reconstruct_sets(
        self, sets: Sequence[View], guides: Sequence[Guide | None]
    ) -> list[CanonicalHead]:
        """Make the canonical heads of several people in one pass.

        Args:
            sets: Views of each; all of as many pictures, of one size.
            guides: Of each, for a guided model.

        Raises:
            ShapeError: As `reconstruct`, or if the sets are not of one size.
            InputError: As `reconstruct`.
        """
        for views, guide in zip(sets, guides, strict=True):
            check_views(views)
            self._check_guide(views, guide)
        if len({views.image.shape for views in sets}) != 1:
            raise ShapeError(
                "Several heads in one pass need as many pictures each, of one size.",
                "Make those apart that differ.",
            )
        x, coarse = (torch.cat(parts) for parts in zip(*map(self._pixels, sets, guides)))
        with autocast(x.device, self.precision):
            found: Features = self.features(x)
            tokens = self.transformer(torch.cat([found.grid, coarse], dim=1), len(sets))
            raw: Tensor = self.decoder(tokens, found.skips, len(sets))
        views = len(sets[0])
        made: list[CanonicalHead] = []
        for i, (part, seen) in enumerate(zip(raw.split(views), tokens.split(views), strict=True)):
            head, guide = activate(part, sets[i], self.config, guides[i]), guides[i]
            if guide is not None and self.unseen is not None:
                covered = guide.coverage[:, 0][kept(sets[i], self.config)] > 0.5
                head = self.unseen(head, guide, sets[i], covered)
            if guide is not None and self.interior is not None:
                head = self.interior(head, guide, sets[i], seen)
            made.append(head)
        return made

    def _pixels(self, views: View, guide: Guide | None) -> tuple[Tensor, Tensor]:
        """Return what the network sees of each pixel, and beside the features of each token."""
        pixels = [views.image * 2 - 1, views.alpha * 2 - 1, plucker_rays(views.camera)]
        coarse = [plucker_rays(views.camera, stride=8)]
        if guide is not None:
            maps = torch.cat([guide.canonical / HEAD_RADIUS, guide.coverage], dim=1)
            h, w = views.image.shape[-2:]
            pixels.append(functional.interpolate(maps, (h, w), mode="nearest"))
            coarse.append(functional.avg_pool2d(maps, 8 // self.config.stride))
        return torch.cat(pixels, dim=1), torch.cat(coarse, dim=1)

    def _check_guide(self, views: View, guide: Guide | None) -> None:
        if guide is None:
            if self.config.guide == "mesh":
                raise InputError(NO_GUIDE, NO_GUIDE_REMEDY)
            return
        if self.config.guide == "none":
            raise InputError("This model takes no guide.", "Leave it out.")
        h, w = views.image.shape[-2:]
        s = self.config.stride
        if guide.coverage.shape != (len(views), 1, h // s, w // s):
            raise ShapeError(
                f"The guide is {list(guide.coverage.shape)}; {len(views)} views of {w}x{h} need "
                f"{[len(views), 1, h // s, w // s]}.",
                "Draw it with `FastGHA.guide`.",
            )

    def prepare(self, head: CanonicalHead) -> PreparedHead:
        """Compute the expression-independent share of the deformation, once for a head."""
        return self.deformation.prepare(head)

    def animate(self, prepared: PreparedHead, code: Float[Tensor, "120"]) -> Gaussians:
        """Return the Gaussians of a head under an expression."""
        with autocast(code.device, self.precision):
            return self.deformation(prepared, code)


def _features(config: ModelConfig, source: WeightsSource) -> ConvFeatures | FrozenFeatures:
    if config.features.kind == "conv":
        return ConvFeatures(config.features, config.guide_channels)
    from pipeline.model.frozen import FrozenFeatures

    return FrozenFeatures(config.features, source)


def _decoder(
    config: ModelConfig, skips: tuple[int, ...], source: WeightsSource
) -> Decoder | VaeDecoder:
    width = config.transformer.width
    if config.decoder.kind == "conv":
        return Decoder(width, config.channels, skips, config.decoder)
    from pipeline.model.frozen import VaeDecoder

    return VaeDecoder(
        width, config.channels, config.features.vae, config.decoder.pretrained, source
    )


def check_views(views: View) -> None:
    """Refuse views that the model cannot take."""
    if views.image.ndim != 4 or not 1 <= len(views) <= MAX_VIEWS:
        raise ShapeError(
            f"The model takes 1 to {MAX_VIEWS} views; got {list(views.image.shape[:-3])}.",
            "Leave some pictures out.",
        )
    h, w = views.image.shape[-2:]
    if h % 16 or w % 16:
        raise ShapeError(
            f"Pictures of {w}x{h} do not fit the grid.", "Make both sides multiples of 16."
        )


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Return the context in which the model computes in the wanted precision.

    `auto` takes bfloat16 where the hardware multiplies it natively, else float32.
    """
    if precision == "auto":
        native = (
            torch.cuda.is_bf16_supported()
            if device.type == "cuda"
            else bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
        )
        precision = "bfloat16" if native else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
