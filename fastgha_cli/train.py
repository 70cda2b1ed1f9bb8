"""`fastgha train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = (
    "Example:  fastgha train shards/train -o runs/first --preset small;  "
    "fastgha train shards/one -o runs/one --preset paper --from runs/paper --inputs 1 "
    "--steps 30000"
)


def train(
    shards: Annotated[
        list[Path], typer.Argument(help="Folders of shards; --mixture weights several.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
    preset: Annotated[
        str | None,
        typer.Option(
            help="paper, small (if left out), tiny; an ablation of paper, such as no-geo; or of "
            "another, such as small/no-geo."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="End at this step, with a checkpoint; the preset says how many if left out."
        ),
    ] = None,
    inputs: Annotated[
        int | None,
        typer.Option(
            help="Pictures that the model gets: 1 with --from tunes it to one.", min=1, max=6
        ),
    ] = None,
    mixture: Annotated[
        list[float] | None,
        typer.Option(
            help="Weight of each folder of shards, in their order; by people if left out."
        ),
    ] = None,
    changes: options.Set = None,
    perceptual: options.Perceptual = None,
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
            "decoder, deformation, interior, unseen, or a part of one, as decoder.conv_out). "
            "Repeatable."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Part that learns; the others stay as they begin, and cost no time on the way "
            "back: --from RUN --only unseen. Repeatable."
        ),
    ] = None,
    allow_test: Annotated[
        bool,
        typer.Option(
            "--allow-test", help="Also train on people who are held out; every table says so."
        ),
    ] = False,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    workers: options.LoaderWorkers = None,
    processes: Annotated[
        int | None,
        typer.Option(help="Print the line that trains in so many processes, and end.", min=2),
    ] = None,
    table: Annotated[
        int | None,
        typer.Option(help="Train all models of the paper's table 3, 5 or 6 (11: the figure)."),
    ] = None,
    scale: Annotated[
        str, typer.Option(help="With --table, how large: paper, small or tiny.")
    ] = "small",
    seeds: Annotated[int, typer.Option(help="With --table, runs of each model.", min=1)] = 1,
    every: Annotated[
        int, typer.Option("--every", help="Steps between checkpoints and pictures.", min=1)
    ] = 500,
) -> None:
    """Train a model on shards. The same command goes on where a stopped run was.

    SIGINT (Ctrl-C) and SIGTERM end the step in progress and write a checkpoint first. --set also
    changes how the run is carried out, such as run.gradient_checkpointing=true.
    """
    import sys
    from contextlib import nullcontext

    from fastgha_cli import console
    from pipeline.system.progress import silent
    from pipeline.train.processes import launch_line, speaks
    from pipeline.train.request import Request, prepare
    from pipeline.train.variants import refuse_choices, train_table

    if processes is not None:
        console.result(launch_line(processes, sys.argv[1:]))
        return
    say: Callable[[str], None] = console.say if speaks() else lambda _: None
    if table is not None:
        refuse_choices(table, preset=preset, inputs=inputs, origin=origin, anew=anew)
    request = Request(
        preset or "small", inputs, tuple(mixture or ()), tuple(changes or ()), perceptual, origin,
        tuple(anew or ()), tuple(only or ()), device, precision, workers, every, allow_test,
    )  # fmt: skip
    training = prepare(request, say, sys.argv[1:])
    with console.progress("Training") if speaks() else nullcontext(silent) as tick:
        if table is None:
            reports = [training.begin(shards, out, steps, tick, say)]
        else:
            reports = train_table(
                table, shards, out, scale, seeds, training.run,
                changes=request.of_training, until=steps, perceptual=training.perceptual,
                allow_test=allow_test, announce=say, progress=tick,
            )  # fmt: skip
    last = reports[-1]
    if table is not None:
        for report in reports:
            console.result(str(report.checkpoint))
    elif speaks():
        for remark in last.remarks(training.config.batch):
            console.say(remark)
        if not last.stopped_by:
            console.result(str(last.checkpoint))
    else:
        return
    if last.stopped_by:
        raise typer.Exit(last.exit_code)
