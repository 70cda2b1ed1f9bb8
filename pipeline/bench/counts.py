"""What the model costs: parameters, arithmetic and memory of its parts, counted without running.

The model is built on torch's meta device, which knows shapes only; no weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.bench.rows import BenchRow, table
from pipeline.core.types import CODE_SIZE, Gaussians
from pipeline.evaluate.tables import Table
from pipeline.model.activate import CanonicalHead
from pipeline.model.config import ModelConfig
from pipeline.model.fastgha import FastGHA


class Count(BenchRow):
    """One part of the model."""

    part: str
    inputs: int
    """Views."""
    parameters: int
    trained: int
    """Of these, the ones that training changes."""
    flops: int
    """Of one pass forward; a multiply-add is two."""
    activations_mb: float
    """What a training step would keep of it for the way back: 32 bit, nothing computed again."""


COLUMNS = {
    "part": "{part}",
    "parameters": "{parameters:,}",
    "trained": "{trained:,}",
    "GFLOP": "{gflop:.1f}",
    "kept MB": "{activations_mb:.0f}",
}


def count_views(config: ModelConfig, views: Sequence[int]) -> list[Count]:
    """Count the parts of a model for each of several numbers of views."""
    return [row for v in views for row in count(config, v)]


def show(
    preset: str, config: ModelConfig, rows: Sequence[Count], tflops: float | None = None
) -> list[Table]:
    """Return the rows as they are printed: a table for each number of views.

    Args:
        preset: Name of the model.
        config: Its sizes.
        rows: What `count_views` returned.
        tflops: Rate of a device, for the least time it would take.
    """
    size = config.image_size
    tables: list[Table] = []
    for views in dict.fromkeys(row["inputs"] for row in rows):
        here = [row for row in rows if row["inputs"] == views]
        notes: list[str] = []
        if tflops is not None:
            least = sum(row["flops"] for row in here) / tflops * 1e-9
            notes.append(f"{views} views: at least {least:.1f} ms at {tflops:g} TFLOP/s")
        lines = [{**row, "gflop": row["flops"] / 1e9} for row in here]
        tables.append(table(f"{preset}, {views} views of {size}x{size}", COLUMNS, lines, notes))
    return tables


def count(config: ModelConfig, views: int) -> list[Count]:
    """Count the parts of a model for one reconstruction and one animated frame.

    Args:
        config: Sizes; pictures are square, of `config.image_size`.
        views: Input views.
    """
    with torch.device("meta"):
        model = FastGHA(config, "float32", source="random")
        features: Any = model.features
        size, grid = config.image_size, config.image_size // 8
        pixels = torch.empty(views, 10 + config.guide_channels, size, size)
        rows: list[Count] = []

        def add(part: str, modules: list[nn.Module], work: Callable[[], object]) -> None:
            parameters = [p for module in modules for p in module.parameters()]
            with (
                FlopCounterMode(display=False) as counter,
                _Kept(parameters) as kept,
                _fused_attention(),
            ):
                work()
            rows.append(
                Count(
                    part=part,
                    inputs=views,
                    parameters=sum(p.numel() for p in parameters),
                    trained=sum(p.numel() for p in parameters if p.requires_grad),
                    flops=counter.get_total_flops(),
                    activations_mb=kept.bytes / 1e6,
                )
            )

        frozen = getattr(features, "_frozen", {})
        if frozen:
            rgb = pixels[:, :3]
            # Only half of the VAE is run here; the other half is the decoder.
            add("vae encoder (frozen)", [frozen["vae"]], lambda: features.latents(rgb))
            if "vit" in frozen:
                add("vit (frozen)", [frozen["vit"]], lambda: features.tokens(rgb))
                fused = torch.empty(views, len(config.features.layers) * config.features.channels,
                                    grid, grid)  # fmt: skip
                tokens = torch.empty(views, frozen["vit"].config.hidden_size, grid // 2, grid // 2)
                add(
                    "fusion",
                    [features.take, features.fuse],
                    lambda: (
                        [take(tokens) for take in features.take],
                        features.fuse(fused),
                    ),
                )
            skips: tuple[Tensor, ...] = ()
        else:
            add("features", [features], lambda: features(pixels))
            skips = features(pixels).skips
        x = torch.empty(views, model.transformer.embed.in_features, grid, grid)
        add("transformer", [model.transformer], lambda: model.transformer(x))
        y = torch.empty(views, config.transformer.width, grid, grid)
        add("decoder", [model.decoder], lambda: model.decoder(y, skips))
        n = views * (size // config.stride) ** 2
        head = CanonicalHead(
            Gaussians(*(torch.empty(n, *shape) for shape in ((3,), (4,), (3,), (), (3,)))),
            torch.empty(n, config.gaussian_features),
        )
        deform = model.deformation

        def animate() -> None:
            deform(deform.prepare(head), torch.empty(CODE_SIZE))
            if deform.of_motion is not None:  # the mesh itself is not moved here
                deform.of_motion(torch.empty(n, 3))

        add("deformation", [deform], animate)
    return rows


class _FusedAttention(torch.autograd.Function):
    """Attention that keeps what the fused kernels keep: not its large matrix of weights."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = _attention(q, k, v)
        ctx.save_for_backward(q, k, v, out)
        return out


_attention = torch.nn.functional.scaled_dot_product_attention


@contextmanager
def _fused_attention() -> Generator[None]:
    """Put `_FusedAttention` in the place of torch's, which on the meta device is written out."""

    def fused(q: Tensor, k: Tensor, v: Tensor, *_: object, **__: object) -> Tensor:
        return _FusedAttention.apply(q, k, v)

    torch.nn.functional.scaled_dot_product_attention = fused
    try:
        yield
    finally:
        torch.nn.functional.scaled_dot_product_attention = _attention


class _Kept:
    """Counts the bytes that autograd keeps while it is entered, without the parameters."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.bytes = 0
        self._seen = {_storage(p) for p in parameters}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)

    def __enter__(self) -> _Kept:
        self._alive: list[Tensor] = []
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)
        self._alive.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        # The tensors stay alive, so that no storage is counted under another's address.
        key = _storage(tensor)
        if key not in self._seen:
            self._seen.add(key)
            self._alive.append(tensor)
            self.bytes += tensor.untyped_storage().nbytes()
        return tensor


def _storage(tensor: Tensor) -> int:
    # Nothing public tells storages of the meta device apart: all of them have address 0.
    return tensor.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]
