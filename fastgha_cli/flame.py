"""`fastgha flame`: the FLAME model file."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Convert the FLAME head model once, from its owner's file.",
                  no_args_is_help=True)  # fmt: skip


@app.callback()
def _flame() -> None: ...  # pyright: ignore[reportUnusedFunction]


@app.command(epilog="Example:  fastgha flame convert flame2023.pkl --version 2023 -o flame2023.npz")
def convert(
    source: Annotated[Path, typer.Argument(help="The owner's pickle.", dir_okay=False)],
    version: Annotated[
        str, typer.Option(help="2020, 2023, 2023-no-jaw or 2023-open: the file does not say.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="The npz file to write.")],
    eyelids: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="LEFT.npy RIGHT.npy", help="Eyelid shapes, as trackers ship them."),
    ] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(
            metavar="landmark_embedding.npy",
            help="The 68 landmarks, as trackers ship them: our own fit of FLAME (--face) needs "
            "them, and the table of places that is made by them.",
        ),
    ] = None,
) -> None:
    """Write FLAME as plain arrays; nothing in the pickle is executed, no chumpy is needed."""
    from typing import cast

    from fastgha_cli import console
    from pipeline.faces import flame
    from pipeline.tracking.ties import tie_surface

    named = cast("flame.Version", version)
    for note in flame.convert(source, out, named, eyelids, landmarks, tie_surface):
        console.say(note)
    console.result(str(out))
