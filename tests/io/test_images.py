"""Pictures that nobody should wait for."""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.core.errors import InputError, MissingItemError
from pipeline.io.images import decode, encode_png, read_rgb
from pipeline.io.raw_files import decode_picture

ABSURD = [(20000, 3), (3, 20000), (30000, 30000), (12000, 12000), (2**31 - 1, 2**31 - 1), (21, 1)]


def png(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(9))) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", ABSURD)
def test_a_picture_of_absurd_size_is_refused_by_its_header(size: tuple[int, int], tmp_path: Path):
    data = png(*size)
    path = tmp_path / "absurd.png"
    path.write_bytes(data)
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"absurd\.png (is \d+x\d+|has too many) pixels") as error:
        read_rgb(path)
    assert "Give one" in error.value.remedy
    with pytest.raises(MissingItemError, match=r"frame 7 (is \d+x\d+|has too many) pixels"):
        decode_picture(data, "frame 7")
    with pytest.raises(ValueError, match="not a picture"):
        decode(data)
    assert time.perf_counter() - start < 1


def test_long_and_large_pictures_within_reason_are_read(tmp_path: Path):
    path = tmp_path / "long.png"
    path.write_bytes(encode_png(np.zeros((5, 100, 3), np.uint8)))
    assert read_rgb(path).shape == (5, 100, 3)
    assert decode(path.read_bytes()).size == decode_picture(path.read_bytes(), path).size
    large = tmp_path / "large.png"  # more than Pillow takes without a warning
    Image.new("1", (10000, 10000)).save(large)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode_picture(large.read_bytes(), large).size == (10000, 10000)


def test_what_pillow_stumbles_over_is_no_picture(tmp_path: Path):
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, "PNG")
    for data in (b"", b"GIF89a", buffer.getvalue()[:60], png(4, 4)):
        path = tmp_path / "broken.png"
        path.write_bytes(data)
        with pytest.raises(InputError, match=r"broken\.png is not a picture"):
            read_rgb(path)


def test_odd_metadata_neither_warns_nor_hides_a_picture(tmp_path: Path):
    kept = io.BytesIO()
    Image.new("RGB", (8, 6), "red").save(kept, "TIFF")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (tmp_path / "layers.tif").write_bytes(with_long_tag(kept.getvalue(), 284))
        assert (read_rgb(tmp_path / "layers.tif") == [255, 0, 0]).all()
        (tmp_path / "strips.tif").write_bytes(with_long_tag(kept.getvalue(), 273))
        with pytest.raises(InputError, match="not a picture"):
            read_rgb(tmp_path / "strips.tif")


def with_long_tag(tiff: bytes, tag: int) -> bytes:
    """Return a TIFF one of whose tags claims to be longer than the file."""
    start = struct.unpack("<I", tiff[4:8])[0]
    tags = range(start + 2, start + 2 + 12 * struct.unpack("<H", tiff[start : start + 2])[0], 12)
    at = next(i for i in tags if struct.unpack("<H", tiff[i : i + 2])[0] == tag)
    return tiff[: at + 4] + struct.pack("<I", 10**6) + tiff[at + 8 :]
