"""`fastgha render`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha render me.avatar --expr seq.npz -o me.mp4"


def render(
    avatar: Annotated[Path, typer.Argument(help="Avatar file.")],
    expr: Annotated[Path, typer.Option(help="Expression sequence (.npz).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Video to write (.mp4).")] = Path(
        "avatar.mp4"
    ),
    size: options.Size = 256,
    degrees: Annotated[float, typer.Option(help="How far the camera swings to each side.")] = 40.0,
) -> None:
    """Draw an avatar under a sequence of expressions, with a slow orbit, to a video.

    A sequence is an npz with codes [t, 120], layout and fps, or with ARKit weights [t, 52],
    names and fps.
    """
    from fastgha_cli import console
    from pipeline.animate import orbit, write_video
    from pipeline.avatar import Avatar
    from pipeline.errors import InputError
    from pipeline.io.sequences import read_sequence

    if out.suffix.lower() != ".mp4":
        raise InputError(f"{out} is not the name of a video.", "Name it .mp4.")
    loaded = Avatar.load(avatar)
    sequence = read_sequence(expr, loaded.layout)
    cameras = orbit(len(sequence), size, degrees)
    with console.progress("Drawing frames") as tick:
        write_video(out, loaded, sequence, cameras, tick)
    console.result(str(out))
