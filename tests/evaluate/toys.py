"""A protocol on the toy shards, and what needs no network."""

from __future__ import annotations

from pipeline.evaluate.baselines import white_image
from pipeline.evaluate.metrics import Metrics, psnr, ssim
from pipeline.evaluate.protocol import Protocol

TOY = Protocol(
    "toy", "toy", "", (), inputs=2, same_expression=False, avatars=1, targets=6, size=32, seed=0,
    lpips="alex", csim="fr_feature", akd="face_mesh",
)  # fmt: skip


def plain() -> Metrics:
    return Metrics({"PSNR": "PSNR, dB", "SSIM": "SSIM"}, {}, {}, {"PSNR": psnr, "SSIM": ssim})


def white(seen):
    return white_image(seen.camera)
