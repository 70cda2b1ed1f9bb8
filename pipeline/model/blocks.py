"""Building blocks shared by the features and the decoder."""

from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def full_precision(x: Tensor) -> AbstractContextManager[object]:
    """Return the context in which no autocast touches what is computed on the device of `x`."""
    # The meta device, on which models are counted, knows no autocast.
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return the normalisation of all convolutions: 32 groups, fewer where channels are few."""
    groups = next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4)
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, as in the decoder of latent diffusion models."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v d h w"]:
        """Return the block's output at the same resolution."""
        y = self.conv1(functional.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(functional.silu(self.norm2(y)))


class ViewAttention(nn.Module):
    """Multi-head attention of all positions of all views to each other.

    With `pool` above 1, keys and values are means over `pool` x `pool` positions: a quarter of
    the cost for 2, which is what lets a CPU train with it. With 1 it is plain self-attention.
    """

    def __init__(self, channels: int, heads: int, pool: int) -> None:
        super().__init__()
        self.heads = heads
        self.pool = pool
        self.query = nn.Linear(channels, channels)
        self.key_value = nn.Linear(channels, 2 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Float[Tensor, "v h w c"], sets: int = 1) -> Float[Tensor, "v h w c"]:
        """Return what each position gathers from all views of its set; sets are of one size."""
        v, h, w, c = x.shape
        p = self.pool
        q = self.query(x).reshape(sets, v // sets * h * w, self.heads, -1).transpose(1, 2)
        coarse = x.reshape(v, h // p, p, w // p, p, c).mean((2, 4)) if p > 1 else x
        kv = self.key_value(coarse).reshape(sets, v // sets * h * w // p**2, 2, self.heads, -1)
        k, v_ = kv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v_)
        return self.out(y.transpose(1, 2).reshape(v, h, w, c))


class CrossViewAttention(nn.Module):
    """Attention over the positions of all views together, on feature maps.

    Source:
        FastGHA section 3.1: the attention in the middle of the VAE decoder, made cross-view.
    """

    def __init__(self, channels: int, heads: int, pool: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.attention = ViewAttention(channels, heads, pool)

    def forward(self, x: Float[Tensor, "v c h w"], sets: int = 1) -> Float[Tensor, "v c h w"]:
        """Let every position of every view look at all others of its set."""
        y = self.attention(self.norm(x).permute(0, 2, 3, 1), sets)
        return x + y.permute(0, 3, 1, 2)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=1)

    def forward(self, x: Float[Tensor, "v c h w"]) -> Float[Tensor, "v d 2*h 2*w"]:
        """Return the map at twice the resolution."""
        return self.conv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


def zero_(module: nn.Linear | nn.Conv2d) -> None:
    """Set a layer to give zero, so that its branch starts as if it were not there."""
    with torch.no_grad():
        module.weight.zero_()
        if module.bias is not None:
            module.bias.zero_()
