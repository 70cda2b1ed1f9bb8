"""Features of frozen, downloaded networks: the SD-Turbo VAE's latents and a ViT's patch tokens.

Letters: v views, h w image size, l layers, d width of the ViT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from pipeline.core.errors import ConfigError
from pipeline.model.blocks import ResidualBlock, full_precision
from pipeline.model.config import FeatureConfig
from pipeline.model.features import Features
from pipeline.model.hub import BACKBONES, WeightsSource, load_backbone, load_vae

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, which the transformers were trained with."""
GRID = 16
"""Pixels along a side that one patch token stands for here."""


class FrozenFeatures(nn.Module):
    """VAE latents (4) and fused patch tokens on the 1/8 grid.

    The paper says that several layers are fused, not which. Ours: those at a quarter, a half,
    three quarters and the end of the network, from edges to meaning, as dense prediction heads
    on vision transformers take them. Each is normalised, since later ones are much louder, taken
    to 1/8 and fused by trained convolutions.

    The networks are kept outside the tree of modules: no optimizer, checkpoint or `train()` can
    reach them.

    Source:
        FastGHA section 3.1 and appendix A.1.
    """

    skip_channels = ()

    def __init__(self, config: FeatureConfig, source: WeightsSource = "pretrained") -> None:
        super().__init__()
        vae = load_vae(config.vae, source)
        vae.decoder = nn.Identity()
        self.scaling = float(vae.config.scaling_factor)
        self.grid_channels = int(vae.config.latent_channels)
        self._frozen: dict[str, Any] = {"vae": vae}
        self.layers = config.layers
        if config.backbone != "none":
            name = config.backbone_weights or BACKBONES[config.backbone].hub
            vit = load_backbone(config.backbone, name, source)
            self._frozen["vit"] = vit
            if not config.layers or max(config.layers) > vit.config.num_hidden_layers:
                raise ConfigError(
                    f"features.layers {list(config.layers)} are not of a network of "
                    f"{vit.config.num_hidden_layers}.",
                    "Give numbers of its layers, the first being 1.",
                )
            self.patch = int(vit.config.patch_size)
            self.prefix = 1 + int(getattr(vit.config, "num_register_tokens", 0) or 0)
            self.take = nn.ModuleList(
                nn.Conv2d(vit.config.hidden_size, config.channels, 1) for _ in config.layers
            )
            self.fuse = nn.Sequential(
                nn.Conv2d(len(config.layers) * config.channels, config.channels, 1),
                ResidualBlock(config.channels, config.channels),
                ResidualBlock(config.channels, config.channels),
            )
            self.grid_channels += config.channels
        for net in self._frozen.values():
            net.eval().requires_grad_(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FrozenFeatures:
        for net in self._frozen.values():
            net._apply(fn, recurse)
        return super()._apply(fn, recurse)

    def forward(self, pixels: Float[Tensor, "v d h w"]) -> Features:
        """Return features of each view by itself.

        Args:
            pixels: As `FastGHA.reconstruct` makes them; the first three are RGB in [-1, 1].
        """
        latents = self.latents(pixels[:, :3])
        if "vit" not in self._frozen:
            return Features(latents, ())
        tokens = self.tokens(pixels[:, :3])
        size = [n // 8 for n in pixels.shape[-2:]]
        maps = [
            functional.interpolate(take(layer), size, mode="bilinear")
            for take, layer in zip(self.take, tokens, strict=True)
        ]
        return Features(torch.cat([self.fuse(torch.cat(maps, 1)), latents], 1), ())

    @torch.no_grad()
    def latents(self, rgb: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v 4 h/8 w/8"]:
        """Return the mode of the VAE's latent distribution, scaled as diffusers does."""
        return self._frozen["vae"].encode(rgb).latent_dist.mode() * self.scaling

    @torch.no_grad()
    def tokens(self, rgb: Float[Tensor, "v 3 h w"]) -> list[Float[Tensor, "v d h/16 w/16"]]:
        """Return the patch tokens of the chosen layers, each normalised."""
        rows, columns = (n // GRID for n in rgb.shape[-2:])
        mean, std = (torch.tensor(x).to(rgb)[:, None, None] for x in (MEAN, STD))
        picture = ((rgb + 1) / 2 - mean) / std
        size = [rows * self.patch, columns * self.patch]
        if list(picture.shape[-2:]) != size:
            picture = functional.interpolate(picture, size, mode="bicubic", antialias=True)
        found = self._frozen["vit"](picture, output_hidden_states=True).hidden_states
        maps = []
        for i in self.layers:
            patches = found[i][:, self.prefix :]
            patches = functional.layer_norm(patches, patches.shape[-1:])
            maps.append(patches.transpose(1, 2).unflatten(2, (rows, columns)))
        return maps


class VaeDecoder(nn.Module):
    """The SD-Turbo VAE's decoder: other ends, attention between views, fine-tuned whole.

    The first convolution takes the transformer's tokens in place of latents and the last gives
    Gaussian parameters in place of colours, so both begin anew. `post_quant_conv`, which mixes
    the four latent channels before the decoder, has no place any more and is left out.

    Source:
        FastGHA section 3.1 and Table 4.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        vae_name: str,
        pretrained: bool,
        source: WeightsSource = "pretrained",
    ) -> None:
        super().__init__()
        vae = load_vae(vae_name, source)
        if not pretrained:
            vae = type(vae).from_config(vae.config)
        inner = vae.decoder
        self.conv_in = nn.Conv2d(channels_in, inner.conv_in.out_channels, 3, padding=1)
        mid = inner.mid_block
        self.mid = nn.ModuleList([mid.resnets[0], AcrossViews(mid.attentions[0]), mid.resnets[1]])
        self.up = inner.up_blocks
        self.norm_out = inner.conv_norm_out
        self.conv_out = nn.Conv2d(inner.conv_out.in_channels, channels_out, 3, padding=1)
        self.requires_grad_(True).train()

    def forward(
        self, tokens: Float[Tensor, "v c h w"], skips: tuple[Tensor, ...], sets: int = 1
    ) -> Float[Tensor, "v d 8*h 8*w"]:
        """Return raw maps; `activate` gives them their meaning."""
        first, across, second = self.mid
        x = second(across(first(self.conv_in(tokens), None), sets), None)
        for block in self.up:
            x = block(x)
        # Depths need more digits than bfloat16 has.
        with full_precision(x):
            return self.conv_out(functional.silu(self.norm_out(x.float())))


class AcrossViews(nn.Module):
    """Attention of one picture's positions, turned to the positions of all views together."""

    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.attention = attention

    def forward(self, x: Float[Tensor, "v c h w"], sets: int = 1) -> Float[Tensor, "v c h w"]:
        """Take the views of a set for one tall picture; attention asks for no position."""
        v, c, h, w = x.shape
        tall = x.reshape(sets, -1, c, h, w).transpose(1, 2).reshape(sets, c, -1, w)
        found = self.attention(tall).reshape(sets, c, -1, h, w)
        return found.transpose(1, 2).reshape(v, c, h, w)
