"""Writing moving pictures: MP4, WebM with transparency, and folders of PNG."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.core.errors import InputError
from pipeline.system.files import write_whole
from pipeline.system.provenance import program, statement

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
    options = {"crf": str(crf), "preset": "fast"}
    return _write(path, frames, fps, "mp4", "libx264", ("rgb24", "yuv420p"), options)


def write_webm(path: Path, frames: Frames, fps: float) -> int:
    """Write RGBA frames as VP9 with transparency, which browsers lay over a page.

    Raises:
        InputError: If there is no frame, or the file cannot be written.
    """
    options = {"crf": "20", "b": "0", "deadline": "realtime", "cpu-used": "6", "auto-alt-ref": "0"}
    return _write(path, frames, fps, "webm", "libvpx-vp9", ("rgba", "yuva420p"), options)


def write_pngs(folder: Path, frames: Frames, source: str = "") -> int:
    """Write frame_00000.png and so on, each whole; their metadata says what drove them.

    Raises:
        InputError: If there is no frame, or the folder holds something or cannot be written to.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not an empty folder.", "Choose another, or empty it.")
    count = 0
    for pixels in frames:
        write_png(folder / f"frame_{count:05d}.png", pixels, source)
        count += 1
    if count == 0:
        raise _no_frame(folder)
    return count


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

    write_whole(path, write)
    if count == 0:
        path.unlink(missing_ok=True)
        raise _no_frame(path)
    return count


def _no_frame(path: Path) -> InputError:
    return InputError(f"There is no frame for {path}.", "Give a sequence that is not empty.")
