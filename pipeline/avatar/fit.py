"""Fitting a light avatar to the frames of a video.

What is fitted is the baked form itself: Gaussians, and shapes that move and recolour them, weighted
by a linear map of the code. The result is as fast as any baked avatar. Beside it, each frame has
corrections of its own of pose, shape weights and exposure, which on the mean are nothing.

Letters: n Gaussians, r shapes, f frames that are fitted to, h w size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.video import Footage
from pipeline.core.errors import ConfigError
from pipeline.core.types import Camera, Gaussians, View
from pipeline.losses import ssim
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked
from pipeline.render import render
from pipeline.render.reference import rotation_matrices

LOOKED_AT = 12
"""Frames of each kind that are drawn to tell the error on the way."""
DRAWN_AT = 256
"""Their size, pixels."""
GONE, SPLIT_BY = 0.01, 1.6
"""Opacity under which a Gaussian is dropped; how much smaller both halves of a split one are."""
MOVES_M, RECOLORS = 2e-4, 1 / 255
"""A Gaussian whose shapes do less than both, for the codes of the video, is kept as a still one."""


@dataclass(frozen=True)
class Rates:
    """How far a step of the optimiser goes at the start; all fall to a tenth by the end."""

    means: float = 2e-4
    """Metres."""
    quats: float = 2e-3
    scales: float = 1e-2
    """Of the logarithm."""
    opacities: float = 3e-2
    """Of the logit."""
    colors: float = 5e-3
    motion: float = 4e-5
    """Metres, of a shape at a weight of one standard deviation."""
    recolor: float = 1e-3
    turn: float = 2e-4
    """Radians, of a frame's pose."""
    shift: float = 1e-4
    """Metres, of a frame's pose."""
    weights: float = 5e-3
    """Standard deviations, of a frame's shape weights."""
    exposure: float = 1e-3
    """Of the logarithm."""


@dataclass(frozen=True)
class FitConfig:
    """How an avatar is fitted to a video."""

    seconds: float = 120.0
    sizes: tuple[int, ...] = (128, 256, 512)
    """Of the pictures, pixels, one stage after the other; those beyond the frames' are left out."""
    shares: tuple[float, ...] = (0.35, 0.45, 0.2)
    """Of the time that each size gets."""
    gaussians: int = 24_000
    """At most."""
    growth: float = 0.1
    """Share of the Gaussians that is split at each look at where error stays."""
    splits: int = 2
    """Such looks in each stage but the last."""
    ssim: float = 0.3
    """Weight of 1 - SSIM beside the L1 terms of colour and silhouette."""
    silhouette: float = 0.5
    prior: float = 1e-3
    """Weight of what frames' corrections cost, in `PRIOR`'s units."""
    seen: float = 0.3
    """A Gaussian that makes so many pixels of a picture of 128, on the mean over frames, is held
    half to what it was; one that makes none does not change at all."""
    looks: float = 0.04
    """Share of the time between looks at the held-back frames."""
    rates: Rates = field(default_factory=Rates)
    seed: int = 0


PRIOR = {"turn": 0.01, "shift": 0.002, "weights": 0.3, "exposure": 0.05}
"""Standard deviations of the frames' corrections: radians, metres, those of weights, logarithm."""


@dataclass(frozen=True)
class Look:
    """How good the avatar is at a moment of the fit."""

    seconds: float
    steps: int
    size: int
    gaussians: int
    judged: float
    """PSNR of the head, dB, of frames among the fitted ones that were held back. It chooses the
    state that is kept."""
    unseen: float
    """The same, of the end of the video. It chooses nothing."""


@dataclass(frozen=True)
class FitReport:
    """How it went."""

    looks: tuple[Look, ...]
    best: Look
    stopped: bool
    """Whether it was ended from outside before its time."""

    @property
    def steps_per_s(self) -> float:
        """Steps a second, over all."""
        last = self.looks[-1]
        return last.steps / max(last.seconds, 1e-9)


Tell = Callable[[Look, Callable[[], Avatar]], None]


