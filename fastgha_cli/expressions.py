"""`fastgha expressions`: sequences that drive avatars."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Work on expression sequences.", no_args_is_help=True)


@app.callback()
def _expressions() -> None: ...  # pyright: ignore[reportUnusedFunction]


@app.command(
    epilog="Example:  fastgha expressions convert tracked/ --to makehuman -o seq.npz",
)
def convert(
    source: Annotated[Path, typer.Argument(help="Sequence of any kind that `render` takes.")],
    to: Annotated[str, typer.Option(help="Head model: makehuman, flame2020 or flame2023.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The npz file to write.")],
) -> None:
    """Write a sequence in the codes of another head model, and say what that loses.

    FLAME to FLAME by its vertices; FLAME to the built-in head and back by the face around the 68
    landmarks. The converted FLAME models are taken from the folder of `fastgha weights`.
    """
    from fastgha_cli import console
    from pipeline.expressions.convert import layout_of, read_converted
    from pipeline.expressions.sequences import write_sequence

    sequence, words = read_converted(source, layout_of(to))
    if words:
        console.say(words)
    write_sequence(out, sequence)
    console.result(str(out))
