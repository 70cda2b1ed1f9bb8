"""No weights but those of the tests, and an untrained model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.model.fastgha import FastGHA
from tests.conftest import plain


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTGHA_WEIGHTS", "TORCH_HOME", "UNIFACE_CACHE_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    return FastGHA(plain(), "float32").eval().requires_grad_(False)
