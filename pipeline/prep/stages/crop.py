"""Stage: a square around the head from every raw picture, with its camera of the head frame.

Out   work/<capture>/crop/<timestep>.npz   rgb: JPEG on white where the data set ships a matte,
      else PNG with its background; alpha: PNG, the shipped matte; inside: PNG, where the picture
      is, if there is no matte; world_to_camera [v 4 4], K [v 3 3] in pixels of the crop
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from pipeline.captures.capture import RawView
from pipeline.core.errors import FastGHAError
from pipeline.core.types import Camera
from pipeline.io.images import encode_jpeg, encode_png
from pipeline.prep import crop as cutting
from pipeline.prep.items import Item, load_item, save_item
from pipeline.prep.plan import Job


@dataclass
class Crop:
    """Crops all views of a timestep."""

    job: Job

    def __call__(self, key: tuple[str, int]) -> None:
        """Make the item of one timestep."""
        plan, capture = self.job.plans[key[0]], self.job.capture(key[0])
        step, size = plan.timesteps[key[1]], self.job.config.size
        tracked = load_item(self.job.path("track", *key))
        E, K = tracked.arrays["world_to_camera"], tracked.arrays["K"]
        rgb, alpha, inside = ([b""] * len(plan.cameras) for _ in range(3))
        cut_E, cut_K = np.full_like(E, np.nan), np.full_like(K, np.nan)
        dropped = dict(tracked.dropped)
        for v, camera in enumerate(plan.cameras):
            if "timestep" in dropped:
                break
            if not capture.has(step, camera):
                dropped.setdefault(camera, "there is no picture")
                continue
            if camera in dropped or not np.isfinite(E[v]).all():
                dropped.setdefault(camera, "its camera is not known")
                continue
            try:
                cut = self._cut(capture.view(step, camera), E[v], K[v])
            except FastGHAError as error:
                dropped[camera] = error.problem
                continue
            assert cut.camera is not None
            cut_E[v] = cut.camera.world_to_camera.double().numpy()
            cut_K[v] = cut.camera.K.double().numpy()
            if cut.alpha is None:
                rgb[v], inside[v] = encode_png(cut.image), encode_png(cut.inside)
            else:
                rgb[v], alpha[v] = encode_jpeg(cut.image), encode_png(cut.alpha)
        arrays = {"world_to_camera": cut_E, "K": cut_K}
        pictures = {"rgb": tuple(rgb), "alpha": tuple(alpha), "inside": tuple(inside)}
        notes = {"size": str(size)}
        save_item(self.job.path("crop", *key), Item(arrays, pictures, dropped, notes))

    def _cut(self, view: RawView, E: np.ndarray, K: np.ndarray) -> cutting.Crop:
        height, width = view.image.shape[:2]
        head = Camera(torch.from_numpy(E), torch.from_numpy(K), width, height)
        box = cutting.square_at_head(head, self.job.config.metres)
        return cutting.crop(replace(view, camera=head), box, self.job.config.size)