def fit(
    avatar: Avatar,
    footage: Footage,
    config: FitConfig = FitConfig(),
    *,
    tell: Tell = lambda look, now: None,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[Avatar, FitReport]:
    """Fit a baked avatar to the frames of a video that may be fitted to.

    What no frame shows stays exactly as it is. The state that is best on the held-back frames among
    the others is given back, also where the fit is interrupted (KeyboardInterrupt).

    Args:
        avatar: A baked one.
        footage: The video.
        config: How.
        tell: Told of each look, with a function that gives the avatar of that moment.
        clock: Seconds; the clock decides when a stage ends.

    Raises:
        ConfigError: If the avatar is not baked, or of another layout than the video's codes.
    """
    if not isinstance(avatar.deformation, Baked) or avatar.deformation.hidden is not None:
        raise ConfigError("Only a linear baked avatar is fitted.", "Make it with `light`.")
    if avatar.layout != footage.codes.layout:
        raise ConfigError(
            f"The avatar takes codes of {avatar.layout}, the video has {footage.codes.layout}.",
            "Take a model of the tracked head.",
        )
    with torch.enable_grad():
        run = _Run(avatar, footage, config, tell, clock)
        stopped = False
        try:
            run.work()
        except KeyboardInterrupt:
            stopped = True
    return run.result(), FitReport(tuple(run.looks), run.best, stopped)


class _Model:
    """What is learnt, as changes of a start, and the start itself."""

    def __init__(
        self,
        still: Gaussians,
        motion: Float[Tensor, "r n 3"],
        recolor: Float[Tensor, "r n 3"],
        seen: Float[Tensor, "n"],
        frames: int,
    ) -> None:
        n, r = len(still), len(motion)
        self.start = {
            "means": still.means,
            "quats": functional.normalize(still.quats, dim=1),
            "scales": still.scales.clamp(min=1e-5).log(),
            "opacities": torch.logit(still.opacities.clamp(1e-3, 1 - 1e-3)),
            "colors": still.colors,
            "motion": motion,
            "recolor": recolor,
        }
        self.seen = seen
        """How freely each Gaussian changes, in [0, 1]."""
        self.change = {k: torch.zeros_like(v, requires_grad=True) for k, v in self.start.items()}
        self.own = {
            "turn": torch.zeros(frames, 3, requires_grad=True),
            "shift": torch.zeros(frames, 3, requires_grad=True),
            "weights": torch.zeros(frames, r, requires_grad=True),
            "exposure": torch.zeros(frames, 3, requires_grad=True),
        }
        assert n == len(seen)

    def optimiser(self, rates: Rates) -> torch.optim.Adam:
        """Return a new optimiser of all changes."""
        groups = [{"params": [v], "lr": getattr(rates, k), "start": getattr(rates, k)}
                  for k, v in (*self.change.items(), *self.own.items())]  # fmt: skip
        return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, foreach=True)

    def now(self) -> dict[str, Tensor]:
        """Return start and change together, as they are learnt."""
        return {
            k: v + self.change[k] * (self.seen if v.ndim == 1 else self.seen[:, None])
            for k, v in self.start.items()
        }

    def own_of(self, frame: int) -> dict[str, Tensor]:
        """Return a frame's corrections; their mean over the frames is nothing."""
        return {k: v[frame] - v.mean(0).detach() for k, v in self.own.items()}

    def moved(self, now: dict[str, Tensor], weights: Float[Tensor, "r"]) -> Gaussians:
        """Return the Gaussians under shape weights."""
        motion = torch.einsum("r,rnc->nc", weights, now["motion"])
        recolor = torch.einsum("r,rnc->nc", weights, now["recolor"])
        return Gaussians(
            now["means"] + motion,
            now["quats"],
            now["scales"].exp(),
            torch.sigmoid(now["opacities"]),
            (now["colors"] + recolor).clamp(0, 1),
        )

    @torch.no_grad()
    def picked(self, index: Tensor, frames: int) -> _Model:
        """Return a model that starts from some of the Gaussians as they are now."""
        now = self.now()
        still = Gaussians(
            now["means"][index], now["quats"][index], now["scales"][index].exp(),
            torch.sigmoid(now["opacities"][index]), now["colors"][index],
        )  # fmt: skip
        motion, recolor = now["motion"][:, index], now["recolor"][:, index]
        fresh = _Model(still, motion, recolor, self.seen[index], frames)
        for name, value in self.own.items():
            fresh.own[name].copy_(value)
        return fresh


