"""The real packages of preparation, as far as they go without downloads."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import MissingWeightsError
from pipeline.perception.detectors import FAN_WEIGHTS, best_detector, get_detector
from pipeline.perception.matting import get_matting
from pipeline.system import weights

pytestmark = pytest.mark.filterwarnings("ignore")  # of the packages' own


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "TORCH_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def put(home: Path, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256(data).hexdigest()
    short = replace(weights.WEIGHTS[name], sha256=sha256, md5="")
    monkeypatch.setitem(weights.WEIGHTS, name, short)
    (home / short.file).write_bytes(data)


def _varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(tag: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return _varint(tag << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(tag << 3 | 2) + _varint(len(data)) + data


def grey_network(size: int) -> bytes:
    """An ONNX file whose matte is the mean of the channels."""

    def tensor(name: str, channels: int) -> bytes:
        sizes = b"".join(_field(1, _field(1, n)) for n in (1, channels, size, size))
        return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, sizes)))

    axes = _field(1, "axes") + _field(8, 1) + _field(20, 7)
    node = _field(1, "x") + _field(2, "y") + _field(4, "ReduceMean") + _field(5, axes)
    graph = _field(1, node) + _field(2, "grey") + _field(11, tensor("x", 3))
    graph += _field(12, tensor("y", 1))
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))


@pytest.mark.parametrize(("name", "size"), [("u2netp", 320), ("isnet-general-use", 1024)])
def test_rembgs_own_session_makes_the_matte(home: Path, monkeypatch, name: str, size: int):
    pytest.importorskip("rembg")
    with pytest.raises(MissingWeightsError, match=name):  # and nothing is downloaded
        get_matting(name)()
    put(home, name, grey_network(size), monkeypatch)
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:, 32:] = 250
    alpha = get_matting(name)()(picture)
    assert alpha.shape == (48, 64) and alpha.dtype == np.float32
    assert alpha[:, :24].max() < 0.1 and alpha[:, 40:].min() > 0.9


def test_face_alignment_is_the_detector_where_its_weights_are(home: Path, monkeypatch):
    pytest.importorskip("face_alignment")
    assert best_detector() == "mesh"
    with pytest.raises(MissingWeightsError, match="s3fd"):  # and nothing is downloaded
        get_detector("fan").make()
    for name in FAN_WEIGHTS:
        put(home, name, struct.pack("<d", 1.0), monkeypatch)
    assert best_detector() == "fan"


def test_face_alignment_finds_its_weights_in_our_folder(home: Path, monkeypatch):
    face_alignment = pytest.importorskip("face_alignment")
    for name in FAN_WEIGHTS:
        put(home, name, name.encode(), monkeypatch)
    read: list[bytes] = []

    class Net:
        def __init__(self, *_: object, **how: object) -> None:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            read.extend(path.read_bytes() for path in sorted(folder.iterdir()))
            assert how == {"device": "cpu", "compile": False}

        def get_landmarks_from_image(self, rgb, return_landmark_score):
            points = np.stack([np.linspace(10, 40, 68), np.linspace(20, 30, 68)], -1)
            return [points], [np.full(68, 0.9)], None

    monkeypatch.setattr(face_alignment, "FaceAlignment", Net)
    before = torch.hub.get_dir()
    (face,) = get_detector("fan").make()(np.zeros((64, 64, 3), np.uint8))
    assert read == [b"fan_2d", b"s3fd"] and torch.hub.get_dir() == before
    assert face.box[0] == pytest.approx(10.5) and face.score == pytest.approx(0.9)
