"""Train the network that looks at eyes, on drawn people.

In    SHARDS: a folder of `fastgha prep synthetic`
Out   OUT: eyes.safetensors; what it errs by on people held back, printed

    python tools/train_eyes.py runs/train runs/eyes --minutes 15
"""

# pyright: basic
import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from train_points import IDENTITY, nll, numbers

from pipeline.core.geometry import project
from pipeline.faces.makehuman import load_asset
from pipeline.io.tensors import write_tensors
from pipeline.perception.eyes import GAZE_UNIT, KIND, VERSION, EyesNet, faced, squares
from pipeline.perception.landmarks import MIRROR
from pipeline.shards.reader import Shard, find_shards
from pipeline.tracking.models import MakeHumanFace

HELD_BACK = 40
"""People that the network never sees."""
SHARED, OWN = 0.03, 0.012
"""How far off the points are at which it looks, over the face's size: all together, and each."""
NUMBERS = slice(41, 47)
"""Gaze and lids among the numbers of a face."""


def take(folder: Path, pictures: int) -> tuple[torch.Tensor, ...]:
    """Return squares [p, n, 2, 3, s, s] (8 bit), landmarks and numbers of some views of people."""
    rng = np.random.default_rng(0)
    model, marks_of = MakeHumanFace(), load_asset().landmarks
    flat = model._basis.reshape(IDENTITY, -1).double().numpy()
    basis = (model._mean.double().numpy().ravel(), np.linalg.pinv(flat))
    eyes, marks, facts = [], [], []
    begin = time.time()
    for done, path in enumerate(find_shards(folder)):
        shard = Shard(path)
        mesh = shard._file["vertices"][:][:, marks_of]
        known = numbers(shard.code(list(range(shard.timesteps))), shard.neutral, basis)
        for _ in range(pictures):
            t, v = int(rng.integers(shard.timesteps)), int(rng.integers(shard.views))
            points = project(shard.cameras(t)[v], torch.from_numpy(mesh[t]).float())[0]
            points = points.double().numpy()
            size = float(np.ptp(points, axis=0).max())
            points += size * (rng.normal(0, SHARED, 2) + rng.normal(0, OWN, (68, 2)))
            cut, angle = squares(shard._picture("rgb", (t, v), 1).convert("RGB"), points)
            eyes.append((cut * 255).astype(np.uint8))
            marks.append(faced(points, angle))
            facts.append(known[t, NUMBERS])
        shard.close()
        if done % 100 == 0:
            print(f"{done} people, {time.time() - begin:.0f} s", flush=True)
    found = torch.from_numpy(np.stack(eyes)).permute(0, 1, 4, 2, 3).contiguous()
    wanted = torch.from_numpy(np.stack(facts)).float()
    wanted[:, :4] /= GAZE_UNIT
    return found, torch.from_numpy(np.stack(marks)), wanted


def mirrored(eyes: torch.Tensor, marks: torch.Tensor, facts: torch.Tensor) -> tuple:
    """Return the same faces in a mirror."""
    marks = marks[:, torch.from_numpy(MIRROR)] * torch.tensor([-1.0, 1.0])
    sign = torch.tensor([1.0, -1, 1, -1, 1, 1])
    return eyes.flip(1), marks, facts[:, [2, 3, 0, 1, 5, 4]] * sign


def worsen(eyes: torch.Tensor) -> torch.Tensor:
    """Change colours and light, blur, shrink, add noise."""
    n, s = len(eyes), eyes.shape[-1]

    def each(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(n, *shape, 1, 1)

    x = eyes.float() / 255
    x = x.clamp(1e-3) ** each(0.6, 1.6, 1, 1) * each(0.5, 1.4, 1, 1) * each(0.85, 1.15, 1, 3)
    grey = x.mean(2, keepdim=True)
    x = grey + (x - grey) * each(0.0, 1.4, 1, 1)
    slope = torch.linspace(-1, 1, s)
    x = x * (1 + each(-0.4, 0.4, 1, 1) * slope) * (1 + each(-0.3, 0.3, 1, 1) * slope[:, None])
    for small in (14, 20, 28):
        some = torch.rand(n) < 0.15
        if some.any():
            flat = x[some].flatten(0, 1)
            flat = functional.interpolate(flat, (small, small), mode="area")
            flat = functional.interpolate(flat, (s, s), mode="bilinear")
            x[some] = flat.unflatten(0, (-1, 2))
    return (x + each(0, 0.05, 1, 1) * torch.randn_like(x)).clamp(0, 1)


def main() -> None:
    """Train for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--pictures", type=int, default=18, help="of each person")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rate", type=float, default=2e-3)
    args = parser.parse_args()
    torch.manual_seed(0)
    eyes, marks, facts = take(args.shards, args.pictures)
    back = HELD_BACK * args.pictures
    test, train = slice(0, back), slice(back, None)
    net = EyesNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=1e-3)
    begin, step = time.time(), 0
    known = [x[train] for x in (eyes, marks, facts)]
    while (done := (time.time() - begin) / (60 * args.minutes)) < 1:
        rate = args.rate * min(1, (step + 1) / 100) * (0.5 * (1 + np.cos(np.pi * done)) + 0.003)
        optimizer.param_groups[0]["lr"] = rate
        index = torch.randint(len(known[0]), (args.batch,))
        batch = [x[index] for x in known]
        if step % 2:
            batch = mirrored(*batch)
        mean, log = net(worsen(batch[0]), batch[1])
        loss = nll((mean - batch[2]) ** 2, log, 1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        if step % 200 == 0:
            say(net, step, time.time() - begin, eyes[test], marks[test], facts[test])
    args.out.mkdir(parents=True, exist_ok=True)
    kept = {name: value.half() for name, value in net.state_dict().items()}
    header = {"format": KIND, "version": VERSION, "step": step}
    write_tensors(args.out / "eyes.safetensors", kept, header)
    say(net, step, time.time() - begin, eyes[test], marks[test], facts[test])


@torch.no_grad()
def say(net: EyesNet, step: int, seconds: float, *known: torch.Tensor) -> None:
    """Print what the network errs by."""
    eyes, marks, facts = known
    mean, log = net(eyes.float() / 255, marks)
    off = (mean - facts).abs()
    scaled = off / log.exp()
    gaze = np.degrees(GAZE_UNIT) * off[:, :4]
    shut, open_ = facts[:, 4:] > 0.8, facts[:, 4:] < 0.2
    seen = mean[:, 4:] > 0.5
    print(
        f"{step} {seconds:.0f} s  gaze median {gaze.median():.1f} deg, pitch "
        f"{gaze[:, ::2].mean():.1f}, yaw {gaze[:, 1::2].mean():.1f}; lids "
        f"{off[:, 4:].mean():.3f}, shut seen "
        f"{seen[shut].float().mean():.0%}, open {1 - seen[open_].float().mean():.0%}; "
        f"off over sigma {scaled[:, :4].mean():.2f}, {scaled[:, 4:].mean():.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
