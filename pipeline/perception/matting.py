"""Cut a person from the background of a picture.

To add a network, write a `MattingModel` and register it: `register_matting`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

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


_MEAN, _STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class OnnxMatting:
    """Mattes with MODNet (people, hair kept soft) or U2-Net-p (any foreground, smaller).

    onnxruntime is used directly: rembg would do the same with sixteen more packages, and
    fetches its weights from the network without asking.

    Raises:
        MissingPackageError: If onnxruntime is not installed.
        MissingWeightsError: If the weight file is not there.

    Source:
        Ke et al., MODNet, AAAI 2022; Qin et al., U2-Net, Pattern Recognition 2020.
    """

    def __init__(self, model: Literal["modnet", "u2netp"] = "modnet") -> None:
        try:
            import onnxruntime  # noqa: PLC0415
        except ImportError as error:
            raise MissingPackageError(
                "Matting needs the package onnxruntime.", "Install it: pip install 'fastgha[prep]'"
            ) from error
        self._model = model
        self._session: Any = onnxruntime.InferenceSession(
            str(weights.find(model)), providers=onnx_providers()
        )

    def __call__(self, rgb: Rgb) -> Alpha:
        """Return the matte of a picture, at its size."""
        picture = Image.fromarray(rgb)
        if self._model == "modnet":
            size = _near_512(*picture.size)
            values = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) / 127.5 - 1
        else:
            small = np.asarray(picture.resize((320, 320), Image.Resampling.LANCZOS))
            values = (small / max(int(small.max()), 1) - _MEAN) / _STD
        feed = {self._session.get_inputs()[0].name: values.transpose(2, 0, 1)[None].astype("f4")}
        alpha = self._session.run(None, feed)[0][0, 0]
        if self._model == "u2netp":
            alpha = (alpha - alpha.min()) / max(float(np.ptp(alpha)), 1e-6)
        whole = Image.fromarray(alpha.astype("f4")).resize(picture.size, Image.Resampling.BICUBIC)
        return np.clip(np.asarray(whole, np.float32), 0, 1)


def _near_512(width: int, height: int) -> tuple[int, int]:
    """Return a size with a shorter side of about 512, in multiples of 32, as MODNet wants it."""
    scale = 512 / min(width, height)
    return max(round(width * scale / 32), 1) * 32, max(round(height * scale / 32), 1) * 32


register_matting("modnet", partial(OnnxMatting, "modnet"))
register_matting("u2netp", partial(OnnxMatting, "u2netp"))
