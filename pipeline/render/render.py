"""One function that draws Gaussians, whichever backend does the work."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.core.errors import BackendError, ShapeError
from pipeline.core.types import Camera, Gaussians
from pipeline.render.types import Backend, Rendering

log = logging.getLogger("fastgha")

MAX_CHANNELS = 64

READY = "ready"

Draw = Callable[[Gaussians, Camera, Tensor, bool], Rendering]
"""Gaussians, one camera or a row of them, background [c], antialiased; as `render`, checked."""
DrawSets = Callable[[Sequence[Gaussians], Camera, Tensor, bool], Rendering]
"""As `render_sets`, of sets of one size."""


@dataclass(frozen=True)
class BackendSpec:
    """One way to draw Gaussians."""

    draw: Draw
    state: Callable[[], str] = lambda: READY
    """"ready", or why it cannot run here."""
    device: str = "cpu"
    """Kind of device whose tensors it draws."""
    draw_sets: DrawSets | None = None
    """Draws several sets in one call; one after the other without."""


BACKENDS: dict[Backend, BackendSpec] = {}

_announced: set[str] = set()


def register_backend(name: Backend, spec: BackendSpec) -> None:
    """Make a backend known, by a name; one of that name is replaced.

    `render`, the doctor and the benches then take it.
    """
    BACKENDS[name] = spec


def render(
    gaussians: Gaussians,
    camera: Camera,
    *,
    background: Tensor | None = None,
    backend: Backend = "auto",
    antialiased: bool = False,
) -> Rendering:
    """Draw Gaussians as gsplat's classic rasterization does, differentiably.

    Gradients reach all fields of the Gaussians, `world_to_camera` and the background; there
    are none for `K`.

    Args:
        camera: One leading dimension or none.
        background: What is seen where nothing covers, [c]; black by default.
        backend: "auto" takes gsplat for CUDA tensors and the CPU backend otherwise.
        antialiased: Lower the opacity of Gaussians that the 0.3 px blur makes larger (the
            variant of Mip-Splatting).

    Raises:
        BackendError: If the backend cannot run here.
        ShapeError: If shapes, channels, types or devices do not fit.
    """
    channels = gaussians.colors.shape[1]
    if background is None:
        background = gaussians.colors.new_zeros(channels)
    _check(gaussians, camera, background)
    if backend == "auto" and gaussians.means.device.type == "mps":
        return _drawn_beside(gaussians, camera, background, antialiased)
    backend = _choose(backend, gaussians)
    return _spec(backend).draw(gaussians, camera, background, antialiased)


def render_sets(
    sets: Sequence[Gaussians],
    camera: Camera,
    *,
    background: Tensor | None = None,
    backend: Backend = "auto",
    antialiased: bool = False,
) -> Rendering:
    """Draw several sets of Gaussians, each with its own camera or row of cameras.

    Args:
        sets: One or more; they may differ in size.
        camera: Leading dimensions [s], or [s, v] for v pictures of each set.
        background: As in `render`; the same for all.
        backend: As in `render`. gsplat draws sets of one size in one call.
        antialiased: As in `render`.

    Returns:
        Pictures with the camera's leading dimensions.

    Raises:
        BackendError: If the backend cannot run here.
        ShapeError: If there is no set, the cameras are not one (row) for each, or as `render`.
    """
    lead = camera.K.shape[:-2]
    if not sets or len(lead) not in (1, 2) or lead[0] != len(sets):
        raise ShapeError(
            f"{len(sets)} sets of Gaussians need one camera, or one row of cameras, each; got "
            f"cameras {list(lead)}.",
            "Give cameras with leading dimensions [s] or [s, v], for at least one set.",
        )
    backend = _choose(backend, sets[0])
    draw_sets = _spec(backend).draw_sets
    if draw_sets is not None and len({len(one) for one in sets}) == 1:
        if background is None:
            background = sets[0].colors.new_zeros(sets[0].colors.shape[1])
        for i, one in enumerate(sets):
            _check(one, camera[i], background)
        return draw_sets(sets, camera, background, antialiased)
    pictures = [
        render(one, camera[i], background=background, backend=backend, antialiased=antialiased)
        for i, one in enumerate(sets)
    ]
    return Rendering(
        torch.stack([picture.color for picture in pictures]),
        torch.stack([picture.alpha for picture in pictures]),
        torch.stack([picture.depth for picture in pictures]),
    )


def _drawn_beside(
    gaussians: Gaussians, camera: Camera, background: Tensor, antialiased: bool
) -> Rendering:
    """Draw on the CPU what is on a device that no backend draws on, and bring it back."""
    drawn = _cpu(gaussians.to("cpu"), camera.to("cpu"), background.to("cpu"), antialiased)
    device = gaussians.means.device
    return Rendering(drawn.color.to(device), drawn.alpha.to(device), drawn.depth.to(device))


def _choose(backend: Backend, gaussians: Gaussians) -> Backend:
    if backend != "auto":
        return backend
    backend = "gsplat" if gaussians.means.is_cuda else "cpu"
    if backend not in _announced:
        _announced.add(backend)
        log.info("rendering with the %s backend", backend)
    return backend


def available_backends() -> dict[Backend, str]:
    """Return each backend's name with "ready", or the reason why it cannot run here."""
    return {name: spec.state() for name, spec in BACKENDS.items()}


