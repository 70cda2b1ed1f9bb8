"""`fastgha doctor`."""

from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha doctor --json health.json"


def doctor(
    json: options.Json = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="PRESET", help="Also count the parts of this preset's model, such as paper."
        ),
    ] = None,
) -> None:
    """Show what is installed: versions, devices, render backends, weights found or missing.

    Every render backend draws a fixed scene, which is compared with a stored picture. Exit code
    1 if one that is present draws something else.
    """
    from fastgha_cli import console
    from pipeline.apps.doctor import examine
    from pipeline.bench import counts
    from pipeline.train.presets import recipe

    with console.progress("Examining") as tick:
        health = examine(tick)
    console.table("Versions", ["", "version"], list(health.versions.items()))
    console.table("Devices", ["", ""], list(health.devices.items()))
    console.table("Render backends", ["", "state"], list(health.backends.items()))
    console.table("Weights", ["", "for", "licence", "state"], [list(row) for row in health.weights])
    found: list[counts.Count] = []
    if model:
        config = recipe(model).model
        found = counts.count_views(config, [4])
        console.tables(counts.show(model, config, found))
    console.write_json(json, {**health.to_json(), "model": found})
    if not health.sound:
        raise typer.Exit(1)
