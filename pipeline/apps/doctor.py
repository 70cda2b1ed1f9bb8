"""What is installed and whether it works."""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from pipeline.io.tensors import read_header
from pipeline.render import available_backends
from pipeline.render.golden import check_backend
from pipeline.system import weights
from pipeline.system.assets import CHECKPOINT
from pipeline.system.progress import Progress, silent

PACKAGES = ("fastgha", "torch", "numpy", "numba", "h5py", "safetensors", "av", "pillow")
OPTIONAL = {
    "onnxruntime": "prep", "ai-edge-litert": "prep", "rembg": "prep", "face-alignment": "prep",
    "trimesh": "prep", "accelerate": "train", "tensorboard": "train", "matplotlib": "eval",
    "gsplat": "cuda", "diffusers": "paper", "transformers": "paper", "ray": "cluster",
    "viser": "view", "huggingface_hub": "hub",
}  # fmt: skip
"""The extra that brings each package."""
TOLERANCE = 2e-3
"""Largest difference of a channel from the golden picture; its float16 alone takes 5e-4."""


@dataclass(frozen=True)
class Health:
    """What `examine` found."""

    versions: dict[str, str]
    devices: dict[str, str]
    backends: dict[str, str]
    weights: list[tuple[str, str, str, str]]
    """Name, purpose, licence, where it is or how to get it."""
    sound: bool
    """No backend that is present draws a wrong picture."""

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return asdict(self)


def examine(progress: Progress = silent) -> Health:
    """Look at versions, devices, backends and weights; draw the golden scene on each backend."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            extra = OPTIONAL.get(name)
            hint = "" if extra is None else f" (pip install 'fastgha[{extra}]')"
            versions[name] = "not installed" + hint
    devices = {
        "cpu": f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    }
    for i in range(torch.cuda.device_count()):
        devices[f"cuda:{i}"] = torch.cuda.get_device_name(i)

    states = available_backends()
    sound = True
    backends: dict[str, str] = {}
    for i, (name, state) in enumerate(states.items()):
        if state == "ready":
            difference = check_backend(name)
            sound &= difference <= TOLERANCE
            word = "ready" if difference <= TOLERANCE else "WRONG PICTURE"
            state = f"{word} (golden scene within {difference:.1e})"
        backends[name] = state
        progress(i + 1, len(states))

    rows = [(s.weight.name, s.weight.purpose, s.weight.licence, _state(s)) for s in weights.table()]
    rows.insert(0, ("small", "default model", "Apache-2.0", _shipped()))
    return Health(versions, devices, backends, rows, sound)


def _shipped() -> str:
    if not CHECKPOINT.exists():
        return "missing: install the package again"
    facts = read_header(CHECKPOINT, "fastgha-checkpoint", 1)
    return f"{CHECKPOINT.name}, step {facts['step']}"


def _state(status: weights.WeightStatus) -> str:
    if status.path is None:
        return f"missing: fastgha weights fetch {status.weight.name}"
    return str(status.path)
