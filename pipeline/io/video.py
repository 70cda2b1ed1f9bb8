# pyright: basic
"""Writing MP4 files."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from pipeline.errors import InputError
from pipeline.stage import write_whole


def write_mp4(
    path: Path, frames: Iterable[UInt8[np.ndarray, "h w 3"]], fps: float, crf: int = 18
) -> int:
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
    count = 0

    def write(part: Path) -> None:
        nonlocal count
        with av.open(str(part), "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
            stream.pix_fmt = "yuv420p"
            stream.options = {"crf": str(crf), "preset": "fast"}
            for rgb in frames:
                even = rgb[: rgb.shape[0] // 2 * 2, : rgb.shape[1] // 2 * 2]
                if count == 0:
                    stream.height, stream.width = even.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                container.mux(stream.encode(frame))
                count += 1
            if count:
                container.mux(stream.encode(None))

    write_whole(path, write)
    if count == 0:
        path.unlink(missing_ok=True)
        raise InputError(f"There is no frame for {path}.", "Give a sequence that is not empty.")
    return count
