"""The promise that damaged captures are reported, never more."""

from pathlib import Path

import pytest

from pipeline.io import raw_files
from tests.captures import mutations


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("clean")
    mutations.write_all(root)
    return root


def test_whole_captures_lose_only_what_they_were_written_without(clean):
    lost = {kind: mutations.read_all(source, clean / kind) for kind, source in
            mutations.SOURCES.items()}  # fmt: skip
    assert all(counts["read"] > 3 for counts in lost.values())
    assert all(counts["refused"] == 0 for counts in lost.values())
    assert lost["v1"]["skipped"] == lost["photos"]["skipped"] == lost["video"]["skipped"] == 0


def test_damage_is_reported_and_nothing_else_happens(clean):
    rows = mutations.run(clean, seed=0, count=54)
    assert [row for row in rows if "error" in row] == []
    # The damage is seen: a mutation that changes nothing would test nothing.
    assert sum(bool(row.get("refused") or row.get("skipped")) for row in rows) > 25


def test_a_reader_that_raises_another_error_would_be_found(clean, monkeypatch):
    monkeypatch.setattr(raw_files, "BROKEN", (OSError,))
    rows = mutations.run(clean, seed=0, count=54)
    assert any("error" in row for row in rows)
