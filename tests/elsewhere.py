"""A stand-in for a GPU: tensors that say they are on CUDA and refuse to meet those that are not.

They hold their numbers on the CPU, so that everything can be computed and compared. What a GPU
allows is allowed: copying from one place to the other, and single numbers from the CPU.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("cuda", 0)
COPIES = {"aten::copy_", "aten::_to_copy"}
FACTORIES = {
    torch.ones, torch.zeros, torch.full, torch.empty, torch.tensor, torch.arange, torch.eye,
    torch.linspace, torch.rand, torch.randn, torch.as_tensor,
}  # fmt: skip
met: list[str] = []
"""The operations that ran there."""


class Elsewhere(Tensor):
    """A tensor that is not here."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor, requires_grad: bool = False) -> Elsewhere:
        assert type(inner) is Tensor, type(inner)
        made = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, requires_grad=requires_grad,
        )  # fmt: skip
        made.inner = inner
        return made

    device = property(lambda self: DEVICE)
    is_cuda = property(lambda self: True)
    is_cpu = property(lambda self: False)

    def __repr__(self) -> str:
        return f"Elsewhere({list(self.shape)})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        leaves, _ = tree_flatten((args, kwargs or {}))
        here = [x for x in leaves if isinstance(x, Tensor) and not isinstance(x, Elsewhere)]
        if name not in COPIES and any(x.ndim for x in here):
            raise AssertionError(f"{name} mixes devices: {[list(x.shape) for x in here]} are here")
        met.append(name)
        out = func(*tree_map(_bare, args), **tree_map(_bare, kwargs or {}))
        places = {id(x.inner): x for x in leaves if isinstance(x, Elsewhere)}
        # What is written in place is the same tensor afterwards.
        return tree_map(lambda x: _back(x, places), out)


def _back(x: Any, places: dict[int, Elsewhere]) -> Any:
    if not isinstance(x, Tensor) or isinstance(x, Elsewhere):
        return x
    return places[id(x)] if id(x) in places else Elsewhere(x)


def _bare(x: Any) -> Any:
    return x.inner if isinstance(x, Elsewhere) else x


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, there: bool) -> Tensor:  # type: ignore[override]
        ctx.back = isinstance(x, Elsewhere)
        inner = x.inner if isinstance(x, Elsewhere) else x
        return Elsewhere(inner.detach().clone()) if there else inner.detach().clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (grad,) = grads
        there = isinstance(grad, Elsewhere)
        inner = grad.inner if isinstance(grad, Elsewhere) else grad
        if ctx.back == there:
            return grad, None
        return (Elsewhere(inner) if ctx.back else inner), None


def there(x: Tensor) -> Tensor:
    """Bring a tensor elsewhere."""
    return x if isinstance(x, Elsewhere) else _Move.apply(x, True)


def here(x: Tensor) -> Tensor:
    """Bring a tensor back."""
    return _Move.apply(x, False) if isinstance(x, Elsewhere) else x


def _target(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str | None, Any, Any]:
    """Return the kind of device that `.to` names, and the other arguments."""
    device = kwargs.get("device")
    rest = []
    for x in args:
        if isinstance(x, str | torch.device) or type(x) is int:
            device = x
        elif isinstance(x, Tensor):
            device, rest = x.device, [*rest, x.dtype]
        elif isinstance(x, torch.dtype):
            rest.append(x)
    gone = ("device", "non_blocking", "copy")
    more = {k: v for k, v in kwargs.items() if k not in gone and v is not None}
    return (None if device is None else torch.device(device).type), rest, more


def _function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func is Tensor.to:
        kind, rest, more = _target(args[1:], kwargs)
        x = args[0]
        if kind is not None:
            x = there(x) if kind == "cuda" else here(x)
        with torch._C.DisableTorchFunctionSubclass():
            return Tensor.to(x, *rest, **more) if rest or more else x
    if func is Tensor.cpu:
        return here(args[0])
    if func is Tensor.cuda:
        return there(args[0])
    if func in (Tensor.numpy, Tensor.__array__) and isinstance(args[0], Elsewhere):
        raise AssertionError("numpy() of a tensor that is elsewhere")
    if func is Tensor.tolist and isinstance(args[0], Elsewhere):
        return args[0].inner.tolist()
    if func in (Tensor.new_tensor,) and isinstance(args[0], Elsewhere):
        return there(torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}))
    if func in FACTORIES and "device" in kwargs:
        kind = kwargs.pop("device")
        made = func(*args, **kwargs)
        return there(made) if kind is not None and torch.device(kind).type == "cuda" else made
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _function(func, args, kwargs or {})


@contextmanager
def stand_in() -> Generator[None]:
    """Let `cuda` be the stand-in."""
    met.clear()
    # Parameters are made anew: the content of one cannot become a tensor of another class.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with _Mode():
            yield
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def rasterization(**given: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Draw as gsplat's function of that name does: it takes tensors of one device only."""
    from pipeline.core.types import Camera, Gaussians
    from pipeline.render.reference import render_reference

    tensors = {k: v for k, v in given.items() if isinstance(v, Tensor)}
    assert all(isinstance(v, Elsewhere) for v in tensors.values()), "gsplat draws CUDA tensors"
    assert given["render_mode"] == "RGB+ED" and given["packed"] is False
    near = {name: here(value) for name, value in tensors.items()}
    colors, alphas = [], []
    for s in range(len(near["means"])):
        fields = (near[n][s] for n in ("means", "quats", "scales", "opacities", "colors"))
        camera = Camera(near["viewmats"][s], near["Ks"][s], given["width"], given["height"])
        drawn = render_reference(Gaussians(*fields), camera, near["backgrounds"][s, 0])
        colors.append(torch.cat([drawn.color, drawn.depth], -1))
        alphas.append(drawn.alpha)
    return there(torch.stack(colors)), there(torch.stack(alphas)), {}
