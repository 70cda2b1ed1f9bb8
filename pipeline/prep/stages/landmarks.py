"""Stage: 68 landmarks in every raw picture; where our own fit follows, all points of the tracker.

Out   work/<capture>/landmarks/<timestep>.npz   points [v 68 2], pixels of the raw picture, nan
      where no face was found; sizes [v 2], width and height; notes: by camera, why there is none.
      Where no camera is known or our own fit is asked for, also what `seen_arrays` gives, if there
      is a face. Without cameras, then also focal [1], pixels, nan where unknown; thumbnail [18 32]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.captures.capture import RawView
from pipeline.core.arrays import Rgb
from pipeline.core.errors import FastGHAError, InputError
from pipeline.perception.device import networks_on
from pipeline.perception.landmarks import Detector, Face
from pipeline.perception.points import PointsSeen, seen_arrays
from pipeline.prep.items import Item, save_item
from pipeline.prep.photos import Picture, find_face
from pipeline.prep.plan import Job
from pipeline.tracking.tracker import HeadTracker, thumbnail


@dataclass
class LandmarksStage:
    """Finds landmarks; the network is loaded when the first item comes."""

    job: Job
    _detector: Detector | None = None
    _tracker: HeadTracker | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the networks behind: a worker loads its own."""
        return {**self.__dict__, "_detector": None, "_tracker": None}

    def __call__(self, key: tuple[str, int]) -> None:
        """Make the item of one timestep."""
        plan = self.job.plans[key[0]]
        capture, step = self.job.capture(key[0]), plan.timesteps[key[1]]
        points = np.full((len(plan.cameras), 68, 2), np.nan, np.float32)
        sizes = np.zeros((len(plan.cameras), 2), np.int32)
        notes: dict[str, str] = {}
        seen: list[PointsSeen | None] = [None] * len(plan.cameras)
        more: dict[str, np.ndarray] = {}
        free = not self.job.reader.calibrated
        for v, camera in enumerate(plan.cameras):
            if self.job.detector is None:
                break
            if self._detector is None:
                with networks_on(self.job.device):
                    self._detector = self.job.detector.make()
            if not capture.has(step, camera):
                continue
            try:
                image = capture.view(step, camera).image
            except FastGHAError:
                continue  # the crop stage says why
            sizes[v] = image.shape[1], image.shape[0]
            try:
                face = self._face(image, self._detector)
            except InputError as error:
                notes[camera] = error.problem
                continue
            points[v] = face.landmarks
            if free or self.job.config.face:
                seen[v] = self._sees.see(image, face)
            if free:
                focal = capture.focal(step)
                more["focal"] = np.array([np.nan if focal is None else focal])
                more["thumbnail"] = thumbnail(image)
        arrays = {"points": points, "sizes": sizes, **seen_arrays(seen), **more}
        save_item(self.job.path("landmarks", *key), Item(arrays, notes=notes))

    def _face(self, image: Rgb, detector: Detector) -> Face:
        """Return the face of a picture.

        Raises:
            InputError: If there is none; or of an unknown camera, none that is large enough.
        """
        if not self.job.reader.calibrated:
            return find_face(Picture("the picture", RawView(image, None, None)), detector)
        faces = detector(image)
        if not faces:
            raise InputError("no face was found", "Nothing is to be done.")
        return max(faces, key=lambda face: face.size)

    @property
    def _sees(self) -> HeadTracker:
        if self._tracker is None:
            self._tracker = HeadTracker(detector=self.job.detector or "mesh")
        return self._tracker
