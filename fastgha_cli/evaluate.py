"""`fastgha eval`: quality and speed by frozen protocols, as the paper's tables and figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgha_cli import options

if TYPE_CHECKING:
    from pipeline.evaluate.protocol import Protocol

DEFAULTS = {1: "synthetic-same", 3: "synthetic-mixed", 5: "synthetic-mixed", 6: "synthetic-one"}

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
        help="ava256-same, ava256-mixed, nersemble-same, nersemble-one, synthetic-same, "
        "synthetic-mixed, synthetic-one, or a file; chosen by --table if left out.",
    ),
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
            help="The paper's figure: 11 (colour offsets), 12 (inputs), 14 (camera noise)."
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
    inputs: Annotated[
        int | None, typer.Option(help="Another number of inputs than the protocol's.", min=1, max=6)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Another picture size than the protocol's.", min=16)
    ] = None,
    targets: Annotated[
        int | None, typer.Option(help="Another number of pictures than the protocol's.", min=1)
    ] = None,
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
    from fastgha_cli import evaluation
    from pipeline.core.errors import ConfigError
    from pipeline.train.device import choose

    if table == 2:
        evaluation.speed(model, shards, choose(device), out, json)
        return
    if shards is None:
        raise ConfigError("Which pictures? No shards were given.", "Add --shards FOLDER.")
    chosen = _protocol(protocol, table, inputs, size, targets)
    job = evaluation.Job(shards, chosen, choose(device), out, json)
    if figure == 11:
        evaluation.variants(job, 11, runs)
    elif figure is not None:
        evaluation.figure(job, model, figure)
    elif table in (3, 5, 6):
        evaluation.variants(job, table, runs)
    else:
        evaluation.one(job, model, table, predictions, name, results or [])


@app.command(
    "export-targets",
    epilog="Example:  fastgha eval export-targets targets --shards shards/test",
)
def export(
    out: Annotated[Path, typer.Argument(help="Folder to write.", file_okay=False)],
    shards: Annotated[Path, typer.Option(help="Folder of shards.", file_okay=False)],
    protocol: ProtocolName = None,
    inputs: Annotated[
        int | None, typer.Option(help="Another number of inputs than the protocol's.", min=1, max=6)
    ] = None,
    size: Annotated[
        int | None, typer.Option(help="Another picture size than the protocol's.", min=16)
    ] = None,
    targets: Annotated[
        int | None, typer.Option(help="Another number of pictures than the protocol's.", min=1)
    ] = None,
) -> None:
    """Write what another method needs: inputs, cameras, codes, and the list of targets.

    It draws each target to DIR/<subject>-<avatar>/<number>.png; `fastgha eval --predictions DIR
    --name METHOD` measures them under the same protocol.
    """
    from fastgha_cli import console
    from pipeline.evaluate.predictions import export_targets
    from pipeline.evaluate.protocol import tasks

    chosen = _protocol(protocol, None, inputs, size, targets)
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


def _protocol(
    name: str | None,
    table: int | None,
    inputs: int | None,
    size: int | None,
    targets: int | None,
) -> Protocol:
    from dataclasses import replace

    from pipeline.evaluate.protocol import read

    protocol = read(name or DEFAULTS.get(table or 0, "synthetic-mixed"))
    changed = {
        key: value
        for key, value in (("inputs", inputs), ("size", size), ("targets", targets))
        if value is not None
    }
    return replace(protocol, name=f"{protocol.name}, changed", **changed) if changed else protocol
