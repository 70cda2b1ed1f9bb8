"""`fastgha view` and `fastgha app`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha view me.avatar"
APP_EXAMPLE = "Example:  fastgha app"

Host = Annotated[str, typer.Option(help="Address to listen on; this machine only if left out.")]
Port = Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)]


def view(
    avatar: Annotated[
        Path | None, typer.Argument(help="Avatar file; the page of `fastgha app` if left out.")
    ] = None,
    expr: Annotated[
        Path | None, typer.Option(help="Sequence to play; a talking head if left out.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    device: options.Device = "auto",
    light: Annotated[
        bool, typer.Option("--light", help="Also offer it in a light form (a minute).")
    ] = False,
) -> None:
    """Show an avatar in the browser: sliders, a sequence, canonical and animated. Ctrl-C ends."""
    if avatar is None:
        app(None, None, host, port, device)
        return
    from fastgha_cli import console
    from pipeline.apps.viewer import Viewer
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.lighten import lighten
    from pipeline.expressions.read import read_expressions
    from pipeline.model.baked import Baked
    from pipeline.system.assets import SEQUENCE
    from pipeline.train.device import choose

    console.consent()
    place = choose(device)
    loaded = Avatar.load(avatar).to(place)
    forms = {"as it is": loaded}
    if light and not isinstance(loaded.deformation, Baked):
        forms["light"] = lighten(loaded, bars=console.progress)
    running = Viewer(forms, read_expressions(expr or SEQUENCE, loaded.layout), host, port)
    console.result(running.address)
    _until_stopped(running.close)


def app(
    avatar: Annotated[
        Path | None, typer.Argument(help="Avatar file to begin with; photographs if left out.")
    ] = None,
    model: options.Model = None,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    device: options.Device = "auto",
) -> None:
    """Do the whole job in the browser: photographs in, a head that moves out. Ctrl-C ends.

    The page takes 1 to 6 photographs, shows how far the work is, then the head with sliders, and
    offers the avatar and a page of it to save. Nothing leaves this machine.
    """
    from fastgha_cli import console
    from pipeline.apps.local_page import LocalPage
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.create import make_avatar
    from pipeline.train.device import choose

    console.consent()
    place = choose(device)
    loaded = None if avatar is None else Avatar.load(avatar).to(place)
    running = LocalPage(
        lambda photos, progress: make_avatar(photos, model, device=place, progress=progress),
        host,
        port,
    )
    if loaded is not None:
        console.say("Making it light (a minute).")
        running.show(loaded)
    console.result(running.address)
    _until_stopped(running.close)


def _until_stopped(close: Callable[[], None]) -> None:
    import time

    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        close()
