"""Named settings: of the model, and of how it is trained."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError
from pipeline.losses import LossConfig
from pipeline.model.config import (
    DecoderConfig,
    DeformConfig,
    FeatureConfig,
    ModelConfig,
    TransformerConfig,
)
from pipeline.shards.disturb import Damage, Tracking
from pipeline.shards.sampling import SamplingConfig
from pipeline.train.config import TrainConfig

SMALL_ERRORS = Tracking(
    share=0.7, degrees=(2.2, 1.5, 1.0), shift_mm=1.0, shape=0.015, bumps_mm=1.0, units=0.04
)
"""In shape and expression half of what a tracker errs by: with all of it, what is small and clear,
as teeth and irises, is never in one place, and a model learns to leave it out."""


def small() -> ModelConfig:
    """256x256 pictures; trains and runs on two CPU cores. Its checkpoint is the default."""
    return ModelConfig(
        image_size=256,
        guide="mesh",
        interior=True,
        unseen=True,
        foreground_only=True,
        features=FeatureConfig(kind="conv", channels=192, widths=(48, 96, 192)),
        transformer=TransformerConfig(width=192, layers=4, heads=4, pool=2),
        decoder=DecoderConfig(
            kind="conv", widths=(192, 128, 64), split=2, blocks=2, heads=4, pool=2
        ),
        deform=DeformConfig(width=128, layers=4),
    )


def tiny() -> ModelConfig:
    """64x64 pictures; for tests, two training steps in seconds."""
    return ModelConfig(
        image_size=64,
        guide="mesh",
        foreground_only=True,
        features=FeatureConfig(kind="conv", channels=32, widths=(16, 24, 32)),
        transformer=TransformerConfig(width=32, layers=2, heads=2, pool=2),
        decoder=DecoderConfig(kind="conv", widths=(32, 24, 16), blocks=1, heads=1),
        deform=DeformConfig(width=32, layers=3, frequencies=4),
    )


def train_small() -> TrainConfig:
    """Three hours on two CPU cores: most steps on small pictures, the last on full ones."""
    return TrainConfig(
        model=small(),
        sampling=SamplingConfig(
            min_inputs=1, targets=6, beside=0.25, tracking=SMALL_ERRORS, damage=Damage(share=0.5)
        ),
        loss=LossConfig(perceptual_of="brightness", motion=5.0),
        optimizer="muon",
        lr=4e-4,
        deform_lr=1e-3,
        schedule="cosine",
        peaks=(1.0, 0.75, 0.5),
        warmup=100,
        sizes=(64, 128, 256),
        steps=(4000, 4500, 800),
    )


def train_tiny() -> TrainConfig:
    """Seconds; enough to see that training works."""
    return TrainConfig(
        model=tiny(),
        sampling=SamplingConfig(inputs=2, min_inputs=2, targets=3),
        lr=1e-3,
        deform_lr=1e-3,
        sizes=(64,),
        steps=(200,),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "paper": TrainConfig,
    "small": train_small,
    "tiny": train_tiny,
}


def _model(config: TrainConfig, **changes: Any) -> TrainConfig:
    return replace(config, model=replace(config.model, **changes))


def _features(config: TrainConfig, **changes: Any) -> TrainConfig:
    if config.model.features.kind != "frozen":
        raise ConfigError(
            "This ablation is about downloaded networks, which the preset does not have.",
            "Take it from the preset paper.",
        )
    return _model(config, features=replace(config.model.features, **changes))


def _no_vae_weights(config: TrainConfig) -> TrainConfig:
    if config.model.decoder.kind != "vae":
        raise ConfigError(
            "This ablation is about the VAE's decoder, which the preset does not have.",
            "Take it from the preset paper.",
        )
    return _model(config, decoder=replace(config.model.decoder, pretrained=False))


def _guide(config: TrainConfig, *, guided: bool) -> TrainConfig:
    if guided == (config.model.guide == "mesh"):
        state, other = ("guided", "no-guide") if guided else ("not guided", "guided")
        raise ConfigError(f"The preset is {state} already.", f"Take it as it is, or {other}.")
    if guided:
        return _model(config, guide="mesh")
    return _model(config, guide="none", interior=False, unseen=False)


ABLATIONS: dict[str, Callable[[TrainConfig], TrainConfig]] = {
    "no-vae-weights": _no_vae_weights,
    "no-geo": lambda c: replace(c, loss=replace(c.loss, depth=0.0)),
    "no-features": lambda c: _model(c, gaussian_features=0),
    "features-16": lambda c: _model(c, gaussian_features=16),
    "features-64": lambda c: _model(c, gaussian_features=64),
    "no-dino": lambda c: _features(c, backbone="none"),
    "sapiens": lambda c: _features(c, backbone="sapiens"),
    "guided": lambda c: _guide(c, guided=True),
    "no-guide": lambda c: _guide(c, guided=False),
    "no-colour-offsets": lambda c: _model(c, deform=replace(c.model.deform, color_offsets=False)),
}
"""What the paper leaves out or changes (Tables 3 and 5, Figure 11), and our mesh guidance."""


def recipe(name: str) -> TrainConfig:
    """Return the settings of a training run.

    Args:
        name: A preset; an ablation of the preset `paper`; or, as `small/no-geo`, an ablation of
            another preset.

    Raises:
        ConfigError: If there is no such preset or ablation (the nearest name is given), or the
            preset does not have what the ablation takes away.
    """
    preset, slash, ablation = name.partition("/")
    if not slash and name in ABLATIONS:
        preset, ablation = "paper", name
    if preset not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}.", nearest(name, [*PRESETS, *ABLATIONS]))
    config = PRESETS[preset]()
    if not ablation and not slash:
        return config
    if ablation not in ABLATIONS:
        raise ConfigError(f"There is no ablation {ablation!r}.", nearest(ablation, [*ABLATIONS]))
    return ABLATIONS[ablation](config)
