"""The stage of synthetic captures as a run: one at a time in a folder, nothing left half-made."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from pipeline.core.errors import StaleOutputError
from pipeline.prep import synthetic
from pipeline.prep.synthetic import SyntheticConfig
from pipeline.system.locks import LOCK


def test_a_folder_is_for_one_run_and_swept_of_what_a_killed_one_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(synthetic, "_person", _put)
    config = SyntheticConfig(identities=2)
    with FileLock(tmp_path / LOCK), pytest.raises(StaleOutputError, match="is working in"):
        synthetic.run(tmp_path, config)
    assert list(tmp_path.glob("*.h5")) == []
    half = tmp_path / f".train-00000.h5.{2**22 + 1}.part"
    half.write_text("half")
    assert synthetic.run(tmp_path, config).done == 2
    assert not half.exists()


def _put(identity: int, out: Path, config: SyntheticConfig) -> None:
    (out / f"{config.split}-{identity:05d}.h5").write_text("x")
