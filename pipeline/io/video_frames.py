"""Single frames of video files, exactly the ones that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
from jaxtyping import UInt8

from pipeline.core.errors import MissingItemError
from pipeline.io.raw_files import BROKEN
from pipeline.system.files import is_file

_ERRORS = (av.error.FFmpegError, *BROKEN)
MAX_PIXELS = 100_000_000
HDR = (16, 18)
"""Transfer characteristics of ITU-T H.273: SMPTE ST 2084 and HLG."""


class VideoFrames:
    """One video file. Frames asked for in order are decoded in one go; others are sought.

    A frame is found by its time stamp, from the list of all packets, so the number of a frame
    is exact even where the rate varies or key frames are far apart.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        """Name the file.

        Args:
            path: Any container and codec that FFmpeg reads.
            threads: Of the decoder; many files are open at once.
        """
        self.path = path
        self._threads = threads
        self._count: int | None = None
        self._open: _Decoder | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind: a worker opens its own."""
        return {**self.__dict__, "_open": None}

    @property
    def exists(self) -> bool:
        """Whether there is such a file."""
        return is_file(self.path)

    def count(self) -> int:
        """Return how many frames there are, from the header where it says.

        Raises:
            MissingItemError: If the file is missing or not a video.
        """
        if self._count is None:
            with self._container() as container:
                count = int(container.streams.video[0].frames)
            # A damaged header may say billions; a frame takes a few bytes at least.
            if not 0 < count <= self.path.stat().st_size // 4:
                count = len(self._decoder().times)
                self.close()
            self._count = count
        return self._count

    def fps(self) -> float:
        """Return the mean rate of the frames.

        Raises:
            MissingItemError: If the file is missing or not a video.
        """
        with self._container() as container:
            return float(container.streams.video[0].average_rate or 0)

    def is_hdr(self) -> bool:
        """Say whether its brightness is that of high dynamic range: PQ or HLG.

        Raises:
            MissingItemError: If the file is missing or not a video.
        """
        with self._container() as container:
            codec = container.streams.video[0].codec_context
            return codec is not None and codec.color_trc in HDR  # None: it cannot be decoded

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Decode one frame, upright.

        Raises:
            MissingItemError: If there is no such frame, or the file is missing or damaged.
        """
        try:
            return self._decoder().read(index)
        except _ERRORS as error:
            self.close()
            if isinstance(error, MissingItemError):
                raise
            raise MissingItemError(
                f"{self.path}, frame {index}, cannot be decoded.", "Download the video again."
            ) from error

    def close(self) -> None:
        """Close the file; it is opened again when asked."""
        if self._open is not None:
            self._open.container.close()
            self._open = None

    def _container(self) -> Any:
        if not self.exists:
            raise MissingItemError(f"{self.path} does not exist.", "Download it.")
        try:
            container = av.open(str(self.path))
            if not container.streams.video:
                raise ValueError("no video stream")
        except _ERRORS as error:
            raise MissingItemError(
                f"{self.path} is not a whole video.", "Download it again."
            ) from error
        return container

    def _decoder(self) -> _Decoder:
        if self._open is None:
            container = self._container()
            try:
                self._open = _Decoder(container, self._container(), self.path, self._threads)
            except _ERRORS as error:
                container.close()
                raise MissingItemError(
                    f"{self.path} is not a whole video.", "Download it again."
                ) from error
        return self._open


class _Decoder:
    """An open file with its time stamps."""

    def __init__(self, container: Any, index: Any, path: Path, threads: int) -> None:
        with index:
            packets = [
                (p.pts, p.is_keyframe)
                for p in index.demux(index.streams.video[0])
                if p.size and not p.is_discard
            ]
        if not packets or any(pts is None for pts, _ in packets):
            raise ValueError("no time stamps")
        self.times = np.unique([pts for pts, _ in packets])
        self.keys = np.unique([pts for pts, key in packets if key])
        self.path = path
        self.container = container
        self.stream = container.streams.video[0]
        if self.stream.width * self.stream.height > MAX_PIXELS:
            raise ValueError("absurd size")
        self.stream.codec_context.thread_count = threads
        self.stream.codec_context.options = {"err_detect": "explode"}
        self.frames = iter(container.decode(self.stream))
        self.position = self.times[0] - 1
        """Time stamp of the last frame that came out."""

    def read(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """Return a frame by its number."""
        if not 0 <= index < len(self.times):
            raise MissingItemError(
                f"{self.path} has {len(self.times)} frames; there is no frame {index}.",
                "The video is shorter than others of this sequence.",
            )
        target = self.times[index]
        before = self.keys[self.keys <= target]
        if target <= self.position or (len(before) and before[-1] > self.position):
            self._seek(before[-1] if len(before) else self.times[0])
        frame = self._next(target)
        if frame is None:  # the key frame was later than its time stamp says
            self._seek(self.times[0])
            frame = self._next(target)
        if frame is None or frame.is_corrupt:
            raise MissingItemError(
                f"{self.path}, frame {index}, cannot be decoded.", "Download the video again."
            )
        picture = frame.to_ndarray(format="rgb24")
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture

    def _seek(self, time: int) -> None:
        self.container.seek(int(time), stream=self.stream, backward=True)
        self.frames = iter(self.container.decode(self.stream))
        self.position = self.times[0] - 1

    def _next(self, target: int) -> Any:
        """Decode up to the frame of a time stamp; None if it does not come."""
        for frame in self.frames:
            if frame.pts is None:
                continue
            self.position = frame.pts
            if frame.pts >= target:
                return frame if frame.pts == target else None
        return None