class _Run:
    """One fit: its state between steps."""

    def __init__(
        self,
        avatar: Avatar,
        footage: Footage,
        config: FitConfig,
        tell: Tell,
        clock: Callable[[], float],
    ) -> None:
        self.avatar, self.footage, self.config = avatar, footage, config
        self.tell, self.clock = tell, clock
        self.rows = footage.supervise
        self.judges = _spread(footage.judges, LOOKED_AT)
        self.unseen = _spread(footage.unseen, LOOKED_AT)
        baked = avatar.deformation
        assert isinstance(baked, Baked)
        self.mapping, spread = _scaled(baked, footage.codes.values[list(self.rows)])
        m = baked.config.moving
        still = avatar.canonical
        shapes = torch.zeros(len(baked.shapes), len(still), 6)
        shapes[:, :m] = baked.shapes * spread[:, None, None]
        mean = torch.zeros(len(still), 6)
        mean[:m] = baked.mean
        still = replace(still, means=still.means + mean[:, :3], colors=still.colors + mean[:, 3:])
        with torch.no_grad():
            self.weights = self.mapping.weights(footage.codes.values)
        ones = torch.ones(len(still))
        model = _Model(still, shapes[..., :3].clone(), shapes[..., 3:].clone(), ones,
                       len(self.rows))  # fmt: skip
        pixels = self._contributions(model)
        model.seen = pixels / (pixels + config.seen)
        self.model = model
        self.looks: list[Look] = []
        self.best: Look
        self.kept: tuple[dict[str, Tensor], Tensor]
        self.steps, self.size = 0, min(config.sizes)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.begun = clock()
        self.look()

    def spent(self) -> float:
        """Return the seconds since the start."""
        return self.clock() - self.begun

    def work(self) -> None:
        """Go through all stages."""
        config = self.config
        most = self.footage.pixels.shape[-1]
        stages = [(s, w) for s, w in zip(config.sizes, config.shares) if s <= most]
        stages = stages or [(most, 1.0)]
        total, end = sum(w for _, w in stages), 0.0
        for number, (size, share) in enumerate(stages):
            begin, end = end, end + config.seconds * share / total
            last = number == len(stages) - 1
            self._stage(size, begin, end, 0 if last else config.splits)
        if self.looks[-1].steps != self.steps:
            self.look()

    def _stage(self, size: int, begin: float, end: float, splits: int) -> None:
        self.size = size
        pictures = _at(self.footage, size)
        adam = self.model.optimiser(self.config.rates)
        errors = torch.zeros(len(self.model.seen))
        due = [begin + (end - begin) * (i + 1) / (splits + 1) for i in range(splits)]
        order: list[int] = []
        while (spent := self.spent()) < end:
            if due and spent >= due[0]:
                due.pop(0)
                self._split(errors)
                adam = self.model.optimiser(self.config.rates)
                errors = torch.zeros(len(self.model.seen))
            if spent - self.looks[-1].seconds >= self.config.looks * self.config.seconds:
                self.look()
            for group in adam.param_groups:
                group["lr"] = group["start"] * 0.1 ** (spent / self.config.seconds)
            if not order:
                order = torch.randperm(len(self.rows), generator=self.generator).tolist()
            frame = order.pop()
            loss = self._loss(frame, pictures)
            adam.zero_grad(set_to_none=True)
            loss.backward()
            slope = self.model.change["means"].grad
            assert slope is not None
            errors += slope.norm(dim=1)
            adam.step()
            self.steps += 1

    def _loss(self, frame: int, pictures: Tensor) -> Tensor:
        config, row = self.config, self.rows[frame]
        own = self.model.own_of(frame)
        drawn = self._drawn(row, pictures.shape[-1], own)
        truth = pictures[row].float() / 255
        known = _known(self.footage.inside[row], pictures.shape[-1])
        image = torch.where(known, drawn.color.permute(2, 0, 1), truth[:3])
        alpha = torch.where(known, drawn.alpha[..., 0], truth[3])
        loss = (image - truth[:3]).abs().mean()
        loss = loss + config.silhouette * (alpha - truth[3]).abs().mean()
        if config.ssim:
            loss = loss + config.ssim * (1 - ssim(image[None], truth[None, :3]))
        cost = sum((own[k] / sigma).square().mean() for k, sigma in PRIOR.items())
        return loss + config.prior * cost

    def _drawn(self, row: int, size: int, own: dict[str, Tensor] | None = None):
        model = self.model
        weights = self.weights[row]
        now = model.now()
        moved = model.moved(now, weights if own is None else weights + own["weights"])
        if own is not None:
            turned = moved.means + torch.linalg.cross(own["turn"].expand_as(moved.means),
                                                      moved.means)  # fmt: skip
            moved = replace(moved, means=turned + own["shift"],
                            colors=moved.colors * own["exposure"].exp())  # fmt: skip
        camera = self.footage.cameras[row].resized(size, size)
        return render(moved, camera, background=torch.ones(3))

    @torch.no_grad()
    def look(self) -> None:
        """Draw some held-back frames, and keep the state if it is the best yet."""
        size = min(DRAWN_AT, self.footage.pixels.shape[-1])
        judged, unseen = (self._psnr(rows, size) for rows in (self.judges, self.unseen))
        now = Look(self.spent(), self.steps, self.size, len(self.model.seen), judged, unseen)
        self.looks.append(now)
        if len(self.looks) == 1 or now.judged > self.best.judged:
            self.best = now
            self.kept = ({k: v.clone() for k, v in self.model.now().items()}, self.model.seen)
        self.tell(now, self.current)

    def _psnr(self, rows: Sequence[int], size: int) -> float:
        if not rows:
            return float("nan")
        truth = self.footage.views(rows, size)
        errors = [
            head_error(self._drawn(row, size).color.permute(2, 0, 1), truth[n])
            for n, row in enumerate(rows)
        ]
        return float(torch.stack([-10 * e.clamp(min=1e-10).log10() for e in errors]).mean())

    def _contributions(self, model: _Model) -> Float[Tensor, "n"]:
        """Return how many pixels of a picture of 128 each Gaussian makes on the mean over frames."""
        total = torch.zeros(len(model.seen))
        rows = _spread(self.rows, 24)
        for row in rows:
            with torch.no_grad():
                moved = model.moved(model.now(), self.weights[row])
            total += blending(moved, self.footage.cameras[row].resized(128, 128))
        return total / max(len(rows), 1)

    @torch.no_grad()
    def _split(self, errors: Float[Tensor, "n"]) -> None:
        """Split Gaussians where error stays, and drop those that have become nothing."""
        model, config = self.model, self.config
        now = model.now()
        gone = (torch.sigmoid(now["opacities"]) < GONE) & (model.seen > 0.5)
        room = config.gaussians - int((~gone).sum())
        count = max(min(int(config.growth * len(gone)), room), 0)
        # A Gaussian that is smaller than a pixel is as sharp as it can be.
        errors = torch.where(gone, 0.0, errors * model.seen * now["scales"].amax(1).exp())
        chosen = errors.topk(min(count, len(errors))).indices
        keep = torch.nonzero(~gone)[:, 0]
        fresh = model.picked(torch.cat([keep, chosen]), len(self.rows))
        place = torch.empty(len(gone), dtype=torch.long)
        place[keep] = torch.arange(len(keep))
        halves = torch.stack([place[chosen], len(keep) + torch.arange(len(chosen))])
        scales = fresh.start["scales"][halves[0]].exp()
        turn = rotation_matrices(fresh.start["quats"][halves[0]])
        long = scales.argmax(1)
        axis = turn.gather(2, long[:, None, None].expand(-1, 3, 1))[..., 0]
        off = 0.5 * axis * scales.amax(1, keepdim=True)
        for half, sign in zip(halves, (1.0, -1.0)):
            fresh.start["means"][half] += sign * off
            fresh.start["scales"][half] -= torch.nn.functional.one_hot(long, 3) * torch.log(
                torch.tensor(SPLIT_BY)
            )
        self.model = fresh

    @torch.no_grad()
    def current(self) -> Avatar:
        """Return the state of this moment as an avatar."""
        return _packed(self.avatar, self.model.now(), self.mapping, self.weights)

    @torch.no_grad()
    def result(self) -> Avatar:
        """Return the best state as an avatar."""
        now, _ = self.kept
        return _packed(self.avatar, now, self.mapping, self.weights)


