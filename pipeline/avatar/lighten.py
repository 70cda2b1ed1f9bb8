"""The light form in which pages and viewers show an avatar, made the best way that it allows."""

from __future__ import annotations

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import BakeConfig, bake
from pipeline.avatar.distill import DistillConfig, distill
from pipeline.avatar.prune import prune
from pipeline.model.baked import Baked
from pipeline.system.progress import Bars, no_bars

LOSS_DB = 0.15
"""That pruning, and then baking, may each cost an avatar that cannot be distilled."""


def lighten(avatar: Avatar, config: DistillConfig | None = None, bars: Bars = no_bars) -> Avatar:
    """Return an avatar distilled where it hangs on a mesh, else pruned and baked.

    One that is baked already is given back as it is.
    """
    if isinstance(avatar.deformation, Baked):
        return avatar
    if avatar.head.rig is not None:
        with bars("Drawing and fitting") as tick:
            return distill(avatar, config or DistillConfig(), drawing=tick, fitting=tick)[0]
    with bars("Pruning") as tick:
        pruned, _ = prune(avatar, tolerance_db=LOSS_DB, progress=tick)
    with bars("Sampling expressions") as tick:
        return bake(pruned, BakeConfig(LOSS_DB), tick)[0]
