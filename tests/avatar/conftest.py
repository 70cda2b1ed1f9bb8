"""A short video of a synthetic person."""

import pytest

from pipeline.avatar.video import Footage
from pipeline.bench.refine import synthetic


@pytest.fixture(scope="session")
def footage() -> Footage:
    """Thirty frames of a person who turns and speaks. Read only."""
    return synthetic(seconds=5.0, size=64, fps=6.0).footage
