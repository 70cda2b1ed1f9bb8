"""Submissions to the NeRSemble benchmark's monocular FLAME avatar task.

A submission is a zip of videos, `<participant>/<sequence>/cam_<serial>.mp4`, of 512 x 512 at
24.3 frames a second, one for each of 5 people, 4 sequences and 4 cameras.

Source:
    The package nersemble-benchmark 0.2.0, whose reader checks what is written here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import UInt8

from pipeline.core.errors import InputError
from pipeline.io.images import open_picture
from pipeline.io.video import SOURCE, write_mp4
from pipeline.system.files import write_whole
from pipeline.system.progress import Progress, silent

PEOPLE = (393, 404, 461, 477, 486)
SEQUENCES = ("FREE", "EMO-1-shout+laugh", "SEN-09-frown_events_bad", "SEN-10-port_strong_smokey")
SERIALS = ("222200037", "222200046", "220700191", "222200039")
SIZE, FPS = 512, 24.3
FIRST_TRACKING = "flame2023_tracking.npz"
"""Drawn of it, nothing may be submitted any more: since April 2026 the second version counts."""
QUALITY = 14
"""Constant rate factor that the benchmark asks for."""


def members() -> list[str]:
    """Return the names of all videos, without their ending."""
    return [f"{p:03d}/{s}/cam_{c}" for p in PEOPLE for s in SEQUENCES for c in SERIALS]


def write_submission(drawn: Path, out: Path, progress: Progress = silent) -> Path:
    """Pack drawn frames into a submission.

    Args:
        drawn: `<participant>/<sequence>/cam_<serial>/<number>.png`, every frame of every video.
        out: Zip to write.
        progress: Called after each video.

    Raises:
        InputError: If videos are missing (all are named), or a frame has another size, or was
            driven by the first version of the benchmark's tracking, as its metadata says.
    """
    missing = [name for name in members() if not any((drawn / name).glob("*.png"))]
    if missing:
        raise InputError(
            f"{drawn} lacks {len(missing)} of {len(members())} videos: {', '.join(missing[:8])}"
            f"{' ...' if len(missing) > 8 else ''}.",
            "Draw every sequence from all four cameras as <participant>/<sequence>/cam_<serial>/"
            "<number>.png.",
        )

    def pack(part: Path) -> None:
        with TemporaryDirectory(prefix="fastgha-") as folder, zipfile.ZipFile(part, "w") as file:
            for done, name in enumerate(members(), start=1):
                video = Path(folder) / "video.mp4"
                write_mp4(video, _frames(drawn / name), FPS, crf=QUALITY)
                file.write(video, f"{name}.mp4")
                progress(done, len(members()))

    write_whole(out, pack)
    return out


def _frames(folder: Path) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
    for path in sorted(folder.glob("*.png")):
        try:
            with open_picture(path, path) as opened:
                source = str(opened.info.get(SOURCE, ""))
                picture = np.asarray(opened.convert("RGB"))
        except OSError as error:
            raise InputError(f"{path} is not a picture.", "Draw it again.") from error
        if source.endswith(FIRST_TRACKING):
            raise InputError(
                f"{path} was driven by {FIRST_TRACKING}, the first version of the tracking, which "
                "the benchmark no longer takes.",
                "Draw it of flame2023_tracking_v2.npz.",
            )
        if picture.shape[:2] != (SIZE, SIZE):
            h, w = picture.shape[:2]
            raise InputError(
                f"{path} is {w}x{h}, the benchmark wants {SIZE}x{SIZE}.", "Draw it at that size."
            )
        yield picture
