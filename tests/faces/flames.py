"""A model of FLAME's shape with random numbers, and pickles as its owners write them."""

from __future__ import annotations

import pickle  # noqa: TID251  the tests write what the program must read
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_matrix

JOINTS = np.array(
    [(0, -0.05, -0.06), (0, -0.009, -0.054), (0, -0.014, -0.058), (0.031, 0.021, 0.023),
     (-0.031, 0.022, 0.022)]
)  # fmt: skip


def numbers(seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers under the names of the owners' files."""
    rng = np.random.default_rng(seed)
    template = rng.uniform(-0.1, 0.1, (5023, 3))
    regressor = np.zeros((5, 5023))
    for j, joint in enumerate(JOINTS):
        near = np.argsort(((template - joint) ** 2).sum(1))[:8]
        regressor[j, near] = 1 / 8
    weights = rng.dirichlet(np.ones(5), 5023)
    return {
        "v_template": template,
        "f": rng.integers(0, 5023, (40, 3)).astype(np.uint32),
        "shapedirs": rng.normal(0, 0.001, (5023, 3, 400)),
        "posedirs": rng.normal(0, 0.001, (5023, 3, 36)),
        "J_regressor": regressor,
        "weights": weights,
        "kintree_table": np.array([[2**32 - 1, 0, 1, 1, 1], [0, 1, 2, 3, 4]], np.uint32),
    }


def write_pickle(path: Path, arrays: dict[str, np.ndarray], patch: pytest.MonkeyPatch) -> None:
    """Write a model with a chumpy array and a sparse matrix, protocol 2, as python 2 did."""
    module = types.ModuleType("chumpy.ch")

    class Ch:
        pass

    Ch.__module__, Ch.__qualname__ = "chumpy.ch", "Ch"
    module.Ch = Ch  # pyright: ignore
    patch.setitem(sys.modules, "chumpy", types.ModuleType("chumpy"))
    patch.setitem(sys.modules, "chumpy.ch", module)
    shapes = Ch()
    shapes.__dict__.update(x=arrays["shapedirs"], _dirty_vars=set(), _status="new")
    whole = {
        **arrays,
        "shapedirs": shapes,
        "J_regressor": csc_matrix(arrays["J_regressor"]),
        "bs_style": "lbs",
    }
    with path.open("wb") as file:
        pickle.dump(whole, file, protocol=2)
