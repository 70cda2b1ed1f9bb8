"""Named settings: of the model, and of how it is trained."""

from collections.abc import Callable

from pipeline.config import nearest
from pipeline.errors import ConfigError
from pipeline.losses import LossConfig
from pipeline.model.config import (
    DecoderConfig,
    DeformConfig,
    FeatureConfig,
    ModelConfig,
    TransformerConfig,
)
from pipeline.shards.sampling import SamplingConfig
from pipeline.train.config import TrainConfig


def small() -> ModelConfig:
    """256x256 pictures; trains and runs on two CPU cores. Its checkpoint is the default."""
    return ModelConfig(
        image_size=256,
        foreground_only=True,
        features=FeatureConfig(channels=192, widths=(48, 96, 192)),
        transformer=TransformerConfig(width=192, layers=4, heads=4, pool=2),
        decoder=DecoderConfig(widths=(192, 128, 64), blocks=2, heads=4, pool=2),
        deform=DeformConfig(),
    )


def tiny() -> ModelConfig:
    """64x64 pictures; for tests, two training steps in seconds."""
    return ModelConfig(
        image_size=64,
        foreground_only=True,
        features=FeatureConfig(channels=32, widths=(16, 24, 32)),
        transformer=TransformerConfig(width=32, layers=2, heads=2, pool=2),
        decoder=DecoderConfig(widths=(32, 24, 16), blocks=1, heads=1),
        deform=DeformConfig(width=32, layers=3, frequencies=4),
    )


def train_small() -> TrainConfig:
    """An hour and a half on two CPU cores: most steps on small pictures, the last on full ones."""
    return TrainConfig(
        model=small(),
        sampling=SamplingConfig(fewest_inputs=1),
        loss=LossConfig(motion=5.0),
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
        sampling=SamplingConfig(inputs=2, fewest_inputs=2, targets=3),
        lr=1e-3,
        deform_lr=1e-3,
        sizes=(64,),
        steps=(200,),
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {"small": train_small, "tiny": train_tiny}


def recipe(name: str) -> TrainConfig:
    """Give the settings of a training run.

    Raises:
        ConfigError: If there is no such preset; the nearest name is given.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}.", nearest(name, list(PRESETS)))
    return PRESETS[name]()
