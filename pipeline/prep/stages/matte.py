"""Stage: cut the head from its background where the data set ships no matte.

Heads in photographs and videos, whose cameras are estimated, are cut out of the whole picture and
end at the neck, as `fastgha avatar` does it.

Out   work/<capture>/matte/<timestep>.npz   rgb: JPEG on white; alpha: PNG; empty where the crop
      has its matte already
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.arrays import Alpha, Matte, Rgb
from pipeline.faces.guide import TrackedMesh
from pipeline.io.images import decode, encode_jpeg, encode_png
from pipeline.io.sheets import to_bytes
from pipeline.perception.device import networks_on
from pipeline.perception.matting import MattingModel
from pipeline.prep.codes import MAKEHUMAN_FACE, head_of
from pipeline.prep.items import Item, load_item, save_item
from pipeline.prep.photos import CropConfig, cut_head
from pipeline.prep.plan import Job
from pipeline.prep.stages.crop import camera_of


def cut_out(image: Rgb, inside: Alpha, matting: MattingModel) -> tuple[Rgb, Matte]:
    """Return the person of a picture on white, and the matte.

    Args:
        image: A crop, with its background.
        inside: 1 where the picture is, 0 where only its repeated edge is: nobody is there.
        matting: Gives how much of each pixel the person covers.
    """
    cover = np.round(matting(image) * inside * 255).astype(np.uint8)
    share = cover[..., None] / np.float32(255)
    return np.round(image * share + 255 * (1 - share)).astype(np.uint8), cover


@dataclass
class MatteStage:
    """Mattes all views of a timestep; the network is loaded when the first picture needs it."""

    job: Job
    _matting: MattingModel | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the network behind: a worker loads its own."""
        return {**self.__dict__, "_matting": None}

    def __call__(self, key: tuple[str, int]) -> None:
        """Make the item of one timestep."""
        crops = load_item(self.job.path("crop", *key))
        plan, config = self.job.plans[key[0]], self.job.config
        rgb, alpha = ([b""] * len(plan.cameras) for _ in range(2))
        dropped: dict[str, str] = {}
        for v, camera in enumerate(plan.cameras):
            data, shipped = crops.pictures["rgb"][v], crops.pictures["alpha"][v]
            if not data:
                continue
            if not self.job.reader.calibrated:
                on_white, cover = self._head(key, camera)
                rgb[v], alpha[v] = encode_jpeg(on_white), encode_png(cover)
            elif shipped:
                cover = np.asarray(decode(shipped))
            else:
                image = np.asarray(decode(data).convert("RGB"))
                inside = np.asarray(decode(crops.pictures["inside"][v])) / np.float32(255)
                on_white, cover = cut_out(image, inside, self._network)
                rgb[v], alpha[v] = encode_jpeg(on_white), encode_png(cover)
            if cover.mean() < 255 * config.min_cover:
                rgb[v] = alpha[v] = b""
                dropped[camera] = f"the head covers {cover.mean() / 255:.1%} of the crop"
        pictures = {"rgb": tuple(rgb), "alpha": tuple(alpha)}
        save_item(self.job.path("matte", *key), Item({}, pictures, dropped))

    def _head(self, key: tuple[str, int], camera: str) -> tuple[Rgb, Matte]:
        """Return the head in a picture whose camera was estimated, on white, and its matte."""
        capture, step = self.job.capture(key[0]), self.job.plans[key[0]].timesteps[key[1]]
        track = load_item(self.job.path("track", *key)).arrays
        raw = capture.view(step, camera)
        head = head_of(self.job.config.face or MAKEHUMAN_FACE)
        mesh = TrackedMesh(head.layout, track["neutral"], track["vertices"][None])
        view = cut_head(
            raw,
            camera_of(raw.image, track["world_to_camera"][0], track["K"][0]),
            mesh,
            self.job.config.size,
            self._network,
            CropConfig(size=self.job.config.metres),
            head,
        )
        return to_bytes(view.image), to_bytes(view.alpha)[..., 0]

    def _network(self, image: Rgb) -> Alpha:
        """Matte a picture; the network is loaded the first time."""
        if self._matting is None:
            with networks_on(self.job.device):
                self._matting = self.job.matting()
        return self._matting(image)
