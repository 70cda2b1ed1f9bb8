"""Names from files as paths."""

from pathlib import Path

import pytest

from pipeline.core.errors import InputError
from pipeline.system.files import inside


@pytest.mark.parametrize("name", ["../a", "..", ".", "", "/a", "a/b", "a\\b", "a\0b", "a" * 300])
def test_a_name_that_leads_out_of_its_folder_is_refused(tmp_path: Path, name: str):
    with pytest.raises(InputError, match="cannot be a file's name"):
        inside(tmp_path, "whole", name)


def test_names_are_joined_one_level_each(tmp_path: Path):
    found = inside(tmp_path, "2023--1352", "Zo\N{LATIN SMALL LETTER E WITH DIAERESIS} ..b")
    assert found.parent.parent == tmp_path
