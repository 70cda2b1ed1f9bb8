"""Fitting a light avatar to the frames of a video.

What is fitted is the baked form itself: Gaussians, and shapes that move and recolour them, weighted
by a linear map of the code. The result is as fast as any baked avatar. Beside it, each frame has
corrections of its own of pose, shape weights and exposure, which on the mean are nothing.

Letters: n Gaussians, r shapes, f frames that are fitted to, h w size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fidelity import sample_codes
from pipeline.avatar.learnt import Learnt, Rates
from pipeline.avatar.prune import blending
from pipeline.avatar.video import Footage
from pipeline.core.errors import ConfigError
from pipeline.core.types import Camera, ExpressionCode, Gaussians
from pipeline.losses import ssim
from pipeline.model.activate import CanonicalHead
from pipeline.model.baked import Baked
from pipeline.render import Rendering, render
from pipeline.render.reference import rotation_matrices

LOOKED_AT = 12
"""Frames of each kind that are drawn to tell the error on the way."""
DRAWN_AT = 256
"""Their size, pixels."""
GONE, SPLIT_BY = 0.01, 1.6
"""Opacity under which a Gaussian is dropped; how much smaller both halves of a split one are."""
ASIDE_DEG, NEAR_DEG = (20.0, 70.0), 25.0
"""How far to the side of a frame an avatar is held to its start with the frame's expression, and at
most with another one."""
HELD_AT, HELD_EVERY, EXPRESSIONS = 128, 2, 96
"""Pixels of that picture, steps after which it is drawn again, and other expressions."""
MOVES_M, RECOLORS = 2e-4, 1 / 255
"""A Gaussian whose shapes do less than both, for the codes of the video, is kept as a still one."""


@dataclass(frozen=True)
class FitConfig:
    """How an avatar is fitted to a video."""

    seconds: float = 120.0
    sizes: tuple[int, ...] = (128, 256)
    """Of the pictures, pixels, one stage after the other; those beyond the frames' are left out."""
    shares: tuple[float, ...] = (0.05, 0.95)
    """Of the time that each size gets."""
    gaussians: int = 20_000
    """At most."""
    growth: float = 0.1
    """Share of the Gaussians that is split at each look at where error stays."""
    splits: int = 2
    """Such looks in each stage but the last."""
    ssim: float = 0.3
    """Weight of 1 - SSIM beside the L1 terms of colour and silhouette."""
    silhouette: float = 0.5
    beside: float = 0.3
    """What neck and shoulders count: they move by themselves."""
    warm: float = 0.1
    """Share of the time before shapes change: until then, frames' poses take what is theirs."""
    hold: float = 0.01
    """Share of their change that shapes lose at each of their steps."""
    jitter: float = 0.5
    """Spread of what is added to the shape weights in each step, in theirs: a shape must not do
    more than it has to, or expressions beyond the video's come out as noise."""
    prior: float = 1e-3
    """Weight of what frames' corrections cost, in `PRIOR`'s units."""
    seen: float = 0.3
    """A Gaussian that makes so many pixels of a picture of 128, on the mean over frames, is held
    half to what it was; one that makes none does not change at all."""
    held: float = 0.3
    """Weight of what the avatar showed at the start from sides and with expressions that no frame
    shows: what frames see at a slant only would fit them in any shape, and shapes that are weighed
    as in no frame would be noise. 0 if the start knew nothing of them."""
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
    with torch.no_grad():
        run = _Run(avatar, footage, config, tell, clock)
        stopped = False
        try:
            run.work()
        except KeyboardInterrupt:
            stopped = True
    return run.kept, FitReport(tuple(run.looks), run.best, stopped)


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
        self.weights = self.mapping.weights(footage.codes.values)
        self.others = sample_codes(avatar.layout, EXPRESSIONS, config.seed)
        self.model = Learnt.of(still, shapes, len(self.rows))
        pixels = self._contributions()
        self.model.seen = pixels / (pixels + config.seen)
        self._known_beside: dict[tuple[int, int], Tensor] = {}
        self.looks: list[Look] = []
        self.best: Look
        self.kept: Avatar
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
        self.size, config = size, self.config
        pictures = _at(self.footage, size)
        errors = torch.zeros(len(self.model.seen))
        due = [begin + (end - begin) * (i + 1) / (splits + 1) for i in range(splits)]
        order: list[int] = []
        while (spent := self.spent()) < end:
            if due and spent >= due[0]:
                due.pop(0)
                self._split(errors)
                errors = torch.zeros(len(self.model.seen))
            if spent - self.looks[-1].seconds >= config.looks * config.seconds:
                self.look()
            if not order:
                self.model.settle()
                order = torch.randperm(len(self.rows), generator=self.generator).tolist()
            errors += self._step(order.pop(), pictures, spent / config.seconds)
            self.steps += 1

    def _step(self, frame: int, pictures: Tensor, done: float) -> Float[Tensor, "n"]:
        """Take a step on a frame; return how strongly it pulls at each Gaussian's place."""
        model, row = self.model, self.rows[frame]
        config = self.config
        weights = self.weights[row] + model.own["weights"][frame]
        if config.jitter:
            noise = torch.randn(len(weights), generator=self.generator)
            weights = weights + config.jitter * noise
        drawn = {k: v.detach().requires_grad_() for k, v in vars(model.moved(weights)).items()}
        own = {k: v[frame].clone().requires_grad_() for k, v in model.own.items()}
        with torch.enable_grad():
            loss = self._loss(Gaussians(**drawn), row, own, pictures)
            found = torch.autograd.grad(loss, [*drawn.values(), *own.values()])
        slopes = Gaussians(*found[: len(drawn)])
        by_own = dict(zip(own, found[len(drawn) :], strict=True))
        offsets = torch.cat([slopes.means, slopes.colors], 1).flatten()
        by_own["weights"] = by_own["weights"] + model.shapes.flatten(1) @ offsets
        self._learn(frame, slopes, by_own, done)
        self._bend(weights, slopes, done)
        if config.held and self.steps % HELD_EVERY == 0:
            aside = self.steps // HELD_EVERY % 2 == 0
            if aside or done >= config.warm:  # expressions hold shapes alone
                self._hold(frame, done, aside=aside)
        return slopes.means.norm(dim=1)

    def _hold(self, frame: int, done: float, *, aside: bool) -> None:
        """Take a step towards what the avatar showed at the start where no frame looks.

        Args:
            frame: Near whose camera.
            done: Share of the time that is over.
            aside: Whether to look from a side, with the frame's expression, or with another one.
        """
        model, row, config = self.model, self.rows[frame], self.config
        code, weights = self.footage.codes[row], self.weights[row]
        low, high = ASIDE_DEG if aside else (0.0, NEAR_DEG)
        far, sign, which = torch.rand(3, generator=self.generator).tolist()
        yaw = math.copysign(low + far * (high - low), sign - 0.5)
        if not aside:
            values = self.others[int(which * len(self.others))]
            code = ExpressionCode(values, self.avatar.layout)
            weights = self.mapping.weights(values[None])[0]
        camera = self.footage.cameras[row].resized(HELD_AT, HELD_AT)
        camera = replace(camera, world_to_camera=camera.world_to_camera @ _turn(yaw))
        wanted = self.avatar.render(code, camera)
        moved = {k: v.detach().requires_grad_() for k, v in vars(model.moved(weights)).items()}
        with torch.enable_grad():
            drawn = self._seen_by(Gaussians(**moved), camera)
            loss = (drawn.color - wanted.color.clamp(0, 1)).abs().mean()
            loss = loss + config.silhouette * (drawn.alpha - wanted.alpha).abs().mean()
            slopes = Gaussians(*torch.autograd.grad(config.held * loss, list(moved.values())))
        # The start knows how a face moves; how this one looks at rest, frames know better.
        if aside:
            self._learn(frame, slopes, {}, done)
        self._bend(weights, slopes, done)

    def _learn(self, frame: int, slopes: Gaussians, own: dict[str, Tensor], done: float) -> None:
        self.model.step(frame, slopes, own, self.config.rates, _fall(done))

    def _bend(self, weights: Float[Tensor, "r"], slopes: Gaussians, done: float) -> None:
        config = self.config
        if done >= config.warm:
            self.model.bend(weights, slopes, config.rates, _fall(done), config.hold)

    def _loss(
        self, moved: Gaussians, row: int, own: dict[str, Tensor], pictures: Tensor
    ) -> Float[Tensor, ""]:
        config, size = self.config, pictures.shape[-1]
        drawn = self._drawn(corrected(moved, own), row, size)
        truth = pictures[row].float() / 255
        known = _known(self.footage.inside[row], size)
        image = torch.where(known, drawn.color.permute(2, 0, 1), truth[:3])
        alpha = torch.where(known, drawn.alpha[..., 0], truth[3])
        beside = self._beside(row, size)
        worth = torch.where(beside, config.beside, 1.0)
        loss = ((image - truth[:3]).abs() * worth).mean()
        loss = loss + config.silhouette * ((alpha - truth[3]).abs() * worth).mean()
        if config.ssim:
            # Of brightness alone: structure is in it, and it is three times as fast.
            image = torch.where(beside, truth[:3], image)
            grey, wanted = image.mean(0)[None, None], truth[:3].mean(0)[None, None]
            loss = loss + config.ssim * (1 - ssim(grey, wanted))
        cost = torch.stack([(own[k] / sigma).square().mean() for k, sigma in PRIOR.items()])
        return loss + config.prior * cost.sum()

    def _beside(self, row: int, size: int) -> Bool[Tensor, "h w"]:
        """Tell which pixels show the person, but not the head."""
        key = (row, size)
        if key not in self._known_beside:
            shown = self.footage.views([row], size).alpha[0, 0] > 0.02
            high = self.footage.above_chin([row], size)[0, 0]
            self._known_beside[key] = shown & ~high
        return self._known_beside[key]

    def _drawn(self, moved: Gaussians, row: int, size: int) -> Rendering:
        return self._seen_by(moved, self.footage.cameras[row].resized(size, size))

    @staticmethod
    def _seen_by(moved: Gaussians, camera: Camera) -> Rendering:
        moved = replace(moved, colors=moved.colors.clamp(0, 1))
        return render(moved, camera, background=torch.ones(3))

    def look(self) -> None:
        """Draw some held-back frames, and keep the state if it is the best yet."""
        size = min(DRAWN_AT, self.footage.pixels.shape[-1])
        judged, unseen = (self._psnr(rows, size) for rows in (self.judges, self.unseen))
        now = Look(self.spent(), self.steps, self.size, len(self.model.seen), judged, unseen)
        self.looks.append(now)
        if len(self.looks) == 1 or not now.judged <= self.best.judged:
            self.best, self.kept = now, self.current()
        self.tell(now, self.current)

    def _psnr(self, rows: Sequence[int], size: int) -> float:
        if not rows:
            return float("nan")
        truth, head = self.footage.views(rows, size).image, self.footage.head(rows, size)
        drawn = [self._drawn(self.model.moved(self.weights[row]), row, size).color for row in rows]
        return float(psnr_where(torch.stack(drawn).permute(0, 3, 1, 2), truth, head).mean())

    def _contributions(self) -> Float[Tensor, "n"]:
        """Return how many pixels of a picture of 128 each Gaussian makes, on the mean."""
        total = torch.zeros(len(self.model.seen))
        rows = _spread(self.rows, 24)
        for row in rows:
            moved = self.model.moved(self.weights[row])
            total += blending(moved, self.footage.cameras[row].resized(128, 128))
        return total / max(len(rows), 1)

    def _split(self, errors: Float[Tensor, "n"]) -> None:
        """Split Gaussians where error stays, and drop those that have become nothing."""
        model, config = self.model, self.config
        gone = (torch.sigmoid(model.values["opacities"]) < GONE) & (model.seen > 0.5)
        room = config.gaussians - int((~gone).sum())
        count = max(min(int(config.growth * len(gone)), room), 0)
        # A Gaussian that is smaller than a pixel is as sharp as it can be.
        errors = errors * model.seen * model.values["scales"].amax(1).exp()
        chosen = torch.where(gone, 0.0, errors).topk(min(count, len(errors))).indices
        keep = torch.nonzero(~gone)[:, 0]
        place = torch.empty(len(gone), dtype=torch.long)
        place[keep] = torch.arange(len(keep))
        self.model = fresh = model.picked(torch.cat([keep, chosen]))
        halves = (place[chosen], len(keep) + torch.arange(len(chosen)))
        scales = fresh.values["scales"][halves[0]]
        turn = rotation_matrices(fresh.values["quats"][halves[0]])
        long = functional.one_hot(scales.argmax(1), 3)
        off = 0.5 * (turn * (long * scales.exp())[:, None]).sum(-1)
        for half, sign in zip(halves, (1.0, -1.0)):
            fresh.values["means"][half] += sign * off
            fresh.values["scales"][half] -= long * math.log(SPLIT_BY)

    def current(self) -> Avatar:
        """Return the state of this moment as an avatar."""
        return _packed(self.avatar, self.model, self.mapping, self.weights)


