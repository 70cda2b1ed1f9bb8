"""`fastgha train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgha_cli import options

if TYPE_CHECKING:
    from pipeline.train.loop import TrainReport

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
        str,
        typer.Option(
            help="paper, small, tiny; an ablation of paper, such as no-geo; or of another, such "
            "as small/no-geo."
        ),
    ] = "small",
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
            "decoder or deformation). Repeatable."
        ),
    ] = None,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    workers: options.Workers = 1,
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
    import os
    import signal
    import sys
    from contextlib import nullcontext

    import torch

    from fastgha_cli import console
    from pipeline.core.config import from_dict, override
    from pipeline.core.errors import ConfigError
    from pipeline.model.checkpoint import resolve
    from pipeline.perception.perceptual import load_perceptual
    from pipeline.system.progress import silent
    from pipeline.train.checkpoint import Origin
    from pipeline.train.config import RunConfig
    from pipeline.train.device import choose
    from pipeline.train.loop import train as run
    from pipeline.train.presets import recipe
    from pipeline.train.processes import launch_line

    if processes is not None:
        console.result(launch_line(processes, _without("--processes", sys.argv[1:])))
        return
    assignments = list(changes or [])
    if inputs is not None:
        assignments += [f"sampling.inputs={inputs}", f"sampling.min_inputs={inputs}"]
    if mixture:
        assignments.append(f"sampling.mixture={mixture}")
    of_run = [a.removeprefix("run.") for a in assignments if a.startswith("run.")]
    config = override(recipe(preset), [a for a in assignments if not a.startswith("run.")])
    base = {
        "checkpoint_every": every,
        "picture_every": every,
        "workers": workers,
        "device": choose(device),
        "precision": precision,
    }
    how = override(from_dict(RunConfig, base), of_run)
    speaks = os.environ.get("RANK", "0") == "0"
    if torch.cuda.device_count() > 1 and how.device == "cuda" and "RANK" not in os.environ:
        line = launch_line(torch.cuda.device_count(), sys.argv[1:])
        console.say(f"One of {torch.cuda.device_count()} GPUs is used. All of them: {line}")
    if anew and origin is None:
        raise ConfigError("--anew leaves out parts of --from, which is not given.", "Add --from.")
    begin = Origin(resolve(origin), tuple(anew or ())) if origin else None
    file = options.perceptual_file(perceptual)
    net = load_perceptual(file, how.device) if file else None
    if net is None and config.loss.perceptual > 0 and speaks:
        console.say("The perceptual term is off: no network was given (--perceptual NAME).")
    if table is not None:
        from pipeline.train.variants import train_table

        with console.progress("Training") if speaks else nullcontext(silent) as tick:
            reports = train_table(
                table, shards, out, scale, seeds, how, perceptual=net,
                announce=console.say if speaks else lambda _: None, progress=tick,
            )  # fmt: skip
        for done in reports:
            console.result(str(done.checkpoint))
        if reports[-1].stopped_by:
            raise typer.Exit(128 + signal.Signals[reports[-1].stopped_by].value)
        return
    with console.progress("Training") if speaks else nullcontext(silent) as tick:
        report = run(
            shards, out, config, how,
            perceptual=net, origin=begin, until=steps, progress=tick,
        )  # fmt: skip
    if not speaks:
        return
    _tell(report, config.batch)
    if report.stopped_by:
        console.say(
            f"Stopped by {report.stopped_by} at step {report.step}; the same command goes on."
        )
        raise typer.Exit(128 + signal.Signals[report.stopped_by].value)
    console.result(str(report.checkpoint))


def _tell(report: TrainReport, batch: int) -> None:
    from fastgha_cli import console

    if report.samples_a_step != batch * report.processes:
        console.say(
            f"This run has {report.samples_a_step} samples a step, as it began; "
            f"{report.processes} processes shared them."
        )
    total = sum(report.seconds.values())
    if not report.steps:
        return
    parts = ", ".join(f"{name} {s / total:.0%}" for name, s in report.seconds.items())
    rate = report.steps * report.samples_a_step / total
    ms = 1e3 * total / report.steps
    console.say(f"{report.steps} steps of {ms:.0f} ms, {rate:.2f} samples/s: {parts}")


def _without(option: str, words: list[str]) -> list[str]:
    kept = [word for word in words if not word.startswith(f"{option}=")]
    while option in kept:
        at = kept.index(option)
        del kept[at : at + 2]
    return kept
