"""Spending time to save memory: parts of the model that are computed again on the way back."""

from __future__ import annotations

from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from pipeline.model.blocks import ResidualBlock
from pipeline.model.fastgha import FastGHA
from pipeline.model.transformer import Layer

BLOCKS = ("ResnetBlock2D", "AcrossViews", "Upsample2D")
"""Of the VAE's decoder, by name: their package is optional."""


def rerun_backward(model: FastGHA) -> None:
    """Keep only the inputs of the transformer's layers and of the decoder's and features' blocks.

    A training step then needs a fraction of the memory and about a third more time. Results are
    the same: nothing in these parts is random. Names of the weights stay.
    """
    for module in model.modules():
        if isinstance(module, Layer | ResidualBlock) or type(module).__name__ in BLOCKS:
            _rerun(module)


def _rerun(module: nn.Module) -> None:
    module.forward = partial(checkpoint, module.forward, use_reentrant=False)
