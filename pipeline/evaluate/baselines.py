"""What any method must beat: pictures that need no model.

Letters: v views, h height, w width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.shards.reader import Shard
from pipeline.shards.sampling import Sample
from pipeline.types import Camera


def white_image(sample: Sample) -> Float[Tensor, "v 3 h w"]:
    """Give white pictures."""
    return torch.ones_like(sample.targets.image)


def nearest_input(sample: Sample) -> Float[Tensor, "v 3 h w"]:
    """Give for each target the input picture from the most similar direction, as it is."""
    return sample.inputs.image[_nearest(sample.targets.camera, sample.inputs.camera)]


def mean_head(sample: Sample, others: Sequence[Shard]) -> Float[Tensor, "v 3 h w"]:
    """Give for each target the mean of other people's pictures from the most similar direction.

    Args:
        sample: What is to be predicted.
        others: Subjects other than the sample's; the first timestep of each is used.
    """
    size = sample.targets.camera.width
    total = torch.zeros_like(sample.targets.image)
    for shard in others:
        views = _nearest(sample.targets.camera, shard.cameras(0))
        total += shard.read([(0, int(v)) for v in views], size).image
    return total / max(len(others), 1)


def _nearest(targets: Camera, candidates: Camera) -> Tensor:
    def direction(camera: Camera) -> Tensor:
        return torch.nn.functional.normalize(camera.centers, dim=-1)

    return (direction(targets) @ direction(candidates).mT).argmax(dim=1)
