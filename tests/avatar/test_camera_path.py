"""Cameras that a tracker filmed with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.avatar.camera_path import cameras_for
from pipeline.core.errors import InputError, MissingWeightsError
from tests.captures import vhap
from tests.captures.studio import shoot
from tests.tracking.test_importers import frame
from tests.tracking.test_importers import vhap as vhap_arrays


def test_original_takes_the_cameras_of_a_tracking(tmp_path: Path):
    (tmp_path / "checkpoint").mkdir()
    for i in range(4):
        torch.save(frame(i, False), tmp_path / "checkpoint" / f"{i:05d}.frame")
    given = cameras_for("original", tmp_path, 4, 128, 0)
    assert (len(given), given.width, given.height) == (4, 128, 128)
    head = given.world_to_camera @ torch.tensor([0, 0, 0, 1.0])
    np.testing.assert_allclose(head, [[0, 0, 1, 1]] * 4, atol=1e-6)  # a metre away
    assert float(given.K[0, 0, 0]) == 300  # 600 at 256 pixels


def test_a_tracking_without_cameras_or_without_its_model_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path / "nothing"))
    np.savez(tmp_path / "tracked_flame_params_1.npz", **vhap_arrays())
    with pytest.raises(InputError, match="no cameras of its own"):
        cameras_for("original", tmp_path, 4, 128, 0)
    export = vhap.write(tmp_path / "raw", shoot())
    with pytest.raises(MissingWeightsError, match="FLAME"):  # its neck turns
        cameras_for("original", export, 2, 128, 0)
