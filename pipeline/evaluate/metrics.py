"""How close pictures are to the truth. Batch in, one number a picture out."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)


def psnr(drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v"]:
    """Give the peak signal-to-noise ratio in dB, over all pixels of each picture, range 1."""
    return peak_signal_noise_ratio(
        drawn.clamp(0, 1), truth, data_range=1.0, dim=(1, 2, 3), reduction="none"
    )


def ssim(drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v"]:
    """Give the structural similarity of each picture: 11 x 11 Gaussian windows, sigma 1.5."""
    value = structural_similarity_index_measure(
        drawn.clamp(0, 1), truth, data_range=1.0, sigma=1.5, kernel_size=11, reduction="none"
    )
    assert isinstance(value, Tensor)
    return torch.atleast_1d(value)


METRICS = {"PSNR": psnr, "SSIM": ssim}
