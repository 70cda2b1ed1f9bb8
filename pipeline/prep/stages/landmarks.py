"""Stage: 68 landmarks in every raw picture.

Out   work/<capture>/landmarks/<timestep>.npz   points [v 68 2], pixels of the raw picture, nan
      where no face was found; sizes [v 2], width and height
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.errors import FastGHAError
from pipeline.perception.device import networks_on
from pipeline.perception.landmarks import Detector
from pipeline.prep.items import Item, save_item
from pipeline.prep.plan import Job


@dataclass
class LandmarksStage:
    """Finds landmarks; the network is loaded when the first item comes."""

    job: Job
    _detector: Detector | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network behind: a worker loads its own."""
        return {**self.__dict__, "_detector": None}

    def __call__(self, key: tuple[str, int]) -> None:
        """Make the item of one timestep."""
        plan = self.job.plans[key[0]]
        capture, step = self.job.capture(key[0]), plan.timesteps[key[1]]
        points = np.full((len(plan.cameras), 68, 2), np.nan, np.float32)
        sizes = np.zeros((len(plan.cameras), 2), np.int32)
        notes: dict[str, str] = {}
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
            faces = self._detector(image)
            if faces:
                points[v] = max(faces, key=lambda face: face.size).landmarks
            else:
                notes[camera] = "no face was found"
        item = Item({"points": points, "sizes": sizes}, notes=notes)
        save_item(self.job.path("landmarks", *key), item)
