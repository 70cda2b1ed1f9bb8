"""`fastgha train`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha train shards/train -o runs/first --preset small"


def train(
    shards: Annotated[Path, typer.Argument(help="Folder of shards.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    preset: Annotated[
        str,
        typer.Option(
            help="paper, small, tiny; an ablation of paper, such as no-geo; or of another, such "
            "as small/no-geo."
        ),
    ] = "small",
    steps: Annotated[
        int | None, typer.Option(help="Stop after this many more steps, with a checkpoint.")
    ] = None,
    changes: options.Set = None,
    perceptual: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Network of the perceptual term: vgg16 as the paper, mobilenet_v2 on a CPU (see "
            "`fastgha weights`), or a file of either; off if left out.",
        ),
    ] = None,
    origin: Annotated[
        Path | None,
        typer.Option(
            "--from", metavar="RUN", help="Begin with the weights of this run or checkpoint."
        ),
    ] = None,
    anew: Annotated[
        list[str] | None,
        typer.Option(
            help="With --from: part that begins with random weights (features, transformer, "
            "decoder or deformation). Repeatable."
        ),
    ] = None,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    workers: options.Workers = 1,
    every: Annotated[
        int, typer.Option("--every", help="Steps between checkpoints and pictures.", min=1)
    ] = 500,
) -> None:
    """Train a model on shards. The same command goes on where a stopped run was.

    SIGINT (Ctrl-C) and SIGTERM end the step in progress and write a checkpoint first.
    """
    import signal

    from fastgha_cli import console
    from pipeline import weights
    from pipeline.config import from_dict, override
    from pipeline.errors import ConfigError
    from pipeline.nets.perceptual import load_perceptual
    from pipeline.presets import recipe
    from pipeline.train.checkpoint import Origin, resolve
    from pipeline.train.device import choose
    from pipeline.train.loop import RunConfig
    from pipeline.train.loop import train as run

    config = override(recipe(preset), changes or [])
    how = from_dict(
        RunConfig,
        {
            "checkpoint_every": every,
            "picture_every": every,
            "workers": workers,
            "device": choose(device),
            "precision": precision,
        },
    )
    if anew and origin is None:
        raise ConfigError("--anew leaves out parts of --from, which is not given.", "Add --from.")
    begin = Origin(resolve(origin), tuple(anew or ())) if origin else None
    known = perceptual in ("vgg16", "mobilenet_v2")
    place = weights.find(perceptual) if perceptual and known else Path(perceptual or "")
    net = load_perceptual(place, how.device) if perceptual else None
    if net is None and config.loss.perceptual > 0:
        console.say("The perceptual term is off: no network was given (--perceptual NAME).")
    with console.progress("Training") as tick:
        report = run(
            shards, out, config, how,
            perceptual=net, origin=begin, stop_after=steps, progress=tick,
        )  # fmt: skip
    if report.stopped_by:
        console.say(
            f"Stopped by {report.stopped_by} at step {report.step}; the same command goes on."
        )
        raise typer.Exit(128 + signal.Signals[report.stopped_by].value)
    console.result(str(report.checkpoint))
