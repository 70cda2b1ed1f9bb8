"""`fastgha vggt-cache`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha vggt-cache shards/ava --device cuda"


def vggt_cache(
    out: Annotated[Path, typer.Argument(help="Folder of shards.", file_okay=False)],
    backend: Annotated[
        str, typer.Option(help="vggt (installed by you), precomputed, or mesh (the tracked one).")
    ] = "vggt",
    points: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Of precomputed point maps.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Of VGGT: name on the hub or local folder.")
    ] = "facebook/VGGT-1B",
    head: Annotated[str, typer.Option(help="VGGT's depth, or its points.")] = "depth",
    topology: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Triangles of the mesh: OBJ, or converted FLAME (.npz)."),
    ] = None,
    group: Annotated[int, typer.Option(help="Views that VGGT sees together.", min=1)] = 16,
    threshold: Annotated[
        float, typer.Option(help="Leave out groups aligned worse than this, mm.", min=0)
    ] = 5.0,
    device: options.Device = "auto",
    workers: options.Workers = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Store depth in the shards: point maps of all views, aligned to the tracked head."""
    from fastgha_cli import console
    from pipeline.core.config import from_dict
    from pipeline.prep.depth import run as stage
    from pipeline.train.device import choose

    values = {"backend": backend, "weights": weights, "head": head, "group": group}
    values |= {"points": str(points.resolve()) if points else "", "max_residual": threshold}
    values |= {"topology": str(topology.resolve()) if topology else ""}
    config = from_dict(stage.PointsConfig, values)
    if dry_run:
        plan = stage.estimate(out, config)
        console.result(
            f"{plan.shards} shards, {plan.timesteps} timesteps left, {plan.pictures} pictures; "
            f"{plan.bytes_free / 1e9:.1f} GB free"
        )
        return
    with console.progress("Placing points") as tick:
        report = stage.run(
            out, config, workers=workers, device=choose(device, draws=False), ray=ray,
            overwrite=overwrite, progress=tick,
        )  # fmt: skip
    for name, reason in report.dropped.items():
        console.say(f"left out: {name}: {reason}.")
    console.say(f"{report.done} timesteps made, {report.skipped} were there already.")
    console.result(str(out))
