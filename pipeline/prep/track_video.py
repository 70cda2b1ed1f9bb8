"""Stage: a video of one person to its tracking.

In    a video file
Out   a tracking (`pipeline.tracking.track_file`)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.captures.video import CAMERA, VideoCapture
from pipeline.core.arrays import Rgb
from pipeline.core.errors import CameraError
from pipeline.perception.detectors import get_detector
from pipeline.perception.landmarks import Detector
from pipeline.prep.codes import MAKEHUMAN_FACE, face_model
from pipeline.system.progress import Progress, silent
from pipeline.tracking.track_file import write_track
from pipeline.tracking.tracker import HeadTracker

DETECTOR = "mesh"


@dataclass(frozen=True)
class TrackReport:
    """What came of a video."""

    frames: int
    empty: list[int] = field(default_factory=list[int])
    """Numbers of frames without a face."""
    cuts: list[int] = field(default_factory=list[int])
    error_px: float = 0.0
    """Median distance of the fitted head from what was seen."""


def run(
    video: Path,
    out: Path,
    *,
    detector: Detector | None = None,
    tracker: HeadTracker | None = None,
    face: str = MAKEHUMAN_FACE,
    progress: Progress = silent,
) -> TrackReport:
    """Track the head in a video and write the tracking.

    Args:
        video: The video.
        out: The file to write.
        detector: Finds faces; the face mesh if not given.
        tracker: Follows and fits the head; one of the `face` if not given.
        face: The head that is told of: `makehuman`, or a converted FLAME model.
        progress: Told after each frame.

    Raises:
        InputError: If it is not a video with frames, or the FLAME model cannot be used.
        CameraError: If no frame shows a face.
        MissingWeightsError: If the detector's weights are not on this machine.
    """
    model = face_model(face)
    capture = VideoCapture(video)
    try:
        count = len(capture.timesteps)
        found = get_detector(DETECTOR).make() if detector is None else detector
        tracker = tracker or HeadTracker(face=model)
        followed = tracker.follow(_frames(capture), found, lambda i, _: progress(i, count))
        first = capture.view(capture.timesteps[0], CAMERA).image
        try:
            head, frames = tracker.fit_video(followed, (first.shape[1], first.shape[0]))
        except CameraError as error:
            raise CameraError(f"{video}: {error.problem}", error.remedy) from error
        write_track(out, head, frames, followed.cuts, capture.fps)
    finally:
        capture.close()
    empty = [i for i, one in enumerate(followed.seen) if one is None]
    middle = sorted(head.bundle.errors.tolist())[len(frames) // 2]
    return TrackReport(count, empty, followed.cuts, middle)


def _frames(capture: VideoCapture) -> Iterator[Rgb]:
    for step in capture.timesteps:
        yield capture.view(step, CAMERA).image
