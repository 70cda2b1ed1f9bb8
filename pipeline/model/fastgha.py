"""The whole model: views to a canonical head, and the deformation that animates it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.errors import ShapeError
from pipeline.core.geometry import plucker_rays
from pipeline.core.types import Gaussians, View
from pipeline.model.activate import CanonicalHead, activate
from pipeline.model.config import ModelConfig
from pipeline.model.decoder import Decoder
from pipeline.model.deform import Deformation, PreparedHead
from pipeline.model.features import ConvFeatures, Features
from pipeline.model.hub import WeightsSource
from pipeline.model.transformer import MultiViewTransformer

if TYPE_CHECKING:
    from pipeline.model.frozen import FrozenFeatures, VaeDecoder

MAX_VIEWS = 6
Precision = Literal["auto", "float32", "bfloat16"]


class FastGHA(nn.Module):
    """Few-shot Gaussian head avatars in one pass.

    views -> features (1/8 grid) + Pluecker rays -> transformer over all views
          -> decoder with attention between views -> activate -> CanonicalHead
    CanonicalHead + expression code -> deformation -> Gaussians

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
        self.transformer = MultiViewTransformer(self.features.grid_channels + 6, config.transformer)
        self.decoder = _decoder(config, self.features.skip_channels, source)
        self.deformation = Deformation(config.gaussian_features, config.deform)
        # Raw zeros are a plausible head (see `activate`); start near them.
        with torch.no_grad():
            self.decoder.conv_out.weight *= 0.1
            assert self.decoder.conv_out.bias is not None
            self.decoder.conv_out.bias.zero_()

    def reconstruct(self, views: View) -> CanonicalHead:
        """Make the canonical head of 1 to 6 views.

        Args:
            views: One leading dimension; image height and width are multiples of 16.

        Raises:
            ShapeError: If there are too few or too many views, or their size does not fit.
        """
        check_views(views)
        pixels = torch.cat(
            [views.image * 2 - 1, views.alpha * 2 - 1, plucker_rays(views.camera)], dim=1
        )
        coarse_rays = plucker_rays(views.camera, stride=8)
        with autocast(pixels.device, self.precision):
            found: Features = self.features(pixels)
            tokens = self.transformer(torch.cat([found.grid, coarse_rays], dim=1))
            raw: Tensor = self.decoder(tokens, found.skips)
        return activate(raw, views, self.config)

    def prepare(self, head: CanonicalHead) -> PreparedHead:
        """Compute the expression-independent share of the deformation, once for a head."""
        return self.deformation.prepare(head)

    def animate(self, prepared: PreparedHead, code: Float[Tensor, "120"]) -> Gaussians:
        """Return the Gaussians of a head under an expression."""
        with autocast(code.device, self.precision):
            return self.deformation(prepared, code)


def _features(config: ModelConfig, source: WeightsSource) -> ConvFeatures | FrozenFeatures:
    if config.features.kind == "conv":
        return ConvFeatures(config.features)
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
