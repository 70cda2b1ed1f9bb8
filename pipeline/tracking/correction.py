"""What a fit to points makes of a person, corrected by what such fits make of people who are known.

A network that is unsure of a face draws its points towards the mean one, and a fit that takes them
as they are makes the nose shorter and nods the head instead. What it errs by depends on what it
finds: a linear regression, learnt on drawn people, tells the rest.

Source: regression calibration, Carroll et al., Measurement Error in Nonlinear Models, 2006, ch. 4.

Letters: k numbers of identity.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float64
from safetensors.torch import load_file

from pipeline.core.errors import FormatError
from pipeline.io.tensors import read_header
from pipeline.system.assets import CORRECTION

KIND, VERSION = "fastgha-identity-correction", 1


Setting = Literal["rig", "photographs"]
"""Calibrated cameras, of which several see each moment; or unknown ones."""
SETTINGS: tuple[Setting, ...] = get_args(Setting)


class IdentityCorrection:
    """Corrects an identity that was fitted to points.

    Args:
        path: Regressions (`tools/learn_correction.py`); the shipped ones if not given.

    Raises:
        FormatError: If it is not such a file.
    """

    def __init__(self, path: Path = CORRECTION) -> None:
        read_header(path, KIND, VERSION)
        state = {name: value.double().numpy() for name, value in load_file(path).items()}
        names = {f"{one}.{part}" for one in SETTINGS for part in ("slope", "shift")}
        if state.keys() != names:
            raise FormatError(
                f"{path} is no correction of identities: it holds {sorted(state)}.",
                "Make one with tools/learn_correction.py.",
            )
        self._of = {one: (state[f"{one}.slope"], state[f"{one}.shift"]) for one in SETTINGS}

    def __call__(
        self,
        setting: Setting,
        identity: Float64[np.ndarray, "k"],
        told: Float64[np.ndarray, "k"],
    ) -> Float64[np.ndarray, "k"]:
        """Return the likeliest identity.

        Args:
            setting: What it was fitted to.
            identity: As it was fitted.
            told: The mean of what the network says of it in each picture.
        """
        slope, shift = self._of[setting]
        return identity + slope @ predictors(identity, told) + shift


def predictors(
    identity: Float64[np.ndarray, "k"], told: Float64[np.ndarray, "k"]
) -> Float64[np.ndarray, "2*k"]:
    """Return what tells the error of an identity."""
    return np.concatenate([identity, told - identity])
