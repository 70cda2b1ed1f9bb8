"""Reader of a video of one person: one camera, its frames are the timesteps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.captures.capture import Capture, RawView, Timestep
from pipeline.core.errors import InputError, MissingItemError
from pipeline.io.video_frames import VideoFrames

ENDINGS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
CAMERA = "video"


class VideoCapture(Capture):
    """One video file.

    Raises:
        InputError: If it is not a video with frames.
    """

    source = "video"
    color = "as-recorded"
    cameras = (CAMERA,)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = self.subject = path.stem
        self._frames = VideoFrames(path, threads=0)
        count = self._frames.count()
        if not count:
            raise InputError(f"{path} has no frames.", "Give another video.")
        self.fps = self._frames.fps()
        """Frames a second, on the mean."""
        self.is_hdr = self._frames.is_hdr()
        self.timesteps = tuple(Timestep(self.name, i) for i in range(count))
        self.facts = {"cameras": "not known, to be estimated", "fps": f"{self.fps:g}"}

    def missing(self) -> Mapping[str, str]:
        """Nothing: a broken frame is found when it is decoded."""
        return {}

    def has(self, timestep: Timestep, camera: str) -> bool:
        """Say whether the video is that long."""
        return (
            camera == CAMERA
            and timestep.sentence == self.name
            and 0 <= timestep.index < len(self.timesteps)
        )

    def view(self, timestep: Timestep, camera: str) -> RawView:
        """Decode one frame, upright; in order is fastest."""
        if not self.has(timestep, camera):
            raise MissingItemError(
                f"{self.path} has no frame {timestep.index}.", f"It has {len(self.timesteps)}."
            )
        return RawView(self._frames.read(timestep.index), None, None)

    def close(self) -> None:
        """Close the file."""
        self._frames.close()
