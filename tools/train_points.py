"""Train the network that sees where the head model's vertices stand, on drawn people.

In    SHARDS: a folder of `fastgha prep synthetic`; the features of MobileNetV2 (`fastgha weights`)
Out   OUT: points.safetensors, checkpointed on the way

Heads are put before other backgrounds, on shoulders, under caps and behind glasses, and the
pictures made worse in the ways that cameras and files do.
"""

# pyright: basic
import argparse
import io
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from safetensors.torch import load_file
from scipy.spatial import ConvexHull, cKDTree
from torch import nn

from pipeline.core.errors import FormatError
from pipeline.core.geometry import project
from pipeline.core.types import ExpressionCode
from pipeline.faces.layouts import JAW_OPEN, JAW_SIDE, code_to_arkit, gaze_angles
from pipeline.faces.makehuman import load_asset, load_texture
from pipeline.io.tensors import write_tensors
from pipeline.perception.mobilenet import MobileNetV2
from pipeline.perception.points import KIND, MARGIN, SIDE, VERSION, PointsNet, without_norms
from pipeline.perception.pretrained import read_state
from pipeline.shards.reader import Shard, find_shards
from pipeline.system import weights
from pipeline.system.assets import HEAD
from pipeline.tracking.models import MakeHumanFace

See = Callable[[np.ndarray], np.ndarray]
"""From points of the head frame to pixels of the square."""
SKIN_POINTS, EXPRESSIONS, IDENTITY = 300, 39, 60
FROZEN = 4
"""First blocks that keep ImageNet's weights."""


def choose_vertices() -> tuple[np.ndarray, np.ndarray]:
    """Return the vertices to see, and which of them make the face's box.

    The landmarks, vertices spread evenly over the head and twice as densely over the face, and of
    each eyeball its pole and a ring.
    """
    asset = load_asset()
    mean, chin = asset.mean, asset.mean[asset.landmarks[8]]
    used = (
        np.unique(asset.skin.refs)
        if asset.skin.refs.size
        else np.flatnonzero(np.asarray((asset.smooth != 0).sum(0)).ravel())
    )
    eyes = np.concatenate([asset.left_eye, asset.right_eye])
    used = np.setdiff1d(used, eyes)
    used = used[mean[used, 1] > chin[1] - 0.03]
    chosen = list(dict.fromkeys(asset.landmarks.tolist()))
    density = np.where(mean[used, 2] > -0.045, 2.0, 1.0)
    far = cKDTree(mean[chosen]).query(mean[used])[0] * density
    while len(chosen) < SKIN_POINTS:
        best = int(far.argmax())
        chosen.append(int(used[best]))
        far = np.minimum(far, np.linalg.norm(mean[used] - mean[used[best]], axis=1) * density)
    for ids in (asset.left_eye, asset.right_eye):
        ball = mean[ids]
        out = (ball - ball.mean(0)) / np.linalg.norm(ball - ball.mean(0), axis=1, keepdims=True)
        chosen.append(int(ids[out[:, 2].argmax()]))
        ring = np.flatnonzero((out[:, 2] > 0.75) & (out[:, 2] < 0.97))
        around = np.arctan2(out[ring, 1], out[ring, 0])
        for angle in np.arange(8) * np.pi / 4:
            chosen.append(int(ids[ring[np.cos(around - angle).argmax()]]))
    ids = np.array(list(dict.fromkeys(chosen)))
    at = mean[ids]
    face = (at[:, 2] > -0.045) & (at[:, 1] > chin[1] - 0.01) & (at[:, 1] < 0.07)
    return ids, face


