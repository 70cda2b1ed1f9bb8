"""Settings of a training run."""

from dataclasses import dataclass, field
from math import cos, pi
from typing import Literal

from pipeline.core.errors import ConfigError
from pipeline.losses import LossConfig
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import Precision
from pipeline.shards.sampling import ResolutionSchedule, SamplingConfig


@dataclass(frozen=True)
class TrainConfig:
    """Everything that fixes the result of a training run; the paper's recipe by default."""

    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: Literal["adam", "muon"] = "adam"
    """muon: for the matrices inside the network, with steps of Adam's size; Adam for the rest."""
    lr: float = 5e-5
    """Step size for all but the deformation and the inner Gaussians."""
    deform_lr: float = 5e-4
    """Of these: small networks that act on each Gaussian alone."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: within each picture size, falls from that size's peak to a hundredth of it."""
    peaks: tuple[float, ...] = ()
    """Share of the step size that each picture size begins with, more than there are sizes if
    some were taken out; 1 for all if empty."""
    warmup: int = 0
    """Steps in which the step size rises from zero."""
    only: tuple[str, ...] = ()
    """Parts of the model that learn, of any depth, as `unseen`; the others stay as they begin, and
    cost no time on the way back. All learn if empty."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    batch: int = 1
    """Samples that each process takes a step. Their number over all processes is fixed when the
    run begins; later it can go on with another number of processes."""
    sizes: tuple[int, ...] = (512,)
    """Picture sizes, each for as many steps as `steps` says at its place."""
    steps: tuple[int, ...] = (400_000,)
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.sizes) != len(self.steps) or not self.sizes or min(self.steps) < 0:
            raise ConfigError(
                f"sizes {list(self.sizes)} and steps {list(self.steps)} do not go together.",
                "Give a number of steps for each picture size.",
            )
        if self.batch < 1:
            raise ConfigError(f"batch {self.batch} is no number of samples.", "Give at least 1.")
        if self.peaks and len(self.peaks) < len(self.sizes):
            raise ConfigError(
                f"peaks {list(self.peaks)} do not fit sizes {list(self.sizes)}.",
                "Give one for each picture size, or none.",
            )
        if any(size % 16 for size in self.sizes):
            raise ConfigError(
                f"sizes {list(self.sizes)} do not fit the model's grid.", "Use multiples of 16."
            )

    @property
    def resolutions(self) -> ResolutionSchedule:
        """Which size each step has."""
        return ResolutionSchedule(self.sizes, self.steps)

    def lr_factor(self, step: int) -> float:
        """Return the share of the full step size at a step, counted from 0."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        place, gone, here = self.resolutions.place(step)
        peak = self.peaks[place] if self.peaks else 1.0
        if self.schedule == "constant":
            return rise * peak
        return rise * peak * (0.01 + 0.99 * 0.5 * (1 + cos(pi * gone / max(here, 1))))


@dataclass(frozen=True)
class RunConfig:
    """How a run is carried out; nothing here changes its result beyond rounding."""

    checkpoint_every: int = 500
    picture_every: int = 500
    workers: int = 1
    device: str = "cpu"
    precision: Precision = "auto"
    """auto: bfloat16 where the hardware multiplies it."""
    channels_last: bool = True
    """Keep the channels of a pixel side by side, which convolutions are fastest on."""
    fused_attention: bool = True
    gradient_checkpointing: bool = False
    """Compute parts again on the way back instead of keeping them: less memory, more time."""
    compile: bool = False
    """Let torch compile transformer and decoder; needs a C++ compiler."""
    together: int = 0
    """Samples of a step that go through the model in one pass, if they have as many inputs; 0: all
    on a GPU, one on the CPU, which is not faster with more."""
    timing: bool = False
    """Wait for the device after each part of a step, so that the seconds of the log are those of
    the part; a GPU is slower so, and its seconds without it are those of giving it work."""
    patience: int = 60
    """Seconds to wait for the other processes when a run begins."""
    timeout: int = 1800
    """Seconds without an answer of another process, which may be writing a checkpoint or compiling,
    after which the run ends with an error."""
