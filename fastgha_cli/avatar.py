"""`fastgha avatar`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha avatar front.jpg left.jpg right.jpg -o me.avatar"


def avatar(
    photos: Annotated[list[Path], typer.Argument(help="1 to 6 photographs of one person.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Avatar file to write.")] = Path(
        "me.avatar"
    ),
    model: options.Model = None,
    matting: Annotated[
        str, typer.Option(help="Matting network, as of `fastgha prep photos`.")
    ] = "modnet",
    refine: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Fit the avatar more closely to them.", min=0),
    ] = 0.0,
    size: options.ModelSize = None,
    device: options.Device = "auto",
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a picture of crops, mattes and landmarks."),
    ] = None,
    cameras: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Known cameras of the photographs (.json)."),
    ] = None,
    face: Annotated[
        int | None,
        typer.Option(help="Which face, where there are several; 1 is the largest.", min=1),
    ] = None,
) -> None:
    """Make an avatar of photographs: matte, landmarks, cameras, then one pass of the model.

    A file of cameras is JSON: width, height, cameras [{world_to_camera, K}], in the order of the
    photographs; frame is head (if left out) or world, where the head is found first, in one place
    for all photographs, or with static: false in one for each. Only make avatars of people who
    agreed to it.
    """
    from fastgha_cli import console
    from pipeline.avatar.create import make_avatar
    from pipeline.train.device import choose

    console.consent()
    place, notes = choose(device), list[str]()
    with console.progress("Preparing photographs") as tick:
        made = make_avatar(
            photos, model, matting=matting, size=size, sheet=sheet, refine_s=refine,
            cameras=cameras, face=face, device=place, progress=tick, note=notes.append,
        )  # fmt: skip
    for said in notes:
        console.say(said)
    made.save(out)
    console.say(f"{len(made.canonical)} Gaussians from {len(photos)} photographs.")
    console.result(str(out))
