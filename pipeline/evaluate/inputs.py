"""Pictures for measuring speed, where any will do."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.core.types import View
from pipeline.faces.guide import TrackedMesh
from pipeline.prep.synthetic import SyntheticConfig
from pipeline.prep.synthetic import run as make_people
from pipeline.shards.reader import Shard, find_shards


def some_views(
    shards: Path | None, count: int, size: int, *, guided: bool = False
) -> tuple[View, TrackedMesh | None]:
    """Return pictures of one person: of a folder of shards, or of a synthetic person.

    Args:
        shards: Where to take them from; makes a person if not given.
        count: How many.
        size: Width in pixels.
        guided: Return the mesh too.
    """
    if shards is not None:
        with Shard(find_shards(shards)[0]) as shard:
            mesh = shard.mesh([0] * count) if guided else None
            return shard.read([(0, v) for v in range(count)], size), mesh
    with TemporaryDirectory(prefix="fastgha-") as folder:
        place = Path(folder) / "shards"
        person = SyntheticConfig(identities=1, expressions=1, views=count, size=size, split="test")
        make_people(place, person)
        return some_views(place, count, size, guided=guided)
