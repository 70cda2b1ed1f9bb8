"""Sizes of the model. The defaults are the paper's where it states them."""

from dataclasses import dataclass, field
from typing import Literal

from pipeline.core.config import check_range
from pipeline.core.errors import ConfigError
from pipeline.model.hub import BACKBONES, VAE

WIDEST, DEEPEST = 2**14, 256
"""Bounds of what a setting can mean: channels of a layer, and layers."""


@dataclass(frozen=True)
class FeatureConfig:
    """Image features on the 1/8 grid."""

    kind: Literal["frozen", "conv"] = "frozen"
    """frozen: downloaded networks, as the paper; conv: convolutions trained from scratch."""
    channels: int = 256
    """Channels on the 1/8 grid, without the VAE's four."""
    widths: tuple[int, ...] = (64, 128, 256)
    """With conv: channels at 1/2, 1/4 and 1/8."""
    vae: str = VAE
    """With frozen: hub id or folder of the VAE."""
    backbone: str = "dinov3"
    """With frozen: the vision transformer, by its name in `pipeline.model.hub`, or none."""
    backbone_weights: str = ""
    """Its hub id or folder; by default the published one."""
    layers: tuple[int, ...] = (6, 12, 18, 24)
    """Its layers whose tokens are taken; the first is 1."""

    def __post_init__(self) -> None:
        check_range("model.features.channels", (self.channels, *self.widths), 1, WIDEST)
        check_range("model.features.layers", self.layers, 1, DEEPEST)
        if self.backbone not in (*BACKBONES, "none"):
            raise ConfigError(
                f"model.features.backbone cannot be {self.backbone!r}.",
                f"Choose one of: {', '.join([*BACKBONES, 'none'])}.",
            )


@dataclass(frozen=True)
class TransformerConfig:
    """Self-attention over the tokens of all views."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    pool: int = 1
    """Keys and values are means over this many positions along each side; 1 as the paper."""

    def __post_init__(self) -> None:
        check_range("model.transformer.width", self.width, 1, WIDEST)
        check_range("model.transformer.layers", self.layers, 0, DEEPEST)
        check_range("model.transformer.heads", (self.heads, self.pool), 1, DEEPEST)


@dataclass(frozen=True)
class DecoderConfig:
    """From tokens to maps of Gaussian parameters, coarse to fine."""

    kind: Literal["vae", "conv"] = "vae"
    """vae: the decoder of `features.vae`; conv: one of the same shape and free size."""
    pretrained: bool = True
    """With vae: begin with its weights."""
    widths: tuple[int, ...] = (512, 512, 256, 128)
    """With conv: channels at 1/8, 1/4, 1/2, 1/1. Its length sets how dense the Gaussians are: with
    four there is one Gaussian for each pixel, with three one for 2 x 2 pixels."""
    split: int = 1
    """With conv: Gaussians along each side of a position of the finest map; its channels hold all
    of theirs."""
    blocks: int = 3
    """Residual blocks at each scale."""
    heads: int = 1
    """Heads of the attention between views in the middle."""
    pool: int = 1
    """As in the transformer."""

    def __post_init__(self) -> None:
        check_range("model.decoder.widths", self.widths, 1, WIDEST)
        check_range("model.decoder.blocks", (self.blocks, self.heads, self.pool), 1, DEEPEST)
        check_range("model.decoder.split", self.split, 1, WIDEST)


@dataclass(frozen=True)
class DeformConfig:
    """The network that moves and recolours the Gaussians."""

    width: int = 256
    layers: int = 6
    frequencies: int = 6
    """Octaves of the sinusoidal encoding of the positions."""
    color_offsets: bool = True
    color_space: Literal["logit", "linear"] = "logit"
    """logit: a colour stays a colour under any code; linear: added as it is, as files from before
    there was a choice do."""

    def __post_init__(self) -> None:
        check_range("model.deform.width", self.width, 1, WIDEST)
        check_range("model.deform.layers", (self.layers, self.frequencies), 0, DEEPEST)


@dataclass(frozen=True)
class ModelConfig:
    """Everything that fixes the shapes of the weights."""

    image_size: int = 512
    """Size the preset is meant for; any multiple of 16 works."""
    gaussian_features: int = 32
    """Numbers that each Gaussian carries for the deformation."""
    position: Literal["ray_depth", "xyz"] = "ray_depth"
    """ray_depth: one number, along the pixel's ray; xyz: three, in the head's box. With a guide,
    neither: three, from the mesh in the camera's axes."""
    guide: Literal["mesh", "none"] = "none"
    """mesh: each picture comes with a tracked mesh of the person. Positions are residuals on it
    and the canonical head is the neutral one; motion is the mesh's and a residual. none: the
    paper's model."""
    interior: bool = False
    """With a guide: make Gaussians also inside the mouth and on the eyeballs, where pictures see
    nothing until it moves."""
    unseen: bool = False
    """With a guide: make Gaussians also over the skin that no picture shows, as at the back of the
    head; `tools/train_unseen.py` teaches how far hair stands off there."""
    foreground_only: bool = False
    """Make Gaussians only where the matte of the input sees the head."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    deform: DeformConfig = field(default_factory=DeformConfig)

    def __post_init__(self) -> None:
        check_range("model.image_size", self.image_size, 16, WIDEST)
        check_range("model.gaussian_features", self.gaussian_features, 0, WIDEST)
        if self.transformer.width % self.transformer.heads:
            raise ConfigError(
                f"transformer.width {self.transformer.width} cannot be shared by "
                f"{self.transformer.heads} heads.",
                "Make the width a multiple of the heads.",
            )
        for name in ("interior", "unseen"):
            if getattr(self, name) and self.guide == "none":
                raise ConfigError(
                    f"model.{name} needs a mesh.", "Set model.guide=mesh, or leave it."
                )
        if not 2 <= len(self.decoder.widths) <= 4 or len(self.features.widths) != 3:
            raise ConfigError(
                "decoder.widths needs 2 to 4 numbers and features.widths 3.",
                "Give one width for each scale.",
            )
        decoder = self.decoder
        if decoder.split != 1 and (decoder.kind == "vae" or self._block % decoder.split):
            raise ConfigError(
                f"decoder.split {decoder.split} does not divide what one position stands for.",
                "Leave it at 1, or make it 2 with a conv decoder of three widths.",
            )

    @property
    def stride(self) -> int:
        """Pixels along one side of the block that one Gaussian stands for."""
        return self._block // self.decoder.split

    @property
    def _block(self) -> int:
        """Pixels along one side of what a position of the decoder's finest map stands for."""
        return 1 if self.decoder.kind == "vae" else 2 ** (4 - len(self.decoder.widths))

    @property
    def channels(self) -> int:
        """Output channels of the decoder: 44 for ray_depth with 32 features."""
        position = 1 if self.position == "ray_depth" and self.guide == "none" else 3
        return position + 3 + 4 + 3 + 1 + self.gaussian_features

    @property
    def guide_channels(self) -> int:
        """Channels that a guide adds to the input: canonical position and coverage."""
        return 4 if self.guide == "mesh" else 0

    @property
    def guide_stride(self) -> int:
        """Stride of the guide's maps; 0 for a model without."""
        return self.stride if self.guide == "mesh" else 0