def device_of(backend: Backend) -> str:
    """Return the kind of device whose tensors a backend draws; "cpu" for an unknown one."""
    return BACKENDS[backend].device if backend in BACKENDS else "cpu"


def _spec(backend: Backend) -> BackendSpec:
    if backend not in BACKENDS:
        names = ", ".join(["auto", *BACKENDS][:-1]) + f" or {[*BACKENDS][-1]}"
        raise BackendError(f"There is no render backend {backend!r}.", f"Choose {names}.")
    return BACKENDS[backend]


def _check(gaussians: Gaussians, camera: Camera, background: Tensor) -> None:
    channels = gaussians.colors.shape[1]
    if camera.K.ndim not in (2, 3):
        raise ShapeError(
            f"Rendering takes one camera or a row of cameras; got leading dimensions "
            f"{list(camera.K.shape[:-2])}.",
            "Flatten the cameras to one leading dimension.",
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise ShapeError(
            f"Gaussians have {channels} channels.", f"Draw 1 to {MAX_CHANNELS} at a time."
        )
    if background.shape != (channels,):
        raise ShapeError(
            f"A background for {channels} channels has shape [{channels}]; got "
            f"{list(background.shape)}.",
            "Give one number for each channel.",
        )
    tensors = (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities,
               gaussians.colors, camera.world_to_camera, camera.K, background)  # fmt: skip
    if len({t.device for t in tensors}) > 1 or len({t.dtype for t in tensors}) > 1:
        raise ShapeError(
            "Gaussians, cameras and background are on different devices or of different types: "
            f"{sorted({f'{t.device} {t.dtype}' for t in tensors})}.",
            "Move them together with .to().",
        )


# Imported when first drawn with: compiled code, or packages that need not be there.
def _reference(
    gaussians: Gaussians, camera: Camera, background: Tensor, antialiased: bool
) -> Rendering:
    from pipeline.render.reference import render_reference

    return render_reference(gaussians, camera, background, antialiased=antialiased)


def _cpu(gaussians: Gaussians, camera: Camera, background: Tensor, antialiased: bool) -> Rendering:
    from pipeline.render.cpu.rasterize import render_cpu

    return render_cpu(gaussians, camera, background, antialiased=antialiased)


def _cpu_state() -> str:
    missing = importlib.util.find_spec("numba") is None
    return "numba is not installed: pip install fastgha" if missing else READY


def _gsplat(
    gaussians: Gaussians, camera: Camera, background: Tensor, antialiased: bool
) -> Rendering:
    from pipeline.render.gsplat_backend import render_gsplat

    return render_gsplat(gaussians, camera, background, antialiased=antialiased)


def _gsplat_sets(
    sets: Sequence[Gaussians], camera: Camera, background: Tensor, antialiased: bool
) -> Rendering:
    from pipeline.render.gsplat_backend import render_sets_gsplat

    return render_sets_gsplat(sets, camera, background, antialiased=antialiased)


def _gsplat_state() -> str:
    package = importlib.util.find_spec("gsplat")
    if package is None:
        return "gsplat is not installed: pip install 'fastgha[cuda]'"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    folders = package.submodule_search_locations or []
    compiled = any(list(Path(folder).glob("csrc*.so")) for folder in folders)
    if not compiled and shutil.which("nvcc") is None and not os.environ.get("CUDA_HOME"):
        return (
            "gsplat is not compiled, and there is no nvcc to do it: install the CUDA toolkit, or a "
            "wheel of gsplat made for this torch"
        )
    return READY


register_backend("reference", BackendSpec(_reference))
register_backend("cpu", BackendSpec(_cpu, _cpu_state))
register_backend("gsplat", BackendSpec(_gsplat, _gsplat_state, "cuda", _gsplat_sets))
