"""`fastgha view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha view me.avatar"


def view(
    avatar: Annotated[Path, typer.Argument(help="Avatar file.")],
    expr: Annotated[
        Path | None, typer.Option(help="Sequence to play; a talking head if left out.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine only if left out.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8080,
    device: options.Device = "auto",
    light: Annotated[
        bool, typer.Option("--light", help="Also offer it pruned and baked (some seconds).")
    ] = False,
) -> None:
    """Show an avatar in the browser: sliders, a sequence, canonical and animated. Ctrl-C ends."""
    import time

    from fastgha_cli import console
    from pipeline.apps.viewer import Viewer
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.bake import bake
    from pipeline.avatar.prune import prune
    from pipeline.expressions.read import read_expressions
    from pipeline.model.baked import Baked
    from pipeline.system.assets import SEQUENCE
    from pipeline.train.device import choose

    console.consent()
    place = choose(device)
    loaded = Avatar.load(avatar).to(place)
    forms = {"as it is": loaded}
    if light and not isinstance(loaded.deformation, Baked):
        console.say("Pruning and baking.")
        forms["pruned"], _ = prune(loaded)
        forms["pruned and baked"], _ = bake(forms["pruned"])
    running = Viewer(forms, read_expressions(expr or SEQUENCE, loaded.layout), host, port)
    console.result(running.address)
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        running.close()