def head_error(drawn: Float[Tensor, "3 h w"], truth: View) -> Float[Tensor, ""]:
    """Return the mean square error of the pixels that the head covers by more than half."""
    head = truth.alpha > 0.5
    return ((drawn.clamp(0, 1) - truth.image).square() * head).sum() / (3 * head.sum()).clamp(min=1)


def blending(gaussians: Gaussians, camera: Camera) -> Float[Tensor, "n"]:
    """Return how many pixels of a picture each Gaussian makes: its blending weights added up."""
    # A picture's sum is linear in the colours, so its gradient is the blending weights.
    with torch.enable_grad():
        ones = torch.ones(len(gaussians), 1).requires_grad_()
        drawn = render(replace(gaussians, colors=ones), camera, background=torch.zeros(1))
        (found,) = torch.autograd.grad(drawn.color.sum(), ones)
    return found[:, 0]


def _scaled(baked: Baked, codes: Float[Tensor, "f 120"]) -> tuple[Baked, Float[Tensor, "r"]]:
    """Return a map whose weights have a spread of one over some codes, and what they had."""
    with torch.no_grad():
        spread = baked.weights(codes).std(0).clamp(min=1e-4)
        found = Baked(replace(baked.config, moving=0))
        found.linear.weight.copy_(baked.linear.weight / spread[:, None])
        found.linear.bias.copy_(baked.linear.bias / spread)
    return found.eval().requires_grad_(False), spread


