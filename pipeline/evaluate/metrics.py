"""How close pictures are to the truth. Batch in, one number a picture out.

Letters: v pictures, h w their size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from pipeline.core.arrays import Rgb
from pipeline.core.config import nearest
from pipeline.core.errors import ConfigError, MissingPackageError, MissingWeightsError
from pipeline.evaluate.protocol import Protocol
from pipeline.io.sheets import to_bytes
from pipeline.perception.identity import Faces, Identity, faces, keypoints
from pipeline.perception.landmarks import Face
from pipeline.perception.lpips import load_lpips
from pipeline.system import weights
from pipeline.system.files import digest

Metric = Callable[[Tensor, Tensor], Tensor]
"""Drawn and true pictures [v, 3, h, w] in [0, 1] to a number each; nan where no face was found."""

MAX_DB = 100.0
NETS = {
    "alex": ("AlexNet", ("alexnet", "lpips_alex")),
    "vgg": ("VGG-16", ("vgg16", "lpips_vgg")),
    "arcface": ("ArcFace", ("arcface",)),
    "fr_feature": ("faceplugin fr_feature", ("fr_feature",)),
    "pipnet_98": ("PIPNet, WFLW 98", ("pipnet_98",)),
    "pipnet_68": ("PIPNet, 300W 68", ("pipnet_68",)),
    "face_mesh": ("face mesh 68", ("face_detection_back", "face_landmark")),
}
"""How a network is called in a column's head, and its weight files."""


@dataclass(frozen=True)
class MetricSpec:
    """One metric: how it is made, and how it stands in a table."""

    make: Callable[[str], Metric]
    """Of a network's name, a key of `NETS`; empty if the metric needs none."""
    digits: int
    """Behind the point, in a table."""
    higher_is_better: bool
    unit: str = ""


METRICS: dict[str, MetricSpec] = {}
"""By name, in the order of a table's columns."""


def register_metric(name: str, spec: MetricSpec) -> None:
    """Make a metric known, by a name; one of that name is replaced.

    It is measured where a protocol names it among its `metrics`.
    """
    METRICS[name] = spec


def psnr(drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v"]:
    """Return the peak signal-to-noise ratio in dB, over all pixels of each picture, range 1.

    At most 100: that of equal pictures would be infinite.
    """
    return peak_signal_noise_ratio(
        drawn.clamp(0, 1), truth, data_range=1.0, dim=(1, 2, 3), reduction="none"
    ).clamp(max=MAX_DB)


def ssim(drawn: Float[Tensor, "v 3 h w"], truth: Float[Tensor, "v 3 h w"]) -> Float[Tensor, "v"]:
    """Return the structural similarity of each picture: 11 x 11 Gaussian windows, sigma 1.5.

    Windows over the edge see the picture mirrored; scikit-image leaves them out.
    """
    value = structural_similarity_index_measure(
        drawn.clamp(0, 1), truth, data_range=1.0, sigma=1.5, kernel_size=11, reduction="none"
    )
    assert isinstance(value, Tensor)
    return torch.atleast_1d(value)


@dataclass(frozen=True)
class Metrics:
    """The metrics of a protocol that can be computed here."""

    heads: dict[str, str]
    """Metric to column head, which names the network."""
    missing: dict[str, str]
    """Metric to why it is not computed."""
    nets: dict[str, str]
    """Weight file to its SHA-256."""
    run: dict[str, Metric] = field(repr=False)
    device: str = "cpu"
    """Where pictures are compared."""

    def __call__(self, drawn: Tensor, truth: Tensor) -> dict[str, list[float]]:
        """Return every metric's number for each picture."""
        found: dict[str, list[float]] = {}
        drawn, truth = drawn.to(self.device), truth.to(self.device)
        for name, metric in self.run.items():
            found[name] = [float(x) for x in metric(drawn, truth)]
        return found


def prepare(protocol: Protocol, device: str = "cpu") -> Metrics:
    """Load the networks of a protocol.

    Args:
        protocol: What is measured.
        device: Where pictures are compared; networks of faces run on the CPU all the same.

    Raises:
        ConfigError: If it names a network or a metric that does not exist.
        FormatError: If a weight file is not what its name says.
    """
    heads, missing, nets = dict[str, str](), dict[str, str](), dict[str, str]()
    run: dict[str, Metric] = {}
    for name, net in protocol.nets.items():
        if name not in METRICS:
            raise ConfigError(
                f"{protocol.name} names a metric {name!r}.", nearest(name, list(METRICS))
            )
        if net and net not in NETS:
            raise ConfigError(
                f"{protocol.name} names a network {net!r}.", f"Known: {', '.join(NETS)}."
            )
        word, files = NETS[net] if net else ("", ())
        spec = METRICS[name]
        heads[name] = f"{name} ({word})" if word else name
        if spec.unit:
            heads[name] += f", {spec.unit}"
        try:
            # Looked for also where a network is in memory already: figures name the files.
            hashes = {file: digest(weights.find(file)) for file in files}
            metric = spec.make(net)
            run[name] = metric.to(device) if isinstance(metric, nn.Module) else metric
        except (MissingWeightsError, MissingPackageError) as error:
            missing[name] = f"{error.problem} {error.remedy}"
            continue
        nets |= hashes
    return Metrics(heads, missing, nets, run, device)


def _lpips(net: str) -> Metric:
    return load_lpips("vgg" if net == "vgg" else "alex")


def _csim(net: str) -> Metric:
    """Cosine of the two faces' identities."""
    find, identity = faces(), Identity(net)

    def metric(drawn: Tensor, truth: Tensor) -> Tensor:
        values: list[float] = []
        for a, b in zip(drawn, truth):
            seen = _both(find, to_bytes(a), to_bytes(b))
            found = [identity(picture, face) for picture, face in seen]
            values.append(float(found[0] @ found[1]) if found else float("nan"))
        return torch.tensor(values)

    return metric


def _both(find: Faces, drawn: Rgb, truth: Rgb) -> list[tuple[Rgb, Face]]:
    """Return both pictures with their faces, or nothing; without a true one, none is looked for."""
    there = find(truth)
    here = None if there is None else find(drawn)
    return [] if there is None or here is None else [(drawn, here), (truth, there)]


def _akd(net: str) -> Metric:
    """Mean distance of the two faces' keypoints in pixels."""
    find, where = faces(), keypoints(net)

    def metric(drawn: Tensor, truth: Tensor) -> Tensor:
        values: list[float] = []
        for a, b in zip(drawn, truth):
            points = [where(*one) for one in _both(find, to_bytes(a), to_bytes(b))]
            values.append(
                float(np.linalg.norm(points[0] - points[1], axis=-1).mean()) if points else np.nan
            )
        return torch.tensor(values)

    return metric


register_metric("PSNR", MetricSpec(lambda _: psnr, 2, higher_is_better=True, unit="dB"))
register_metric("SSIM", MetricSpec(lambda _: ssim, 3, higher_is_better=True))
register_metric("LPIPS", MetricSpec(_lpips, 3, higher_is_better=False))
register_metric("CSIM", MetricSpec(_csim, 3, higher_is_better=True))
register_metric("AKD", MetricSpec(_akd, 2, higher_is_better=False, unit="px"))
