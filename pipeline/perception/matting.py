"""Cut a person from the background of a picture.

To add a network, write a `MattingModel` and register it: `register_matting`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from pipeline.core.arrays import Alpha, Rgb
from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError, MissingPackageError
from pipeline.perception.device import onnx_providers
from pipeline.system import weights

MattingModel = Callable[[Rgb], Alpha]
"""Gives how much of each pixel the person covers, in [0, 1]."""

MATTING: dict[str, Callable[[], MattingModel]] = {}
"""Makers of matting networks, by name."""


def register_matting(name: str, make: Callable[[], MattingModel]) -> None:
    """Make a matting network known, by a name; one of that name is replaced.

    Workers get the maker as a pickle, and load the network when they need it.
    """
    MATTING[name] = make


def get_matting(name: str) -> Callable[[], MattingModel]:
    """Return what makes a matting network, without loading it.

    Raises:
        ConfigError: If there is none of that name (the nearest one is given).
    """
    if name not in MATTING:
        raise ConfigError(f"There is no matting network {name!r}.", nearest(name, list(MATTING)))
    return MATTING[name]


class ModNet:
    """Mattes with MODNet: people, hair kept soft.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
        MissingWeightsError: If the weight file is not there.

    Source:
        Ke et al., MODNet, AAAI 2022.
    """

    def __init__(self) -> None:
        _need_onnxruntime()
        import onnxruntime  # noqa: PLC0415

        self._session: Any = onnxruntime.InferenceSession(
            str(weights.find("modnet")), providers=onnx_providers()
        )

    def __call__(self, rgb: Rgb) -> Alpha:
        """Return the matte of a picture, at its size."""
        picture = Image.fromarray(rgb)
        size = _near_512(*picture.size)
        values = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) / 127.5 - 1
        feed = {self._session.get_inputs()[0].name: values.transpose(2, 0, 1)[None].astype("f4")}
        alpha = self._session.run(None, feed)[0][0, 0]
        whole = Image.fromarray(alpha.astype("f4")).resize(picture.size, Image.Resampling.BICUBIC)
        return np.clip(np.asarray(whole, np.float32), 0, 1)


class Rembg:
    """Mattes with a network of rembg, by its name there; its weights are never downloaded here.

    Raises:
        MissingPackageError: If rembg or onnxruntime is not installed.
        MissingWeightsError: If the weight file is neither in rembg's folders nor in ours.
    """

    def __init__(self, model: str) -> None:
        _need_onnxruntime()  # without it, rembg ends the program
        import onnxruntime  # noqa: PLC0415

        try:
            from rembg.sessions import sessions_class  # noqa: PLC0415  # pyright: ignore
        except ImportError as error:
            raise MissingPackageError(
                f"The matting network {model} needs the package rembg.",
                "Install it: pip install 'fastgha[prep]', or choose modnet.",
            ) from error
        path = weights.find(model)
        kind: Any = next(kind for kind in sessions_class if kind.name() == model)

        class Local(kind):
            @classmethod
            def download_models(cls, *_: Any, **__: Any) -> str:
                return str(path)

        options = onnxruntime.SessionOptions()
        self._session: Any = Local(model, options, providers=onnx_providers())

    def __call__(self, rgb: Rgb) -> Alpha:
        """Return the matte of a picture, at its size."""
        (mask,) = self._session.predict(Image.fromarray(rgb))
        return np.asarray(mask, np.float32) / 255


def _need_onnxruntime() -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingPackageError(
            "Matting needs the package onnxruntime.", "Install it: pip install 'fastgha[prep]'"
        )


def _near_512(width: int, height: int) -> tuple[int, int]:
    """Return a size with a shorter side of about 512, in multiples of 32, as MODNet wants it."""
    scale = 512 / min(width, height)
    return max(round(width * scale / 32), 1) * 32, max(round(height * scale / 32), 1) * 32


register_matting("modnet", ModNet)
for _name in ("u2netp", "isnet-general-use", "birefnet-portrait"):
    register_matting(_name, partial(Rembg, _name))