def _packed(
    avatar: Avatar, now: dict[str, Tensor], mapping: Baked, weights: Float[Tensor, "m r"]
) -> Avatar:
    """Return an avatar in which only those Gaussians have shapes that these do something to."""
    used = weights.square().mean(0).sqrt()
    far = (now["motion"].norm(dim=-1) * used[:, None]).amax(0)
    hue = (now["recolor"].abs().amax(-1) * used[:, None]).amax(0)
    moving: Bool[Tensor, "n"] = (far > MOVES_M) | (hue > RECOLORS)
    order = torch.cat([torch.nonzero(moving)[:, 0], torch.nonzero(~moving)[:, 0]])
    m = int(moving.sum())
    still = Gaussians(
        now["means"][order], functional.normalize(now["quats"], dim=1)[order],
        now["scales"].exp()[order], torch.sigmoid(now["opacities"])[order],
        now["colors"].clamp(0, 1)[order],
    )  # fmt: skip
    shapes = torch.cat([now["motion"], now["recolor"]], -1)[:, order[:m]]
    baked = Baked.of(mapping, shapes.contiguous(), torch.zeros(m, 6))
    head = CanonicalHead(still, torch.zeros(len(order), 0))
    return Avatar(head, baked, avatar.layout, dict(avatar.made), avatar.precision)


def _at(footage: Footage, size: int) -> Tensor:
    """Return the frames at a size, as bytes."""
    if size == footage.pixels.shape[-1]:
        return footage.pixels
    small = [
        functional.interpolate(part.float(), (size, size), mode="area").round().to(torch.uint8)
        for part in footage.pixels.split(16)
    ]
    return torch.cat(small)


def _known(inside: Float[Tensor, "4"], size: int) -> Bool[Tensor, "h w"]:
    """Tell which pixels of a crop its frame shows."""
    left, top, right, bottom = (inside * size).tolist()
    at = torch.arange(size) + 0.5
    return ((at > top) & (at < bottom))[:, None] & ((at > left) & (at < right))


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """Return at most so many rows, evenly over all."""
    if len(rows) <= most:
        return list(rows)
    at = torch.linspace(0, len(rows) - 1, most).round().int().tolist()
    return [rows[i] for i in at]

