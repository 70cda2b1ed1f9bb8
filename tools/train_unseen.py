"""Teach a model how far hair stands off the skin, and its colour, where no picture shows it.

In    SHARDS: folders of `fastgha prep synthetic`; a checkpoint whose other parts stay as they are
Out   OUT: that checkpoint with a new part `unseen`

The pictures of other cameras show, in training, what the inputs do not: each of their pixels is a
point of the head, over some cell of the skin. What the model knows of hidden cells is computed
once, two samples a second; to learn from it takes ten minutes. `fastgha train --from OUT --only
unseen` then fits opacities.
"""

# pyright: basic
import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy.spatial import KDTree
from torch.nn import functional

from pipeline.core.config import override
from pipeline.core.errors import FastGHAError
from pipeline.core.geometry import pixel_directions
from pipeline.io.tensors import write_tensors
from pipeline.model import unseen as parts
from pipeline.model.activate import kept
from pipeline.model.checkpoint import load, names, resolve
from pipeline.model.unseen import HIGHEST, REACH, Hidden, Unseen, colored, find_pixels, over_skin
from pipeline.shards.sampling import Sample, Samples
from pipeline.train import folder
from pipeline.train.checkpoint import Origin
from pipeline.train.config import RunConfig, TrainConfig
from pipeline.train.presets import recipe
from pipeline.train.step import make_model

SIDEWAYS, SLANT = 0.008, 0.25
"""Metres that a point over a cell may be beside its normal, and how much more by its height."""
SOLID = 0.7
RUNGS = 0.0025
"""Metres between the heights over a cell that are looked at for whether a camera sees past them."""
BEFORE = 0.004
"""Metres before what a pixel shows from which on there is nothing for sure."""
CELLS, PEOPLE = 600, 4
"""Cells of each of so many samples that a step learns from."""
DELTA_CM = 0.5
COLOR = 2.0
"""What a difference of colour of 1 counts, in centimetres."""
RATE = 2e-3


