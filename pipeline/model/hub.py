# pyright: basic
"""The downloaded networks of the paper's model: where their weights are, and reading them.

Weights are looked for in the folder of `fastgha weights` (under their hub id) and in the hub's own
cache; nothing is downloaded here. A path of a folder may stand for a hub id everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from pipeline.core.errors import FormatError, MissingPackageError, MissingWeightsError
from pipeline.system import weights as places

WeightsSource = Literal["pretrained", "random"]
"""random: the published sizes with random weights; for counting and for measuring speed."""

VAE = "stabilityai/sd-turbo"
BACKBONES = {
    "dinov3": "facebook/dinov3-vitl16-pretrain-lvd1689m",
    "dinov2": "facebook/dinov2-large",
    "sapiens": "facebook/sapiens2-pretrain-0.4b",
}
LICENCES = {
    VAE: "Stability AI Community License",
    BACKBONES["dinov3"]: "DINOv3 License, behind a form",
    BACKBONES["dinov2"]: "Apache-2.0",
    BACKBONES["sapiens"]: "Sapiens2 License",
}
"""As the hub's pages state them; read the page before use."""

VAE_SIZES: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 768,
    "scaling_factor": 0.18215,
    "force_upcast": True,
}
VIT_L: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
BACKBONE_SIZES: dict[str, dict[str, Any]] = {
    "dinov3": {**VIT_L, "patch_size": 16, "num_register_tokens": 4},
    "dinov2": {k: v for k, v in VIT_L.items() if k != "intermediate_size"} | {"patch_size": 14},
    "sapiens": {**VIT_L, "patch_size": 16},
}


def load_vae(name: str, source: WeightsSource = "pretrained") -> Any:
    """Return the `AutoencoderKL` of SD-Turbo.

    Raises:
        MissingPackageError: If diffusers is not installed.
        MissingWeightsError: If the weights are not on this machine.
        FormatError: If they are of another network, or not whole.
    """
    try:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    except ImportError as error:
        raise _missing_package("diffusers") from error
    if source == "random":
        return AutoencoderKL(**VAE_SIZES)
    place = _place(name)
    folder = {} if Path(place, "config.json").is_file() else {"subfolder": "vae"}
    return _read(AutoencoderKL.from_pretrained, name, place, **folder)


def load_backbone(kind: str, name: str, source: WeightsSource = "pretrained") -> Any:
    """Return a vision transformer: DINOv3, DINOv2 or Sapiens2.

    Raises:
        As `load_vae`, of transformers.
    """
    try:
        import transformers
    except ImportError as error:
        raise _missing_package("transformers") from error
    models: dict[str, tuple[Any, Any]] = {
        "dinov3": (transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig),
        "dinov2": (transformers.Dinov2Model, transformers.Dinov2Config),
        "sapiens": (transformers.Sapiens2Model, transformers.Sapiens2Config),
    }
    model, config = models[kind]
    if source == "random":
        return model(config(**BACKBONE_SIZES[kind]))
    return _read(model.from_pretrained, name, _place(name))


def _place(name: str) -> str:
    ours = places.home() / name
    return str(ours) if ours.is_dir() else name


def _read(load: Callable[..., Any], name: str, place: str, **options: Any) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # The libraries warn of each other's arguments.
            warnings.simplefilter("ignore")
            model, info = load(place, local_files_only=True, output_loading_info=True, **options)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if Path(place).is_dir() and any(Path(place).rglob("*.safetensors")):
            raise FormatError(
                f"{place} cannot be read as {name}: {str(error).splitlines()[0]}",
                "Download it again, or name the right folder.",
            ) from error
        licence = LICENCES.get(name, "see its page")
        raise MissingWeightsError(
            f"The weights {name} are not on this machine (licence: {licence}).",
            f"Run `hf download {name}`, or put its folder into {places.home() / name}. If "
            "DINOv3 is refused to you: --set model.features.backbone=dinov2 is free.",
        ) from error
    lost = [*info.get("missing_keys", []), *info.get("mismatched_keys", [])]
    if lost:
        raise FormatError(
            f"{place} lacks {len(lost)} weights of {name}, such as {lost[0]}.",
            "It is another network, or not whole: download it again.",
        )
    return model


def _missing_package(name: str) -> MissingPackageError:
    return MissingPackageError(f"{name} is not installed.", "Run: pip install 'fastgha[paper]'")
