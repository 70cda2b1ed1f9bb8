"""Run the paper's model once at full size with random weights: saved, read back, forward, one step.

    python tools/measure_paper_model.py FOLDER [--json FILE]

FOLDER takes 1.6 GB. It shows that the real loading path works and what it costs; the pictures
mean nothing.
"""

# pyright: basic
import argparse
import json
import os
import resource
import time
from pathlib import Path

import torch

from pipeline.core.geometry import look_at
from pipeline.core.types import Camera, View
from pipeline.model.fastgha import FastGHA
from pipeline.model.hub import BACKBONES, VAE, load_backbone, load_vae
from pipeline.render import render
from pipeline.train.presets import recipe


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    os.environ["FASTGHA_WEIGHTS"] = str(options.folder)
    figures: dict[str, float] = {}

    def lap(name: str, start: float) -> None:
        figures[f"{name}_s"] = round(time.perf_counter() - start, 1)
        figures[f"{name}_peak_gb"] = round(
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2
        )
        print(name, figures[f"{name}_s"], "s, peak", figures[f"{name}_peak_gb"], "GB", flush=True)

    if not (options.folder / VAE).is_dir():
        start = time.perf_counter()
        load_vae(VAE, "random").save_pretrained(options.folder / VAE / "vae")
        load_backbone("dinov3", "", "random").save_pretrained(
            options.folder / BACKBONES["dinov3"].hub
        )
        lap("save", start)
    start = time.perf_counter()
    config = recipe("paper")
    model = FastGHA(config.model)
    lap("load", start)
    start = time.perf_counter()
    with torch.no_grad():
        head = model.reconstruct(_views(4, 512))
    lap("forward_4x512", start)
    figures["gaussians"] = len(head.gaussians)
    del head
    start = time.perf_counter()
    adam = torch.optim.Adam(model.parameters(), config.lr)
    views = _views(4, 256)
    prepared = model.prepare(model.reconstruct(views))
    drawn = render(model.animate(prepared, torch.zeros(120)), views.camera)
    loss = (drawn.color - views.image.permute(0, 2, 3, 1)).abs().mean()
    loss.backward()
    adam.step()
    lap("step_4x256", start)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def _views(count: int, size: int) -> View:
    torch.manual_seed(0)
    angles = torch.linspace(-0.6, 0.6, count)
    centers = torch.stack([angles.sin(), torch.zeros(count), angles.cos()], -1)
    K = torch.tensor([[2.0 * size, 0, size / 2], [0, 2.0 * size, size / 2], [0, 0, 1]])
    cameras = Camera(look_at(centers, torch.zeros(count, 3)), K.repeat(count, 1, 1), size, size)
    return View(torch.rand(count, 3, size, size), torch.ones(count, 1, size, size), cameras)


if __name__ == "__main__":
    main()