def numbers(
    code: ExpressionCode, neutral: np.ndarray, basis: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return expression, jaw and gaze in radians, lids, and identity of codes [t]."""
    w = code_to_arkit(code).double().numpy()
    jaw = np.stack([JAW_OPEN * w[:, 17], JAW_SIDE * (w[:, 15] - w[:, 16])], 1)
    eyes = [gaze_angles(w, side)[:, :2] for side in ("Left", "Right")]
    who = np.broadcast_to((neutral.ravel() - basis[0]) @ basis[1], (len(w), IDENTITY))
    return np.concatenate(
        [code.values[:, :EXPRESSIONS].numpy(), np.radians(jaw), *map(np.radians, eyes),
         w[:, [0, 7]], who], 1,
    ).astype(np.float32)  # fmt: skip


class Pictures:
    """Draws squares of drawn people, made harder."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.folder = folder
        self.ids, self.face = choose_vertices()
        model = MakeHumanFace()
        flat = model._basis.reshape(IDENTITY, -1).double().numpy()
        self.basis = (model._mean.double().numpy().ravel(), np.linalg.pinv(flat))
        self.asset = load_asset()
        names = sorted(p.name for p in (HEAD / "textures").iterdir())
        self.textures = [load_texture(n)[..., :3] for n in names if n[:4] in ("skin", "hair")][::2]
        self.textures = [np.asarray(Image.fromarray(t).resize((512, 512))) for t in self.textures]
        self.recent: list[np.ndarray] = []
        self.backdrops: list[np.ndarray] = []
        self.open: dict[Path, tuple] = {}
        self.paths = find_shards(folder)

    def person(self) -> tuple:
        """Return a random person's shard and what is known of it; the last ones stay open."""
        if len(self.open) < 40 or self.rng.random() < 0.05:
            if self.rng.random() < 0.02:
                self.paths = find_shards(self.folder)  # it may still be growing
            path = self.paths[int(self.rng.integers(len(self.paths)))]
            if path not in self.open:
                try:
                    shard = Shard(path)
                except FormatError:
                    return self.person()
                t = range(shard.timesteps)
                mesh = shard._file["vertices"][:]
                facts = numbers(shard.code(list(t)), shard.neutral, self.basis)
                self.open[path] = (shard, mesh, facts)
                if len(self.open) > 160:
                    self.open.pop(next(iter(self.open)))[0].close()
            return self.open[path]
        return self.open[list(self.open)[int(self.rng.integers(len(self.open)))]]

    def item(self, hard: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a square [SIDE, SIDE, 3], its points [p, 2] and the numbers."""
        rng = self.rng
        shard, mesh, facts = self.person()
        t, v = int(rng.integers(shard.timesteps)), int(rng.integers(shard.views))
        camera = shard.cameras(t)[v]

        def pixels(points: np.ndarray) -> np.ndarray:
            return project(camera, torch.from_numpy(points.astype(np.float32)))[0].numpy()

        marks = pixels(mesh[t][self.ids])
        low, high = marks[self.face].min(0), marks[self.face].max(0)
        size = float((high - low).max())
        middle = (low + high) / 2 + size * rng.normal(0, 0.05, 2)
        side = size * MARGIN * np.exp(rng.normal(0, 0.09))
        angle = rng.normal(0, np.radians(9))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        step = turn * side / SIDE
        corner = middle - step @ np.full(2, SIDE / 2)

        def local(points: np.ndarray) -> np.ndarray:
            return (points - corner) @ np.linalg.inv(step).T

        rgb = np.asarray(shard._picture("rgb", (t, v), 1)).astype(np.int16)
        alpha = np.asarray(shard._picture("alpha", (t, v), 1)).astype(np.int16)
        solid = np.clip(rgb - 255 + alpha[..., None], 0, 255)
        image = Image.fromarray(np.dstack([solid, alpha]).astype(np.uint8))
        data = (*step[0].tolist(), float(corner[0]), *step[1].tolist(), float(corner[1]))
        head = np.asarray(
            image.transform((SIDE, SIDE), Image.Transform.AFFINE, data, Image.Resampling.BILINEAR),
            np.float32,
        )
        picture = self.known_backdrop()
        if rng.random() < 0.8:
            self.shoulders(picture, lambda p: local(pixels(p)), mesh[t])
        picture = np.asarray(picture, np.float32)
        picture = picture * (1 - head[..., 3:] / 255) + head[..., :3]
        seen = local(marks)
        if hard:
            picture = self.dress(picture, lambda p: local(pixels(p)), mesh[t])
            picture = self.worsen(picture)
        square = picture.clip(0, 255).astype(np.uint8)
        if rng.random() < 0.1:
            self.recent = [*self.recent[-60:], square]
        return square, (seen / (SIDE / 2) - 1).astype(np.float32), facts[t]

    def known_backdrop(self) -> Image.Image:
        """Return a background that is new, or an old one mirrored and in other colours."""
        rng = self.rng
        if len(self.backdrops) < 400 or rng.random() < 0.1:
            image = self.backdrop()
            if len(self.backdrops) == 400:
                self.backdrops.pop(int(rng.integers(400)))
            self.backdrops.append(np.asarray(image))
            return image
        old = self.backdrops[int(rng.integers(len(self.backdrops)))]
        old = old[:: int(rng.choice([-1, 1])), :: int(rng.choice([-1, 1]))][..., rng.permutation(3)]
        return Image.fromarray(np.ascontiguousarray(old))

    def backdrop(self) -> Image.Image:
        """Return a background."""
        rng = self.rng
        kind = rng.random()
        base = rng.uniform(0, 255, 3)
        y, x = np.mgrid[:SIDE, :SIDE] / SIDE
        slope = rng.normal(0, 60, (2, 3))
        out = base + slope[0] * x[..., None] + slope[1] * y[..., None]
        if kind < 0.12:
            out = np.full_like(out, 255.0 if rng.random() < 0.6 else rng.uniform(0, 255))
        elif kind < 0.5:  # noise of all scales
            for cells in (3, 6, 12, 24, 48):
                grey = rng.normal(0, 1, (cells, cells, 1)) + 0.5 * rng.normal(
                    0, 1, (cells, cells, 3)
                )
                small = np.clip(128 + 40 * grey, 0, 255).astype(np.uint8)
                big = Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                out += (np.asarray(big, float) - 128) * rng.uniform(0, 1.3) * (3 / cells) ** 0.4
        elif kind < 0.65:
            part = self.textures[int(rng.integers(len(self.textures)))]
            size = int(rng.integers(60, 400))
            a, b = rng.integers(0, 512 - size, 2)
            piece = Image.fromarray(part[a : a + size, b : b + size]).resize((SIDE, SIDE))
            out = np.asarray(piece, float) * rng.uniform(0.4, 1.4, 3)
        elif kind < 0.75 and self.recent:
            other = self.recent[int(rng.integers(len(self.recent)))]
            scale, shift = rng.uniform(0.4, 1.5), rng.uniform(-SIDE, SIDE, 2)
            image = Image.fromarray(other).transform(
                (SIDE, SIDE), Image.Transform.AFFINE, (scale, 0, shift[0], 0, scale, shift[1])
            )
            out = np.where(np.asarray(image).sum(-1, keepdims=True) > 0, np.asarray(image), out)
        image = Image.fromarray(out.clip(0, 255).astype(np.uint8))
        if rng.random() < 0.6:
            draw = ImageDraw.Draw(image)
            for _ in range(int(rng.integers(1, 10))):
                colour = tuple(rng.integers(0, 256, 3).tolist())
                middle, reach = rng.uniform(0, SIDE, 2), rng.uniform(4, 70)
                if rng.random() < 0.5:
                    corners = middle + rng.normal(0, reach, (int(rng.integers(3, 6)), 2))
                    draw.polygon([tuple(c) for c in corners.tolist()], fill=colour)
                else:
                    wide = reach * rng.uniform(0.2, 1.5)
                    draw.ellipse(
                        (middle[0] - wide, middle[1] - reach, middle[0] + wide, middle[1] + reach),
                        fill=colour,
                    )
        if rng.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 5))))
        return image

    def shoulders(self, picture: Image.Image, see: See, mesh: np.ndarray) -> None:
        """Draw what a person wears, behind the head."""
        rng = self.rng
        chin = mesh[self.asset.landmarks[8]]
        top, wide = chin[1] - rng.uniform(0.02, 0.09), rng.uniform(0.16, 0.28)
        neck, drop, back = rng.uniform(0.05, 0.075), rng.uniform(0.02, 0.09), rng.uniform(-0.08, 0)
        lean = rng.normal(0, 0.02)
        half = [(neck * 0.8, 0.0), (neck, -0.01), (wide * 0.8, -drop), (wide, -drop - 0.06),
                (wide * 1.05, -0.5)]  # fmt: skip
        body = [(lean - x, top + y, back) for x, y in half[::-1]]
        body += [(lean + x, top + y, back) for x, y in half]
        # The skin of the neck goes down to the collar.
        skin = tuple((rng.uniform(0.3, 1, 1) * np.array([235, 190, 165])).astype(int).tolist())
        draw = ImageDraw.Draw(picture)
        low = [(-neck, chin[1] - 0.2, back), (-neck, chin[1], back), (neck, chin[1], back),
               (neck, chin[1] - 0.2, back)]  # fmt: skip
        draw.polygon([tuple(c) for c in see(np.array(low)).tolist()], fill=skin)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        corners = [tuple(c) for c in see(np.array(body)).tolist()]
        draw.polygon(corners, fill=colour)
        if rng.random() < 0.4:  # an open collar
            deep = rng.uniform(0.03, 0.15)
            cut = [(-neck, top, 0.0), (neck, top, 0.0), (lean, top - deep, 0.02)]
            draw.polygon([tuple(c) for c in see(np.array(cut)).tolist()], fill=skin)
        if rng.random() < 0.4:
            mask = Image.new("L", (SIDE, SIDE))
            ImageDraw.Draw(mask).polygon(corners, fill=int(rng.integers(40, 200)))
            part = self.textures[int(rng.integers(len(self.textures)))]
            cloth = Image.fromarray(part).resize((SIDE, SIDE))
            picture.paste(cloth, (0, 0), mask)

    def dress(self, picture: np.ndarray, see: See, mesh: np.ndarray) -> np.ndarray:
        """Put a cap, glasses or something else before the head, now and then."""
        rng = self.rng
        image = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image, "RGBA")
        marks = mesh[self.asset.landmarks]
        if rng.random() < 0.12:  # glasses
            eyes = marks[36:42].mean(0), marks[42:48].mean(0)
            wide, high = rng.uniform(0.022, 0.032), rng.uniform(0.016, 0.026)
            around = np.linspace(0, 2 * np.pi, 20)
            frame = (*rng.integers(0, 120, 3).tolist(), 255)
            fill = (*rng.integers(0, 80, 3).tolist(), int(rng.choice([0, 0, 30, 120, 230])))
            line = int(rng.integers(1, 4))
            rings = []
            for eye in eyes:
                ring = eye + np.stack(
                    [wide * np.cos(around), high * np.sin(around) - 0.003, 0 * around + 0.012], 1
                )
                rings.append(see(ring))
                draw.polygon([tuple(c) for c in rings[-1].tolist()], fill=fill)
                draw.line([tuple(c) for c in rings[-1].tolist()], fill=frame, width=line)
            draw.line([tuple(rings[0][0].tolist()), tuple(rings[1][10].tolist())],
                      fill=frame, width=line)  # fmt: skip
        if rng.random() < 0.08:  # a cap or a high fringe
            level = marks[19:25, 1].mean() + rng.uniform(0.015, 0.06)
            around = np.linspace(0, 2 * np.pi, 24)
            rim = np.stack([0.085 * np.cos(around), np.full(24, level),
                            0.1 * np.sin(around) - 0.01], 1)  # fmt: skip
            crown = rim * [0.8, 1, 0.8] + [0, rng.uniform(0.06, 0.12), 0]
            dots = see(np.concatenate([rim, crown]))
            hull = dots[ConvexHull(dots).vertices]
            draw.polygon(
                [tuple(c) for c in hull.tolist()], fill=(*rng.integers(0, 256, 3).tolist(), 255)
            )
        if rng.random() < 0.15:  # a hand, a microphone, hair
            middle, reach = rng.uniform(0, SIDE, 2), rng.uniform(5, 28)
            corners = middle + rng.normal(0, reach, (int(rng.integers(3, 7)), 2))
            draw.polygon(
                [tuple(c) for c in corners.tolist()], fill=(*rng.integers(0, 256, 3).tolist(), 255)
            )
        return np.asarray(image, np.float32)

    def worsen(self, picture: np.ndarray) -> np.ndarray:
        """Change light and colours, blur, shrink, add noise, store as JPEG."""
        rng = self.rng
        x = picture * np.float32(1 / 255)
        if rng.random() < 0.3:  # light from one side
            y, z = np.mgrid[:SIDE, :SIDE].astype(np.float32) / SIDE - 0.5
            around = rng.uniform(0, 2 * np.pi)
            x = (
                x
                * np.exp(rng.normal(0, 0.7) * (np.cos(around) * y + np.sin(around) * z))[..., None]
            )
        x = x.clip(0, 1) ** np.exp(rng.normal(0, 0.25))
        x = x * np.exp(rng.normal(0, 0.15, 1) + rng.normal(0, 0.07, 3)).astype(np.float32)
        grey = x.mean(-1, keepdims=True)
        colour = 0.0 if rng.random() < 0.08 else np.exp(rng.normal(0, 0.25))
        x = grey + (x - grey) * colour
        middle = x.mean()
        x = middle + (x - middle) * np.exp(rng.normal(0, 0.15)) + rng.normal(0, 0.03)
        image = Image.fromarray((x * 255).clip(0, 255).astype(np.uint8))
        if rng.random() < 0.25:
            size = int(rng.integers(48, SIDE))
            image = image.resize((size, size), Image.Resampling.BILINEAR).resize((SIDE, SIDE))
        if rng.random() < 0.25:
            image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.3, 1.6))))
        x = np.asarray(image, np.float32)
        if rng.random() < 0.5:
            x = x + rng.uniform(1, 14) * rng.standard_normal(x.shape, np.float32)
        if rng.random() < 0.3:
            buffer = io.BytesIO()
            Image.fromarray(x.clip(0, 255).astype(np.uint8)).save(
                buffer, "JPEG", quality=int(rng.integers(25, 95))
            )
            x = np.asarray(Image.open(buffer), np.float32)
        return x


def regions(ids: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return points that move with an expression, and those that they are seen against."""
    asset = load_asset()
    out = []
    for marks, ball in ((slice(36, 42), asset.right_eye), (slice(42, 48), asset.left_eye)):
        lids = np.arange(68)[marks]
        out += [(lids, lids), (np.flatnonzero(np.isin(ids, ball)), lids)]
    mouth = np.arange(48, 68)
    return [*out, (mouth, mouth), (np.arange(5, 12), mouth), (np.arange(17, 27), np.arange(17, 48))]


def supply(folder: Path, seed: int, batch: int, queue: Any) -> None:
    """Put batches into a queue, for ever."""
    torch.set_num_threads(1)
    pictures = Pictures(folder, seed)
    while True:
        items = [pictures.item() for _ in range(batch)]
        queue.put([np.stack(part) for part in zip(*items, strict=True)])


def nll(miss: torch.Tensor, log: torch.Tensor, dims: int) -> torch.Tensor:
    """Return the negative logarithm of a normal density, weighted so that hard ones count.

    Source: Seitzer et al., On the Pitfalls of Heteroscedastic Uncertainty Estimation, ICLR 2022.
    """
    loss = 0.5 * miss * torch.exp(-2 * log) + dims * log
    return (loss * torch.exp(log.detach())).mean()


def fresh(first: Pictures) -> tuple[PointsNet, torch.Tensor, torch.Tensor]:
    """Return a network that has seen ImageNet alone, and mean and spread of the numbers."""
    items = [first.item(hard=False)[1:] for _ in range(800)]
    points, facts = (np.stack(part) for part in zip(*items, strict=True))
    flat = points.reshape(len(points), -1)
    mean = flat.mean(0)
    net = PointsNet(len(first.ids), facts.shape[1])
    source = MobileNetV2()
    state = read_state(weights.find("mobilenet_v2"), "MobileNetV2")
    source.load_state_dict({name: state[name] for name in source.state_dict()})
    net.features = without_norms(source.eval().features)
    _, size, rows = np.linalg.svd(flat - mean, full_matrices=False)
    m = net.modes.out_features
    modes = rows[:m] * (size[:m, None] / np.sqrt(len(flat)))
    with torch.no_grad():
        net.places.weight.copy_(torch.from_numpy(modes.T))
        net.places.bias.copy_(torch.from_numpy(mean))
        nn.init.normal_(net.modes.weight, 0, 0.02)
        nn.init.zeros_(net.modes.bias)
        nn.init.zeros_(net.spread.weight)
        net.spread.bias.fill_(np.log(0.1))
        nn.init.normal_(net.numbers.weight, 0, 0.01)
        nn.init.zeros_(net.numbers.bias)
    return net, torch.from_numpy(facts.mean(0)), torch.from_numpy(facts.std(0) + 1e-6)


def main() -> None:
    """Train for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--start", type=Path, help="weights to go on from")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw squares")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    first = Pictures(args.shards, 1)
    if args.start:
        known = load_file(args.start)
        centre, unit = known["centre"], known["unit"]
        net = PointsNet(len(first.ids), len(centre))
        net.load_state_dict({name: known[name].float() for name in net.state_dict()})
    else:
        net, centre, unit = fresh(first)
    net.features[:FROZEN].requires_grad_(False)
    parts = regions(first.ids)
    net = net.to(device=device, memory_format=torch.channels_last)
    centre, unit = centre.to(device), unit.to(device)
    old = [p for p in net.features.parameters() if p.requires_grad]
    new = [p for part in (net.squeeze, net.hidden, net.modes, net.spread, net.numbers)
           for p in part.parameters()]  # fmt: skip
    slow = list(net.places.parameters())
    groups = [{"params": old, "lr": 0.25}, {"params": new, "lr": 1.0}, {"params": slow, "lr": 0.02}]
    for group in groups:
        group["share"] = group["lr"]
    optimizer = torch.optim.AdamW(groups, lr=args.rate, weight_decay=1e-4)
    context = get_context("spawn")
    queue = context.Queue(4 + 4 * args.workers)
    workers = [
        context.Process(target=supply, args=(args.shards, 2 + i, args.batch, queue), daemon=True)
        for i in range(args.workers)
    ]
    for worker in workers:
        worker.start()
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}

    def save(step: int) -> None:
        facts_out = {"format": KIND, "version": VERSION, "step": step}
        kept = {name: value.half().cpu() for name, value in average.items()}
        kept |= {"vertices": torch.from_numpy(first.ids), "face": torch.from_numpy(first.face),
                 "centre": centre.cpu(), "unit": unit.cpu()}  # fmt: skip
        write_tensors(args.out / "points.safetensors", kept, facts_out)

    begin, step, log = time.time(), 0, []
    while (done := (time.time() - begin) / (60 * args.minutes)) < 1:
        rate = args.rate * min(1, (step + 1) / 60) * (0.5 * (1 + np.cos(np.pi * done)) + 0.003)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        rgb, points, facts = (torch.from_numpy(part).to(device) for part in queue.get())
        with torch.autocast(device.type, torch.bfloat16):
            guess = net(rgb.permute(0, 3, 1, 2).float() / 255)
        miss = ((guess.points - points) ** 2).sum(-1)
        wanted = (facts - centre) / unit
        off = (guess.numbers - wanted) ** 2
        state_part = nll(off[:, :47], guess.numbers_log[:, :47], 1)
        who_part = nll(off[:, 47:], guess.numbers_log[:, 47:], 1)
        # Lids, irises, lips and brows within their own surroundings: where the head stands is much
        # larger than what a face does.
        near = guess.points - points
        local = torch.cat([near[:, own] - near[:, about].mean(1, keepdim=True)
                           for own, about in parts], 1).abs().mean()  # fmt: skip
        loss = 10 * (nll(miss, guess.points_log, 2) + local) + state_part + 0.3 * who_part
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        step += 1
        keep = min(0.99, 1 - 1 / (step + 1)) if step < 300 else 0.99
        for name, value in net.state_dict().items():
            average[name].lerp_(value, 1 - keep)
        parts_off = [off[:, a:b].mean() for a, b in ((0, 39), (41, 45), (45, 47), (47, 67))]
        pixels = [miss.sqrt().mean() * SIDE / 2, local * SIDE / 2]
        log.append(torch.stack([x.detach() for x in (*pixels, *parts_off)]))
        if step % 50 == 0:
            row = torch.stack(log[-50:]).mean(0).tolist()
            print(f"{step} {time.time() - begin:.0f} s  {row[0]:.2f} px, {row[1]:.2f} px local  "
                  f"expr {row[2]:.2f} gaze {row[3]:.2f} lids {row[4]:.2f} who {row[5]:.2f}",
                  flush=True)  # fmt: skip
            save(step)
    save(step)
    for worker in workers:
        worker.terminate()


if __name__ == "__main__":
    main()
