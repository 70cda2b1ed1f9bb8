"""`fastgha eval`: quality and speed by frozen protocols, as the paper's tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

app = typer.Typer(
    help="Quality and speed by frozen protocols: the paper's tables and figures with our figures.",
    epilog="Example:  fastgha eval --shards shards/test --table 1 -o report",
)
Shards = Annotated[
    Path | None, typer.Option(help="Folder of shards of held-out people.", file_okay=False)
]
ProtocolName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE.toml",
        help="ava256-, nersemble- or synthetic-, then same, mixed or one; synthetic-photos (all "
        "estimated from the pictures); or a file; chosen by --table and the shards if left out.",
    ),
]
Inputs = Annotated[
    int | None, typer.Option(help="Another number of inputs than the protocol's.", min=1, max=6)
]
PictureSize = Annotated[
    int | None, typer.Option(help="Another picture size than the protocol's.", min=16)
]
Targets = Annotated[
    int | None, typer.Option(help="Another number of pictures than the protocol's.", min=1)
]


@app.callback(
    invoke_without_command=True,
    epilog="Example:  fastgha eval --shards shards/test --table 1 -o report",
)
def evaluate(
    context: typer.Context,
    shards: Shards = None,
    model: options.Model = None,
    protocol: ProtocolName = None,
    table: Annotated[
        int | None, typer.Option(help="The paper's table: 1, 2 (speed), 3, 5 or 6.")
    ] = None,
    figure: Annotated[
        int | None,
        typer.Option(
            help="The paper's figure: 11 (colour offsets), 12 (inputs), 14 (errors of cameras)."
        ),
    ] = None,
    runs: Annotated[
        Path | None,
        typer.Option(
            help="For tables 3, 5, 6: what `fastgha train --table` made.", file_okay=False
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Another method's pictures; see export-targets.", file_okay=False),
    ] = None,
    name: Annotated[str, typer.Option(help="What the method is called in the table.")] = "",
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Earlier --json of the same protocol, into the same table. Repeatable."),
    ] = None,
    video: Annotated[
        Path | None,
        typer.Option(
            help="Reenact a video of one person in place of shards: some frames make an avatar, "
            "the others are compared; tracked here.",
            dir_okay=False,
        ),
    ] = None,
    frames: Annotated[
        str,
        typer.Option(
            metavar="N,N,...", help="With --video: its frames that are inputs, counted from 0."
        ),
    ] = "",
    refine: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="With --video: also refine the avatar on its inputs, whether it helps or not.",
        ),
    ] = 0.0,
    inputs: Inputs = None,
    size: PictureSize = None,
    targets: Targets = None,
    allow_seen: Annotated[
        bool,
        typer.Option(
            "--allow-seen", help="Also measure on people that the model was trained on; marked."
        ),
    ] = False,
    device: options.Device = "auto",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            file_okay=False,
            help="Folder for report.html, table.csv, table.tex, pictures, and what a stopped "
            "evaluation had finished.",
        ),
    ] = None,
    json: options.Json = None,
) -> None:
    """Measure a model under a protocol, beside baselines and the paper's own figures.

    Measured are only pictures from cameras and under expressions that no input shows. A stopped
    evaluation with -o goes on where it was.
    """
    if context.invoked_subcommand is not None:
        return
    from fastgha_cli import console
    from pipeline.evaluate import experiments

    request = experiments.Request(
        shards, model, protocol, table, figure, runs, predictions, name, tuple(results or ()),
        inputs, size, targets, device, out, allow_seen, video, _numbers(frames), refine,
    )  # fmt: skip
    report = experiments.run(request, console.progress)
    console.tables(report.tables)
    if out is not None:
        console.result(str(report.write(out)))
    console.write_json(json, report.values)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise typer.BadParameter(f"{text} is no list of numbers.", param_hint="--frames") from error


@app.command(
    "export-targets",
    epilog="Example:  fastgha eval export-targets targets --shards shards/test",
)
def export(
    out: Annotated[Path, typer.Argument(help="Folder to write.", file_okay=False)],
    shards: Annotated[Path, typer.Option(help="Folder of shards.", file_okay=False)],
    protocol: ProtocolName = None,
    inputs: Inputs = None,
    size: PictureSize = None,
    targets: Targets = None,
) -> None:
    """Write what another method needs: inputs, cameras, codes, and the list of targets.

    It draws each target to DIR/<subject>-<avatar>/<number>.png; `fastgha eval --predictions DIR
    --name METHOD` measures them under the same protocol.
    """
    from fastgha_cli import console
    from pipeline.evaluate.experiments import choose_protocol, dataset_of
    from pipeline.evaluate.predictions import export_targets
    from pipeline.evaluate.protocol import tasks

    dataset = "" if protocol else dataset_of(shards)
    chosen = choose_protocol(protocol, None, dataset, inputs=inputs, size=size, targets=targets)
    with console.progress("Writing") as tick:
        listing = export_targets(chosen, tasks(chosen, shards, None), out, tick)
    console.result(str(listing))


@app.command(
    "submit-nersemble",
    epilog="Example:  fastgha eval submit-nersemble drawn -o submission.zip",
)
def submit(
    drawn: Annotated[
        Path,
        typer.Argument(help="<participant>/<sequence>/cam_<serial>/<number>.png.", file_okay=False),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Zip to write.")],
) -> None:
    """Pack frames into a submission to the NeRSemble benchmark's monocular avatar task."""
    from fastgha_cli import console
    from pipeline.evaluate.nersemble_benchmark import write_submission

    with console.progress("Encoding") as tick:
        console.result(str(write_submission(drawn, out, tick)))
