"""`fastgha eval`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha eval shards/test --json figures.json"


def evaluate(
    shards: Annotated[Path, typer.Argument(help="Folder of shards of held-out people.")],
    model: options.Model = None,
    inputs: Annotated[int, typer.Option(help="Pictures that the model gets.", min=1, max=6)] = 4,
    samples: Annotated[int, typer.Option(help="Draws from each person.", min=1)] = 4,
    size: options.Size = 256,
    json: options.Json = None,
    sheet: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a picture: inputs | model | truth.")
    ] = None,
) -> None:
    """Measure PSNR and SSIM on held-out people, beside baselines on the same pictures.

    Measured are views from cameras that no input came from, under an expression that no input
    shows.
    """
    from fastgha_cli import console
    from pipeline.evaluate.run import EvalConfig
    from pipeline.evaluate.run import evaluate as run
    from pipeline.io.images import write_rgb
    from pipeline.shipped import checkpoint_path
    from pipeline.stage import digest
    from pipeline.train.checkpoint import load_model

    path = checkpoint_path(model)
    net, checkpoint = load_model(path)
    config = EvalConfig(inputs=inputs, samples=samples, size=size)
    with console.progress("Measuring") as tick:
        found = run(net, checkpoint.header["layout"], shards, config, progress=tick)
    metrics = list(next(iter(found.rows.values())))
    console.table(
        f"{found.subjects} people, {found.pictures} pictures of {size}x{size}, {inputs} inputs",
        ["", *metrics],
        [[name, *(f"{row[m]:.3f}" for m in metrics)] for name, row in found.rows.items()],
    )
    if sheet is not None:
        write_rgb(sheet, found.sheet)
    facts = {"checkpoint": path.name, "checkpoint_sha256": digest(path)}
    console.write_json(json, {**found.to_json(), **facts})
