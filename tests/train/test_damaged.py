"""Runs whose files were damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.errors import FormatError
from tests.avatar.test_damaged import Change, rewritten
from tests.fuzzing.targets import TARGETS

NAME = "optimizer.deformation.out.weight"
DAMAGED: dict[str, Change] = {
    "a part is missing": lambda f, t: t.pop(f"{NAME}.exp_avg"),
    "a part of another": lambda f, t: t.update({f"{NAME}.x": t[f"{NAME}.step"].clone()}),
    "another size": lambda f, t: t.update({f"{NAME}.exp_avg": t[f"{NAME}.exp_avg"][:1]}),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_state_of_the_optimizer_is_refused(tmp_path: Path, name: str):
    TARGETS["run"].make(tmp_path)
    TARGETS["run"].use(tmp_path)
    path = tmp_path / "run" / "step-00000003.safetensors"
    rewritten(path, tmp_path / "x", DAMAGED[name]).replace(path)
    with pytest.raises(FormatError, match="optimizer state"):
        TARGETS["run"].use(tmp_path)
