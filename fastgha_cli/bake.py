"""`fastgha prune` and `fastgha bake`: light avatars."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgha_cli import options

if TYPE_CHECKING:
    from pipeline.avatar.avatar import Avatar

PRUNE_EXAMPLE = "Example:  fastgha prune me.avatar -o small.avatar --tolerance 0.05dB"
BAKE_EXAMPLE = """Example:  fastgha bake me.avatar -o fast.avatar --tolerance 0.1dB

Smallest and fastest:  fastgha bake me.avatar -o faster.avatar --gaussians 12000
"""

AvatarFile = Annotated[Path, typer.Argument(help="Avatar file.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Avatar file to write.")]
Tolerance = Annotated[
    str,
    typer.Option(
        metavar="DB", help="Loss of PSNR allowed, for an avatar that reaches 25 dB, such as 0.1dB."
    ),
]


def prune(
    avatar: AvatarFile,
    out: Out,
    tolerance: Tolerance = "0.05dB",
    device: options.Device = "auto",
    json: options.Json = None,
) -> None:
    """Leave out Gaussians that hardly any picture shows: hidden, transparent, doubled.

    Prints the quality kept with 20 to 100 percent of them.
    """
    from dataclasses import asdict

    from fastgha_cli import console
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.prune import prune as pruned
    from pipeline.train.device import choose

    place = choose(device)
    loaded = Avatar.load(avatar).to(place)
    with console.progress("Pruning") as tick:
        made, curve = pruned(loaded, tolerance_db=_db(tolerance), progress=tick)
    console.table(
        "Kept by weight in the pictures",
        ["share", "Gaussians", "PSNR to the full one", "loss at 25 dB"],
        [
            [f"{k.share:.0%}", f"{k.gaussians:,}", f"{k.psnr:.1f}", f"{k.loss_db:.3f}"]
            for k in curve
        ],
    )
    made.save(out)
    console.say(f"{len(made.canonical):,} of {len(loaded.canonical):,} Gaussians.")
    console.result(str(out))
    console.write_json(json, {"curve": [asdict(kept) for kept in curve]})


def bake(
    avatar: AvatarFile,
    out: Out,
    tolerance: Tolerance = "0.1dB",
    exact_gaussians: Annotated[
        bool, typer.Option("--no-prune", help="Keep every Gaussian.")
    ] = False,
    gaussians: Annotated[
        int | None,
        typer.Option(help="Distil the head into so many instead, fitted to its pictures.", min=100),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="With --gaussians: how long they are fitted.", min=0)
    ] = 40.0,
    device: options.Device = "auto",
    json: options.Json = None,
) -> None:
    """Turn the deformation network into a few linear shapes: the same head, many times faster.

    Gaussians that hardly any picture shows are left out first. The rank is the smallest within
    the tolerance on expressions that the fit did not see. With --gaussians neighbours are merged
    and fitted to pictures of the exact head: fastest of all, and the smallest file.
    """
    from dataclasses import asdict

    from fastgha_cli import console
    from pipeline.avatar import bake as light
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.prune import Kept
    from pipeline.avatar.prune import prune as pruned
    from pipeline.train.device import choose

    place = choose(device)
    loaded, allowed = Avatar.load(avatar).to(place), _db(tolerance)
    if gaussians is not None:
        _distill(loaded, out, gaussians, seconds, json)
        return
    kept: list[Kept] = []
    if not exact_gaussians:
        with console.progress("Pruning") as tick:
            loaded, kept = pruned(loaded, tolerance_db=allowed / 2, progress=tick)
        allowed /= 2
    with console.progress("Sampling expressions") as tick:
        made, report = light.bake(loaded, light.BakeConfig(tolerance_db=allowed), tick)
    made.save(out)
    console.say(
        f"{report.gaussians:,} Gaussians, {report.moving:,} of them move, {report.rank} shapes; "
        f"on held-out expressions {report.error_mm:.2f} mm, {report.error_color:.4f} in colour, "
        f"{report.psnr:.1f} dB to the exact one (a loss of {report.loss_db:.3f} dB at 25 dB)."
    )
    console.result(str(out))
    console.write_json(json, {**asdict(report), "pruning": [asdict(k) for k in kept]})


def _distill(exact: Avatar, out: Path, gaussians: int, seconds: float, json: Path | None) -> None:
    from dataclasses import asdict

    from fastgha_cli import console
    from pipeline.avatar.distill import DistillConfig, distill

    config = DistillConfig(gaussians=gaussians, seconds=seconds)
    with console.progress("Drawing and fitting") as tick:
        made, report = distill(exact, config, drawing=tick, fitting=tick)
    made.save(out)
    console.say(
        f"{len(made.canonical):,} of {len(exact.canonical):,} Gaussians after {report.best.steps} "
        f"steps; {report.best.judged:.1f} dB to pictures of the exact head that were held back."
    )
    console.result(str(out))
    console.write_json(json, asdict(report))


def _db(text: str) -> float:
    from pipeline.core.errors import ConfigError

    try:
        value = float(text.lower().removesuffix("db").strip())
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a number of decibels.", "Write 0.1dB.") from error
    if value <= 0:
        raise ConfigError(f"A tolerance of {text} is none.", "Give more than 0, such as 0.1dB.")
    return value
