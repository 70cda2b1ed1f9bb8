"""Submissions to the NeRSemble benchmark."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from pipeline.core.errors import InputError


def test_a_submission_has_the_benchmarks_names_and_is_whole(tmp_path: Path, monkeypatch):
    import zipfile

    import av

    from pipeline.evaluate import nersemble_benchmark as benchmark

    assert len(benchmark.members()) == 80
    monkeypatch.setattr(benchmark, "PEOPLE", (393,))
    monkeypatch.setattr(benchmark, "SEQUENCES", ("FREE",))
    drawn, out = tmp_path / "drawn", tmp_path / "s.zip"
    with pytest.raises(InputError, match=r"lacks 4 of 4 videos: 393/FREE/cam_222200037"):
        benchmark.write_submission(drawn, out)
    for name in benchmark.members():
        for i in range(3):
            path = drawn / name / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 512), (80 * i, 10, 10)).save(path)
    benchmark.write_submission(drawn, out)
    with zipfile.ZipFile(out) as file:
        assert sorted(file.namelist()) == sorted(f"{n}.mp4" for n in benchmark.members())
        with file.open("393/FREE/cam_222200037.mp4") as video, av.open(video) as found:
            stream = found.streams.video[0]
            assert (stream.width, stream.height) == (512, 512)
            assert float(stream.average_rate) == pytest.approx(24.3, abs=0.01)
            assert sum(1 for _ in found.decode(video=0)) == 3
    out.unlink()
    Image.new("RGB", (512, 500)).save(path)
    with pytest.raises(InputError, match="512x500"):
        benchmark.write_submission(drawn, out)
    assert not out.exists()
