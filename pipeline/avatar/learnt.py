"""What is learnt of an avatar that is fitted to a video, and the optimiser's steps.

Letters: n Gaussians, r shapes, f frames that are fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from pipeline.core.types import Gaussians

BETAS = (0.9, 0.99)
TOGETHER = 8
"""Frames after which the shapes take one step."""


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
    motion: float = 3e-5
    """Metres, of a shape at a weight of one standard deviation."""
    recolor: float = 1e-3
    turn: float = 5e-4
    """Radians, of a frame's pose."""
    shift: float = 2e-4
    """Metres, of a frame's pose."""
    weights: float = 1e-2
    """Standard deviations, of a frame's shape weights."""
    exposure: float = 2e-3
    """Of the logarithm."""


class Learnt:
    """What is learnt: Gaussians, their shapes, and what each frame has of its own."""

    def __init__(
        self,
        values: dict[str, Tensor],
        shapes: Float[Tensor, "r n 6"],
        seen: Float[Tensor, "n"],
        own: dict[str, Tensor],
    ) -> None:
        self.values = values
        """Means, quats, logarithms of scales, logits of opacities, colours."""
        self.shapes = shapes
        self._begun = shapes.clone()
        self.seen = seen
        """How freely each Gaussian changes, in [0, 1]."""
        self.own = own
        self._moments = {k: _moments(v) for k, v in (*values.items(), *own.items())}
        self._moments["shapes"] = _moments(shapes)
        self._steps = {k: torch.zeros(len(v), 1) for k, v in own.items()}
        self._late: list[tuple[Tensor, Tensor]] = []
        self._count, self._shape_count = 0, 0

    @staticmethod
    def of(still: Gaussians, shapes: Float[Tensor, "r n 6"], frames: int) -> Learnt:
        """Return the model of a baked avatar."""
        values = {
            "means": still.means.clone(),
            "quats": functional.normalize(still.quats, dim=1),
            "scales": still.scales.clamp(min=1e-5).log(),
            "opacities": torch.logit(still.opacities.clamp(1e-3, 1 - 1e-3)),
            "colors": still.colors.clone(),
        }
        own = {"turn": torch.zeros(frames, 3), "shift": torch.zeros(frames, 3),
               "weights": torch.zeros(frames, len(shapes)),
               "exposure": torch.zeros(frames, 3)}  # fmt: skip
        return Learnt(values, shapes, torch.ones(len(still)), own)

    def moved(self, weights: Float[Tensor, "r"]) -> Gaussians:
        """Return the Gaussians under shape weights."""
        values = self.values
        offsets = (weights @ self.shapes.flatten(1)).reshape(-1, 6)
        return Gaussians(
            values["means"] + offsets[:, :3],
            values["quats"],
            values["scales"].exp(),
            torch.sigmoid(values["opacities"]),
            values["colors"] + offsets[:, 3:],
        )

    def step(
        self,
        frame: int,
        slopes: Gaussians,
        own: dict[str, Tensor],
        rates: Rates,
        fall: float,
    ) -> None:
        """Take a step of the Gaussians at rest and of a frame's corrections.

        Args:
            frame: Which.
            slopes: Of the loss, by what `moved` gave.
            own: Likewise, by the frame's corrections.
            rates: How far.
            fall: Factor of all rates.
        """
        self._count += 1
        values = self.values
        opacities = torch.sigmoid(values["opacities"])
        gradients = {
            "means": slopes.means,
            "quats": slopes.quats,
            "scales": slopes.scales * values["scales"].exp(),
            "opacities": slopes.opacities * opacities * (1 - opacities),
            "colors": slopes.colors,
        }
        for name, slope in gradients.items():
            free = self.seen if slope.ndim == 1 else self.seen[:, None]
            rate = fall * getattr(rates, name)
            values[name] -= _adam(self._moments[name], slope, self._count) * free * rate
        for name, slope in own.items():
            first, second = (x[frame] for x in self._moments[name])
            self._steps[name][frame] += 1
            step = _adam((first, second), slope, int(self._steps[name][frame]))
            self.own[name][frame] -= fall * getattr(rates, name) * step

    def bend(
        self,
        weights: Float[Tensor, "r"],
        slopes: Gaussians,
        rates: Rates,
        fall: float,
        hold: float,
    ) -> None:
        """Take a step of the shapes, once for several pictures.

        Args:
            weights: With which the picture was drawn.
            slopes: Of the loss, by what `moved` gave.
            rates: How far.
            fall: Factor of all rates.
            hold: Share of their change that shapes lose.
        """
        self._late.append((weights, torch.cat([slopes.means, slopes.colors], 1).flatten()))
        if len(self._late) == TOGETHER:
            self._step_shapes(rates, fall, hold)

    def _step_shapes(self, rates: Rates, fall: float, hold: float) -> None:
        # All shapes at once are most of the numbers: they step once for several frames.
        by = torch.stack([weights for weights, _ in self._late])
        slope = (by.T @ torch.stack([off for _, off in self._late])).reshape(self.shapes.shape)
        self._late.clear()
        self._shape_count += 1
        rate = fall * torch.tensor([rates.motion] * 3 + [rates.recolor] * 3)
        step = _adam(self._moments["shapes"], slope, self._shape_count)
        self.shapes -= step * (self.seen[:, None] * rate)
        self.shapes.lerp_(self._begun, hold * fall)

    def settle(self) -> None:
        """Give to Gaussians what the corrections of all frames share.

        What codes tell of them stays with the frames: given to the shapes, it errs by degrees under
        expressions that no frame had.
        """
        own, means = self.own, self.values["means"]
        shared = {name: value.mean(0) for name, value in own.items()}
        for name, value in own.items():
            value -= shared[name]
        offsets = (shared["weights"] @ self.shapes.flatten(1)).reshape(-1, 6)
        turned = torch.linalg.cross(shared["turn"].expand_as(means), means)
        means += offsets[:, :3] + turned + shared["shift"]
        self.values["colors"] += offsets[:, 3:]

    def picked(self, index: Tensor) -> Learnt:
        """Return a model that goes on with some of the Gaussians."""
        values = {k: v[index] for k, v in self.values.items()}
        found = Learnt(values, self.shapes[:, index], self.seen[index], self.own)
        found._begun = self._begun[:, index]
        return found


def _moments(value: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(value), torch.zeros_like(value)


def _adam(moments: tuple[Tensor, Tensor], slope: Tensor, count: int) -> Tensor:
    """Return Adam's step of length about 1, and keep its moments."""
    first, second = moments
    first.lerp_(slope, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(slope, slope, value=1 - BETAS[1])
    size = (second / (1 - BETAS[1] ** count)).sqrt_().add_(1e-12)
    return first / size / (1 - BETAS[0] ** count)
