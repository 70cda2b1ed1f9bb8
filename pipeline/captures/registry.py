"""The data sets that can be read: find captures in a folder, open one by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.captures.ava256 import Ava256Capture
from pipeline.captures.capture import Capture
from pipeline.captures.folder import FolderCapture
from pipeline.captures.nersemble import NersembleCapture, calibration_file
from pipeline.captures.photos import PhotosCapture, is_photo
from pipeline.captures.video import ENDINGS, VideoCapture
from pipeline.core.errors import InputError


@dataclass(frozen=True)
class Source:
    """One data set's layout."""

    find: Callable[[Path], dict[str, Path]]
    """Give the captures under a root by name; a root that is itself one gives that one."""
    open: Callable[[Path], Capture]
    """Open one of them."""
    expected: str
    """What a capture of this layout holds, in a few words."""


def _folders(root: Path) -> dict[str, Path]:
    return _with(root, lambda path: any(path.glob("transforms*.json")))


def _ava256(root: Path) -> dict[str, Path]:
    return _with(root, lambda path: (path / "decoder" / "camera_calibration.json").is_file())


def _nersemble(root: Path) -> dict[str, Path]:
    def fits(path: Path) -> bool:
        return path.resolve().name.isdigit() and calibration_file(path) is not None

    return _with(root, fits)


def _photos(root: Path) -> dict[str, Path]:
    return _with(root, lambda path: path.is_dir() and any(is_photo(p) for p in path.iterdir()))


def _videos(root: Path) -> dict[str, Path]:
    files = root.iterdir() if root.is_dir() else [root]
    return {p.stem: p for p in files if p.suffix.lower() in ENDINGS and p.is_file()}


SOURCES = {
    "ava256": Source(
        _ava256, Ava256Capture, "folders such as 20230308--1352--BDF920 with decoder/ in them"
    ),
    "nersemble": Source(
        _nersemble, NersembleCapture, "participants such as 074 with a camera_params.json"
    ),
    "folder": Source(_folders, FolderCapture, "transforms.json (VHAP, GaussianAvatars)"),
    "photos": Source(_photos, PhotosCapture, "photographs, or a folder of them for each person"),
    "video": Source(_videos, VideoCapture, f"a video ({', '.join(ENDINGS)}), or a folder of them"),
}


def find_captures(source: str, root: Path) -> dict[str, Path]:
    """Return the captures of a data set under a folder, by name, sorted.

    Raises:
        InputError: If the source is not known, there is no such folder, or no capture in it.
    """
    layout = _source(source)
    if not root.exists():
        raise InputError(f"{root} does not exist.", f"Give a folder of {source} captures.")
    found = layout.find(root)
    if not found:
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else ""
        raise InputError(
            f"There is no {source} capture in {root} (it holds: {inside or 'nothing'}).",
            f"Expected: {layout.expected}.",
        )
    return dict(sorted(found.items()))


def open_capture(source: str, path: Path) -> Capture:
    """Open one capture.

    Raises:
        InputError: If the source is not known, or the folder is not of its layout.
    """
    return _source(source).open(path)


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise InputError(f"Unknown data set {name!r}.", f"Known are {', '.join(SOURCES)}.")
    return SOURCES[name]


def _with(root: Path, fits: Callable[[Path], bool]) -> dict[str, Path]:
    """Return the root if it fits, else its folders that do."""
    if fits(root):
        return {root.resolve().name: root}
    if not root.is_dir():
        return {}
    return {path.name: path for path in root.iterdir() if path.is_dir() and fits(path)}
