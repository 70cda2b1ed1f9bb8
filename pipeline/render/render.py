"""One function that draws Gaussians, whichever backend does the work."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.core.errors import BackendError, ShapeError
from pipeline.core.types import Camera, Gaussians
from pipeline.render.types import Backend, Rendering

log = logging.getLogger("fastgha")

MAX_CHANNELS = 64

_announced: set[str] = set()


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
    backend = _choose(backend, gaussians)
    if backend == "reference":
        from pipeline.render.reference import render_reference

        return render_reference(gaussians, camera, background, antialiased=antialiased)
    if backend == "cpu":
        from pipeline.render.cpu.rasterize import render_cpu

        return render_cpu(gaussians, camera, background, antialiased=antialiased)
    if backend == "gsplat":
        from pipeline.render.gsplat_backend import render_gsplat

        return render_gsplat(gaussians, camera, background, antialiased=antialiased)
    raise BackendError(
        f"There is no render backend {backend!r}.", "Choose auto, reference, cpu or gsplat."
    )


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
    if backend == "gsplat" and len({len(one) for one in sets}) == 1:
        from pipeline.render.gsplat_backend import render_sets_gsplat

        if background is None:
            background = sets[0].colors.new_zeros(sets[0].colors.shape[1])
        for i, one in enumerate(sets):
            _check(one, camera[i], background)
        return render_sets_gsplat(sets, camera, background, antialiased=antialiased)
    pictures = [
        render(one, camera[i], background=background, backend=backend, antialiased=antialiased)
        for i, one in enumerate(sets)
    ]
    return Rendering(
        torch.stack([picture.color for picture in pictures]),
        torch.stack([picture.alpha for picture in pictures]),
        torch.stack([picture.depth for picture in pictures]),
    )


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
    states: dict[Backend, str] = {"reference": "ready"}
    missing = importlib.util.find_spec("numba") is None
    states["cpu"] = "numba is not installed: pip install fastgha" if missing else "ready"
    if importlib.util.find_spec("gsplat") is None:
        states["gsplat"] = "gsplat is not installed: pip install 'fastgha[cuda]'"
    elif not torch.cuda.is_available():
        states["gsplat"] = "torch sees no CUDA device"
    else:
        states["gsplat"] = "ready"
    return states


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
