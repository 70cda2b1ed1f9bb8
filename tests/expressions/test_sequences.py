from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import LayoutError
from pipeline.expressions.sequences import Sequence, read_sequence, write_sequence
from pipeline.faces.layouts import ARKIT_NAMES, MAKEHUMAN, arkit_to_code, neutral_code
from pipeline.system.assets import SEQUENCE


def test_a_sequence_survives_its_file(tmp_path: Path):
    codes = arkit_to_code(np.random.default_rng(0).uniform(0, 0.5, (7, 52)))
    write_sequence(tmp_path / "x.npz", Sequence(codes, 30.0))
    again = read_sequence(tmp_path / "x.npz", MAKEHUMAN)
    assert again.fps == 30.0 and torch.equal(again.codes.values, codes.values)


def test_columns_of_arkit_weights_are_found_by_name(tmp_path: Path):
    weights = np.random.default_rng(0).uniform(0, 0.5, (4, 52))
    order = np.random.default_rng(1).permutation(52)
    names = [ARKIT_NAMES[i] for i in order]
    np.savez(tmp_path / "x.npz", weights=weights[:, order], names=names, fps=60)
    read = read_sequence(tmp_path / "x.npz", MAKEHUMAN)
    torch.testing.assert_close(read.codes.values, arkit_to_code(weights).values)


def test_arkit_weights_do_not_drive_a_flame_avatar(tmp_path: Path):
    np.savez(tmp_path / "x.npz", weights=np.zeros((4, 52)), names=list(ARKIT_NAMES), fps=60)
    with pytest.raises(LayoutError):
        read_sequence(tmp_path / "x.npz", "fastgha120/flame2020/rot6d-rows")


def test_the_shipped_sequence_opens_the_mouth_and_blinks():
    sequence = read_sequence(SEQUENCE, MAKEHUMAN)
    assert sequence.fps == 25 and len(sequence) >= 100
    away = (sequence.codes.values - neutral_code(MAKEHUMAN).values).abs().amax(0)
    assert away[100:106].max() > 0.2, "the jaw"
    assert away[118:120].min() > 0.5, "both eyelids"
