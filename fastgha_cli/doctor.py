"""`fastgha doctor`."""

from typing import Annotated

import typer

from fastgha_cli import options
from fastgha_cli.bench import show_counts

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

    with console.progress("Examining") as tick:
        health = examine(tick)
    console.table("Versions", ["", "version"], list(health.versions.items()))
    console.table("Devices", ["", ""], list(health.devices.items()))
    console.table("Render backends", ["", "state"], list(health.backends.items()))
    console.table("Weights", ["", "for", "licence", "state"], [list(row) for row in health.weights])
    counts = show_counts(model, [4]) if model else []
    console.write_json(json, {**health.to_json(), "model": counts})
    if not health.sound:
        raise typer.Exit(1)
