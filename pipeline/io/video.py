"""Writing moving pictures: MP4, WebM with transparency, and folders of PNG."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import Flags
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.core.errors import InputError
from pipeline.system.files import is_file, read_small, sweep_parts, works, write_text, write_whole
from pipeline.system.provenance import program, statement

MARK = ".unfinished"
"""In a folder of frames while some are missing, with the number of the process that draws."""
FRAME = re.compile(r"\.?frame_[0-9]{5,}\.png(\.[0-9]+\.part)?")
"""Names of frames, whole or not."""

Frames = Iterable[UInt8[np.ndarray, "h w c"]]
"""RGB, or RGBA with the alpha not multiplied in."""
SOURCE = "Source"
"""Key of a PNG's text that says what drove the picture."""


def write_mp4(path: Path, frames: Frames, fps: float, crf: int = 18) -> int:
    """Write RGB frames as H.264, readable by browsers and phones.

    Frames are encoded as they come, so a long video needs no more memory than a short one.

    Args:
        path: File to write.
        frames: Bytes.
        fps: Frames a second.
        crf: Constant rate factor: lower is better and larger.

    Returns:
        How many frames were written.

    Raises:
        InputError: If there is no frame, or the file cannot be written.
    """
    # x264's bytes depend on its number of threads, which else is that of the machine's cores.
    # With its macroblock tree (mbtree) they differ from run to run, whatever the threads.
    options = {"crf": str(crf), "preset": "fast", "threads": "4", "x264-params": "mbtree=0"}
    return _write(path, frames, fps, "mp4", "libx264", ("rgb24", "yuv420p"), options)


def write_webm(path: Path, frames: Frames, fps: float) -> int:
    """Write RGBA frames as VP9 with transparency, which browsers lay over a page.

    Raises:
        InputError: If there is no frame, or the file cannot be written.
    """
    options = {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"}
    return _write(path, frames, fps, "webm", "libvpx-vp9", ("rgba", "yuva420p"), options)


def write_pngs(folder: Path, frames: Frames, source: str = "") -> int:
    """Write frame_00000.png and so on, each whole; a run that is stopped leaves none.

    A mark says that frames are missing: those of a killed run give way to new ones.

    Args:
        folder: New, or empty.
        frames: The pictures.
        source: What drove them, for their metadata.

    Raises:
        InputError: If there is no frame, or the folder holds something or cannot be written to.
    """
    mark = folder / MARK
    sweep_parts(mark)
    if is_file(mark):
        _clear(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder.", "Choose another, or empty it.")
    made = not folder.exists()
    count = 0
    try:
        write_text(mark, str(os.getpid()))
        for pixels in frames:
            write_png(folder / f"frame_{count:05d}.png", pixels, source)
            count += 1
        if count == 0:
            raise _no_frame(folder)
        mark.unlink()
    except BaseException:
        with contextlib.suppress(OSError, InputError):
            _clear(folder)
            if made:
                folder.rmdir()
        raise
    return count


def _clear(folder: Path) -> None:
    """Remove what a run that did not end wrote: our frames, and the mark last.

    Raises:
        InputError: If the run goes on.
    """
    mark = folder / MARK
    owner = read_small(mark, "the mark of unfinished frames").decode("ascii", "replace")
    if owner.isdecimal() and len(owner) <= 10 and works(int(owner)):
        raise InputError(f"Process {owner} is drawing into {folder}.", "Wait, or choose another.")
    for path in folder.iterdir():
        if FRAME.fullmatch(path.name) and path.is_file():
            path.unlink()
    mark.unlink()


def write_png(path: Path, pixels: UInt8[np.ndarray, "h w c"], source: str = "") -> None:
    """Write one picture, RGB or RGBA, that says what drew it, and of what.

    Raises:
        InputError: If the file cannot be written.
    """
    says = PngInfo()
    says.add_text("Software", program())
    says.add_text("Comment", statement())
    if source:
        says.add_text(SOURCE, source)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    write_whole(path, lambda part: image.save(part, "PNG", pnginfo=says))


def _write(
    path: Path,
    frames: Frames,
    fps: float,
    container_format: str,
    codec: str,
    formats: tuple[str, str],
    options: dict[str, str],
) -> int:
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        with av.open(str(part), "w", format=container_format) as container:
            container.flags |= Flags.bitexact.value  # else WebM draws random numbers for its parts
            container.metadata["comment"] = statement()
            container.metadata["artist"] = program()
            stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt = formats[1]
            stream.options = options
            for pixels in frames:
                even = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
                if count == 0:
                    stream.height, stream.width = even.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format=formats[0])
                container.mux(stream.encode(frame))
                count += 1
            if count:
                container.mux(stream.encode(None))

    sweep_parts(path)
    write_whole(path, write)
    if count == 0:
        path.unlink(missing_ok=True)
        raise _no_frame(path)
    return count


def _no_frame(path: Path) -> InputError:
    return InputError(f"There is no frame for {path}.", "Give a sequence that is not empty.")
