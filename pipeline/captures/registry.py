"""The data sets that can be read: find captures in a folder, open one by its name.

To add one, write its reader (a `Capture`) and register it: `register_reader`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.captures.ava256 import Ava256Capture
from pipeline.captures.capture import Capture
from pipeline.captures.folder import FolderCapture
from pipeline.captures.nersemble import NersembleCapture, calibration_file
from pipeline.captures.photos import PhotosCapture, is_photo
from pipeline.captures.splits import held_out_ava256, held_out_nersemble
from pipeline.captures.video import ENDINGS, VideoCapture
from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError, InputError


@dataclass(frozen=True)
class DatasetReader:
    """How captures of one data set's layout are read."""

    find: Callable[[Path], dict[str, Path]]
    """Give the captures under a root by name; a root that is itself one gives that one."""
    open: Callable[[Path], Capture]
    """Open one of them."""
    expected: str
    """What a capture of this layout holds, in a few words."""
    calibrated: bool = True
    """Whether cameras and head poses come with the captures; else there is one picture a
    timestep, and they are estimated from its landmarks."""
    moving: bool = False
    """Whether a timestep shows the face a moment after the one before it, as in a video."""
    held_out: Callable[[str], bool] | None = None
    """Say whether a person is kept from training; None if the data set has no such list."""


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


READERS: dict[str, DatasetReader] = {}
"""By the data set's name."""


def register_reader(name: str, reader: DatasetReader) -> None:
    """Make a data set known to `prep`, by a name; one of that name is replaced.

    Workers get the reader as a pickle: its functions are to be importable.
    """
    READERS[name] = reader


def get_reader(name: str) -> DatasetReader:
    """Return the reader of a data set.

    Raises:
        ConfigError: If there is none of that name (the nearest one is given).
    """
    if name not in READERS:
        raise ConfigError(f"There is no data set {name!r}.", nearest(name, list(READERS)))
    return READERS[name]


def find_captures(source: str, root: Path) -> dict[str, Path]:
    """Return the captures of a data set under a folder, by name, sorted.

    Raises:
        ConfigError: If the data set is not known.
        InputError: If there is no such folder, or no capture in it.
    """
    reader = get_reader(source)
    if not root.exists():
        raise InputError(f"{root} does not exist.", f"Give a folder of {source} captures.")
    found = reader.find(root)
    if not found:
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:8]) if root.is_dir() else ""
        raise InputError(
            f"There is no {source} capture in {root} (it holds: {inside or 'nothing'}).",
            f"Expected: {reader.expected}.",
        )
    return dict(sorted(found.items()))


def open_capture(source: str, path: Path) -> Capture:
    """Open one capture.

    Raises:
        ConfigError: If the data set is not known.
        InputError: If the folder is not of its layout.
    """
    return get_reader(source).open(path)


def _with(root: Path, fits: Callable[[Path], bool]) -> dict[str, Path]:
    """Return the root if it fits, else its folders that do."""
    if fits(root):
        return {root.resolve().name: root}
    if not root.is_dir():
        return {}
    return {path.name: path for path in root.iterdir() if path.is_dir() and fits(path)}


register_reader(
    "ava256",
    DatasetReader(
        _ava256,
        Ava256Capture,
        "folders such as 20230308--1352--BDF920 with decoder/ in them",
        held_out=held_out_ava256,
    ),
)
register_reader(
    "nersemble",
    DatasetReader(
        _nersemble,
        NersembleCapture,
        "participants such as 074 with a camera_params.json",
        held_out=held_out_nersemble,
    ),
)
register_reader(
    "folder", DatasetReader(_folders, FolderCapture, "transforms.json (VHAP, GaussianAvatars)")
)
register_reader(
    "photos",
    DatasetReader(
        _photos,
        PhotosCapture,
        "photographs, or a folder of them for each person",
        calibrated=False,
    ),
)
register_reader(
    "video",
    DatasetReader(
        _videos,
        VideoCapture,
        f"a video ({', '.join(ENDINGS)}), or a folder of them",
        calibrated=False,
        moving=True,
    ),
)
