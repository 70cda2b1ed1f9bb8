"""What any method must beat: pictures that need no model.

Letters: v views, h height, w width.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.core.types import Camera, View
from pipeline.shards.reader import Shard


def white_image(camera: Camera) -> Float[Tensor, "v 3 h w"]:
    """Return white pictures."""
    return torch.ones(len(camera.K), 3, camera.height, camera.width)


def nearest_input(inputs: View, camera: Camera) -> Float[Tensor, "v 3 h w"]:
    """Return for each target the input picture from the most similar direction, as it is."""
    return inputs.image[_nearest(camera, inputs.camera)]


def mean_head(camera: Camera, others: Sequence[Shard]) -> Float[Tensor, "v 3 h w"]:
    """Return for each target the mean of other people's pictures from the most similar direction.

    Args:
        camera: Of the targets.
        others: Subjects other than the one to be predicted; the first timestep of each is used.
    """
    total = white_image(camera) * 0
    for shard in others:
        views = _nearest(camera, shard.cameras(0))
        total += shard.read([(0, int(v)) for v in views], camera.width).image
    return total / max(len(others), 1)


def _nearest(targets: Camera, candidates: Camera) -> Tensor:
    def direction(camera: Camera) -> Tensor:
        return torch.nn.functional.normalize(camera.centers, dim=-1)

    return (direction(targets) @ direction(candidates).mT).argmax(dim=1)
