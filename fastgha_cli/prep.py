"""`fastgha prep`: captures to training shards."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

app = typer.Typer(help="Turn captures into training shards.", no_args_is_help=True)


@app.callback()
def _prep() -> None: ...  # pyright: ignore[reportUnusedFunction]


@app.command(epilog="Example:  fastgha prep synthetic shards/train --identities 200")
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", file_okay=False)],
    identities: Annotated[int, typer.Option(help="How many people.", min=1)] = 200,
    expressions: Annotated[int, typer.Option(help="Expressions of each person.", min=1)] = 16,
    views: Annotated[int, typer.Option(help="Cameras for each expression.", min=1)] = 8,
    size: options.Size = 256,
    split: Annotated[
        str, typer.Option(help="train, or test: people that are never in train.")
    ] = "train",
    seed: options.Seed = 0,
    workers: options.Workers = 2,
    overwrite: options.Overwrite = False,
) -> None:
    """Make synthetic captures: people, expressions and cameras drawn at random.

    A run that was stopped goes on where it was when started again.
    """
    from fastgha_cli import console
    from pipeline.config import from_dict
    from pipeline.prep import synthetic as stage

    config = from_dict(
        stage.SyntheticConfig,
        {
            "identities": identities,
            "expressions": expressions,
            "views": views,
            "size": size,
            "split": split,
            "seed": seed,
        },
    )
    with console.progress("Drawing people") as tick:
        report = stage.run(out, config, workers=workers, overwrite=overwrite, progress=tick)
    console.say(f"{report.done} people drawn, {report.skipped} were there already.")
    console.result(str(out))