def corrected(moved: Gaussians, own: dict[str, Tensor]) -> Gaussians:
    """Return Gaussians turned, shifted and exposed as one frame has them."""
    turned = moved.means + torch.linalg.cross(own["turn"].expand_as(moved.means), moved.means)
    return replace(moved, means=turned + own["shift"], colors=moved.colors * own["exposure"].exp())


def _fall(done: float) -> float:
    """Return the factor of all rates after a share of the time."""
    return 0.1**done


def _turn(yaw: float) -> Float[Tensor, "4 4"]:
    """Return the motion that turns a head about its upright axis, degrees."""
    turn = torch.eye(4)
    turn[:3, :3] = torch.from_numpy(Rotation.from_euler("y", yaw, degrees=True).as_matrix())
    return turn


def psnr_where(
    drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"], where: Bool[Tensor, "v 1 h w"]
) -> Float[Tensor, "v"]:
    """Return the PSNR of some pixels of each picture, dB; at most 100."""
    square = ((drawn.clamp(0, 1) - truth).square() * where).sum((1, 2, 3))
    return -10 * (square / (3 * where.sum((1, 2, 3))).clamp(min=1)).clamp(min=1e-10).log10()


def _scaled(baked: Baked, codes: Float[Tensor, "f 120"]) -> tuple[Baked, Float[Tensor, "r"]]:
    """Return a map whose weights have a spread of one over some codes, and what they had."""
    with torch.no_grad():
        spread = baked.weights(codes).std(0).clamp(min=1e-4)
        found = Baked(replace(baked.config, moving=0))
        found.linear.weight.copy_(baked.linear.weight / spread[:, None])
        found.linear.bias.copy_(baked.linear.bias / spread)
    return found.eval().requires_grad_(False), spread


def _packed(avatar: Avatar, model: Learnt, mapping: Baked, weights: Float[Tensor, "m r"]) -> Avatar:
    """Return an avatar in which only those Gaussians have shapes that these do something to."""
    used = weights.square().mean(0).sqrt()[:, None]
    far = (model.shapes[..., :3].norm(dim=-1) * used).amax(0)
    hue = (model.shapes[..., 3:].abs().amax(-1) * used).amax(0)
    moving: Bool[Tensor, "n"] = (far > MOVES_M) | (hue > RECOLORS)
    order = torch.cat([torch.nonzero(moving)[:, 0], torch.nonzero(~moving)[:, 0]])
    m, values = int(moving.sum()), {k: v[order] for k, v in model.values.items()}
    still = Gaussians(
        values["means"], functional.normalize(values["quats"], dim=1), values["scales"].exp(),
        torch.sigmoid(values["opacities"]), values["colors"],
    )  # fmt: skip
    baked = Baked.of(mapping, model.shapes[:, order[:m]].contiguous(), torch.zeros(m, 6))
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
