"""A model of FLAME's shape that is a face, as its file and as it is read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.faces.flame import Flame, load_flame
from tests.faces import flames


@pytest.fixture(scope="package")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return flames.write_converted(tmp_path_factory.mktemp("flame"))


@pytest.fixture(scope="package")
def model(file: Path) -> Flame:
    return load_flame(file)