def truth(sample: Sample, hidden: Hidden) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the height and colour over each hidden cell as the targets show it; NaN if none do."""
    camera, points, colors = sample.targets.camera, [], []
    for i in range(len(camera)):
        depth = sample.depth[i, 0]
        solid = (depth > 0) & (sample.targets.alpha[i, 0] > SOLID)
        E = camera.world_to_camera[i]
        ahead = (pixel_directions(camera[i]) * depth)[:, solid].T
        points.append((ahead - E[:3, 3]) @ E[:3, :3])
        colors.append(sample.targets.image[i][:, solid].T)
    at, color = torch.cat(points).numpy(), torch.cat(colors).numpy()
    places, normals = hidden.places.numpy(), hidden.normals.numpy()
    cell = np.asarray(KDTree(places).query(at)[1])
    off = at - places[cell]
    height = (off * normals[cell]).sum(1)
    beside = np.linalg.norm(off - height[:, None] * normals[cell], axis=1)
    good = beside < SIDEWAYS + SLANT * np.abs(height)
    cell, height, color = cell[good], height[good], color[good]
    order = np.argsort(cell)
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    heights = np.full(len(places), np.nan, np.float32)
    shown = np.full((len(places), 3), np.nan, np.float32)
    for some in np.split(order, starts[1:]):
        heights[cell[some[0]]] = np.median(height[some])
        shown[cell[some[0]]] = color[some].mean(0)
    return torch.from_numpy(heights), torch.from_numpy(shown)


def roofs(sample: Sample, hidden: Hidden) -> torch.Tensor:
    """Return the lowest height over each hidden cell that a target sees past; infinite if none.

    Few cameras look at a nape, but many at what stands off it: learned from that alone, all napes
    would have hair.
    """
    rungs = torch.arange(-REACH, HIGHEST, RUNGS)
    points = hidden.places[:, None] + rungs[:, None] * hidden.normals[:, None]
    at = find_pixels(points.flatten(0, 1), sample.targets)
    shown = sample.depth[at.view, 0, at.row, at.column]
    past = at.empty | (at.inside & (shown > 0) & (at.ahead < shown - BEFORE))
    free = past.any(0).view(len(points), -1)
    return torch.where(free, rungs, torch.inf).amin(1)


Known = tuple[Hidden, torch.Tensor, torch.Tensor, torch.Tensor]
"""Hidden cells, their heights and colours (nan where unknown), and roofs (infinite likewise)."""


def collect(
    args: argparse.Namespace, config: TrainConfig, chosen: folder.TrainingSet
) -> list[Known]:
    """Return what the model knows of hidden cells in many samples, and the truth."""
    model = make_model(config, RunConfig(), torch.device("cpu"), chosen.layout)
    Origin(resolve(args.start), ("unseen",)).take_over(model, chosen.layout)
    model.eval().requires_grad_(False)
    samples = Samples(
        chosen.groups, config.sampling, config.resolutions, config.seed, 1,
        config.model.guide_stride,
    )  # fmt: skip
    found: list[Known] = []
    model.unseen = None
    began = time.time()
    for i in range(args.samples):
        sample = samples[i]
        if not isinstance(sample, Sample):
            raise sample
        head = model.reconstruct(sample.inputs, sample.guide)
        assert sample.guide is not None
        covered = sample.guide.coverage[:, 0][kept(sample.inputs, config.model)] > 0.5
        hidden = parts.find_hidden(
            head[: len(covered)], sample.guide, sample.inputs.camera, covered
        )
        if hidden is None:
            continue
        height, color = truth(sample, hidden)
        roof = roofs(sample, hidden)
        known = torch.isfinite(height) | torch.isfinite(roof)
        few = replace(
            hidden,
            **{k: getattr(hidden, k)[known] for k in ("cells", "places", "normals", "color")},
            known=hidden.known[known].half(),
        )
        found.append((few, height[known], color[known], roof[known]))
        if i % 100 == 99:
            print(f"{i + 1} samples, {time.time() - began:.0f} s", flush=True)
    return found


def learn(net: Unseen, found: list[Known], steps: int) -> None:
    """Fit heights and colours; print the errors on samples that are kept apart."""
    apart = max(1, len(found) // 20)
    test, train = found[:apart], found[apart:]
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    rng = np.random.default_rng(0)

    def say(hidden: Hidden) -> tuple[torch.Tensor, torch.Tensor]:
        said = net.numbers(replace(hidden, known=hidden.known.float()))
        return over_skin(said.height)[:, 0], colored(hidden, said.share, said.hue)

    for step in range(steps):
        loss = torch.zeros(())
        for number in rng.integers(0, len(train), PEOPLE):
            hidden, height, color, roof = train[number]
            shown = torch.isfinite(height)
            some = torch.from_numpy(rng.integers(0, len(height), CELLS))
            few = replace(
                hidden,
                **{k: getattr(hidden, k)[some] for k in ("cells", "known", "color")},
                person=hidden.person + 0.05 * torch.randn_like(hidden.person),
            )
            high, hue = say(few)
            # Of what no camera shows it is known how high it is not.
            below = torch.minimum(high.detach(), roof[some])
            aim = torch.where(shown[some], height[some], below)
            loss = loss + functional.huber_loss(100 * high, 100 * aim, delta=DELTA_CM)
            off = torch.where(shown[some, None], hue - color[some], 0.0)
            loss = loss + COLOR * off.abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 500 == 499 or step == steps - 1:
            with torch.no_grad():
                off, hues, over = zip(*[
                    (high - height, (hue - color).abs().mean(1), (high - roof)[height.isnan()])
                    for hidden, height, color, roof in test
                    for high, hue in [say(hidden)]
                ])  # fmt: skip
            off, hues, over = (torch.cat(x) for x in (off, hues, over))
            print(
                f"step {step + 1}: heights off by {1000 * off.nanmean():+.2f} mm, "
                f"{1000 * off.square().nanmean().sqrt():.2f} rms, colours by {hues.nanmean():.3f}; "
                f"over roofs by {1000 * over.clamp(min=0).mean():.2f}",
                flush=True,
            )  # fmt: skip


def main() -> None:
    """Collect, learn, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path, nargs="+")
    parser.add_argument("-o", dest="out", type=Path, required=True)
    parser.add_argument("--from", dest="start", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--inputs", type=int, default=3, help="pictures of a person at most")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)  # not found out after an hour
    torch.manual_seed(args.seed)
    net = Unseen(recipe("small").model.gaussian_features)
    config = recipe("small")
    # What is known of hidden cells is another thing in smaller pictures: heights learned at half
    # the size were 4 mm too high.
    config = override(
        config, [f"sizes=[{config.model.image_size}]", f"steps=[{args.samples}]",
                 f"sampling.inputs={args.inputs}", f"seed={args.seed}"]
    )  # fmt: skip
    chosen = folder.find(args.shards, config, allow_test=False)
    learn(net, collect(args, config, chosen), args.steps)
    checkpoint = load(resolve(args.start))
    tensors = {
        k: v
        for k, v in checkpoint.tensors.items()
        if k.startswith("model.") and not k.startswith("model.unseen.")
    }
    tensors |= {f"model.unseen.{k}": v for k, v in net.state_dict().items()}
    made = {
        **checkpoint.header,
        "model": {**checkpoint.header["model"], "unseen": True},
        # Whom the heights were learned from must not be measured either.
        "people": sorted(names(checkpoint.header, "people") | set(chosen.people)),
    }
    write_tensors(args.out, tensors, made)


if __name__ == "__main__":
    try:
        main()
    except FastGHAError as error:
        raise SystemExit(f"error: {error.problem}\n  try: {error.remedy}") from None
