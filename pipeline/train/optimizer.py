"""The optimizers of training: Adam, and Muon for the matrices inside the network.

Letters: o outputs, i inputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pipeline.model.fastgha import FastGHA
from pipeline.train.config import TrainConfig

OUTER = ("stem", "embed", "conv_out", "of_gaussian", "of_code", "of_motion", "out", "person")
"""Layers that read the network's inputs or make its outputs: Adam's, as Muon's author advises."""
MUON_MOMENTUM = 0.95


class Optimizer:
    """Adam for all weights, or for all that are not Muon's.

    Muon makes each step of a matrix orthogonal, so that all of its directions learn at one pace.
    torch's knows matrices only; a convolution's weights are handed to it as one, [o, i * 9],
    in the same memory.

    Source:
        Jordan et al., Muon, 2024; its step is scaled to Adam's, 0.2 sqrt(max(o, i)), as in Liu et
        al., Muon is scalable for LLM training, 2025.
    """

    def __init__(self, model: FastGHA, config: TrainConfig) -> None:
        groups: dict[str, list[dict[str, Any]]] = {"muon": [], "adam": []}
        self._flat: dict[nn.Parameter, Tensor] = {}
        learn = learning(model)
        self._parameters = [p for _, p in learn]
        parts = (model.deformation, model.interior, model.unseen)
        small = [part for part in parts if part is not None]
        deform = {id(p) for part in small for p in part.parameters()}
        for mine, lr in ((False, config.lr), (True, config.deform_lr)):
            named = [(n, p) for n, p in learn if (id(p) in deform) == mine]
            hidden = [p for n, p in named if config.optimizer == "muon" and _is_hidden(n, p)]
            self._flat |= {p: _flatten(p.detach()) for p in hidden}
            others = {id(p) for p in hidden}
            rest = [p for _, p in named if id(p) not in others]
            rate = {"lr": lr, "base_lr": lr}
            if rest:
                groups["adam"].append({"params": rest, **rate})
            if hidden:
                groups["muon"].append({"params": [self._flat[p] for p in hidden], **rate})
        self.adam = torch.optim.Adam(groups["adam"], fused=True)
        self.muon = None
        if groups["muon"]:
            self.muon = torch.optim.Muon(
                groups["muon"],
                weight_decay=0.0,
                momentum=MUON_MOMENTUM,
                adjust_lr_fn="match_rms_adamw",
            )
        self.state = _State(self.adam, self.muon, self._flat)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, whose step sizes may be changed."""
        return self.adam.param_groups + (self.muon.param_groups if self.muon else [])

    def shapes(self, parameter: nn.Parameter) -> dict[str, torch.Size]:
        """Return what is remembered of a parameter once it was changed, by name, and how large."""
        if parameter in self._flat:
            return {"momentum_buffer": self._flat[parameter].shape}
        same = parameter.shape
        return {"step": torch.Size(), "exp_avg": same, "exp_avg_sq": same}

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self._parameters:
            parameter.grad = None

    def step(self) -> None:
        """Change the parameters by their gradients."""
        self.adam.step()
        if self.muon is None:
            return
        for parameter, flat in self._flat.items():
            flat.grad = None if parameter.grad is None else _flatten(parameter.grad)
        self.muon.step()


def learning(model: FastGHA) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that training changes, by name; see `TrainConfig.only`."""
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]


class _State(MutableMapping[nn.Parameter, dict[str, Any]]):
    """What the optimizers remember of each parameter of the model."""

    def __init__(
        self,
        adam: torch.optim.Adam,
        muon: torch.optim.Muon | None,
        flat: dict[nn.Parameter, Tensor],
    ) -> None:
        self._adam, self._muon, self._flat = adam, muon, flat

    def __getitem__(self, parameter: nn.Parameter) -> dict[str, Any]:
        if self._muon is not None and parameter in self._flat:
            return self._muon.state[self._flat[parameter]]
        return self._adam.state[parameter]

    def __setitem__(self, parameter: nn.Parameter, state: dict[str, Any]) -> None:
        if self._muon is not None and parameter in self._flat:
            flat = self._flat[parameter]
            self._muon.state[flat] = {k: v.reshape(flat.shape) for k, v in state.items()}
        else:
            self._adam.state[parameter] = state

    def __delitem__(self, parameter: nn.Parameter) -> None:
        raise NotImplementedError("What is remembered of a parameter is only replaced.")

    def __iter__(self) -> Iterator[nn.Parameter]:
        adam = (p for p in self._adam.state if isinstance(p, nn.Parameter))
        return iter([*adam, *self._flat])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _is_hidden(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not set(name.split(".")) & set(OUTER)


def _flatten(weight: Tensor) -> Float[Tensor, "o i"]:
    """Return a layer's weights as a matrix in the same memory, whatever its memory format."""
    if weight.ndim == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        return weight.permute(0, 2, 3, 1).flatten(1)
    return weight.contiguous().flatten(1)
