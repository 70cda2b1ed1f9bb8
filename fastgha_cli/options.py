"""Options that several commands share, worded once."""

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write the figures as JSON too.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace results of other settings in the folder.")
]
Seed = Annotated[int, typer.Option(help="Start of all random numbers.", min=0)]
Workers = Annotated[int, typer.Option(help="Processes that work side by side.", min=0)]
Model = Annotated[
    Path | None,
    typer.Option(
        "--model",
        metavar="FILE",
        help="Checkpoint, run or hf:owner/name; shipped if left out.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, mps, or auto: cuda where there is one and gsplat runs.")
]
ModelSize = Annotated[
    int | None,
    typer.Option(
        "--size",
        help="Width and height of the pictures in pixels; the model's if left out.",
        min=16,
    ),
]
LoaderWorkers = Annotated[
    int | None,
    typer.Option(
        "--workers", help="Processes that read ahead; by device and cores if left out.", min=0
    ),
]
Size = Annotated[int, typer.Option(help="Width and height of the pictures in pixels.", min=16)]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", help="Change a setting, such as loss.depth=0. Repeatable."
    ),
]
Perceptual = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Network of the perceptual term: vgg16 as the paper, mobilenet_v2 on a CPU (see "
        "`fastgha weights`), or a file of either; off if left out.",
    ),
]
