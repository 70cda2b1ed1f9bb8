"""`fastgha render`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha render me.avatar --expr seq.npz -o me.mp4"


def render(
    avatars: Annotated[
        list[Path], typer.Argument(help="Avatar files; several are drawn side by side.")
    ],
    expr: Annotated[
        Path | None, typer.Option(help="Expression sequence; a talking head if left out.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Video (.mp4, .webm), or a folder of PNG frames (no suffix)."
        ),
    ] = Path("avatar.mp4"),
    camera: Annotated[
        str,
        typer.Option(
            help="orbit, original (cameras in the sequence file, or in a tracker's folder), or a "
            "path file (.json)."
        ),
    ] = "orbit",
    size: options.ModelSize = None,
    degrees: Annotated[
        float, typer.Option(help="How far the orbit swings to each side.", min=0, max=180)
    ] = 40.0,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second; the sequence's if left out.", min=1)
    ] = None,
    background: Annotated[str, typer.Option(help="Colour by name, or #rrggbb.")] = "white",
    alpha: Annotated[bool, typer.Option("--alpha", help="Transparent (.webm or PNG).")] = False,
    exaggerate: Annotated[
        float, typer.Option(help="Expressions so many times as strong.", min=0)
    ] = 1.0,
    device: options.Device = "auto",
) -> None:
    """Draw avatars under a sequence of expressions, along a path of cameras, to a video.

    A sequence is an npz with codes [t, 120], layout and fps, or with ARKit weights [t, 52], names
    and fps; a CSV of Live Link Face; or what a FLAME tracker left (VHAP, GAGAvatar and others).
    One of another head model than the avatar's is converted, and what that loses is said.
    A path file is JSON: width, height, cameras [{world_to_camera, K}], spread evenly over the
    video; with frame: world they stand in the world of `fastgha avatar --cameras`. Only show
    people who agreed to it.
    """
    from dataclasses import replace

    from fastgha_cli import console
    from pipeline.avatar import animate
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.camera_path import cameras_for
    from pipeline.expressions.convert import read_converted
    from pipeline.system.assets import SEQUENCE
    from pipeline.train.device import choose

    console.consent()
    place = choose(device)
    style, driver = animate.Style(background, alpha), expr or SEQUENCE
    loaded = [Avatar.load(path).to(place) for path in avatars]
    size = size or max(one.image_size for one in loaded)
    read = [read_converted(driver, one.layout) for one in loaded]
    for words in dict.fromkeys(words for _, words in read if words):
        console.say(words)
    sequences = [replace(sequence, fps=fps or sequence.fps) for sequence, _ in read]
    if exaggerate != 1.0:
        sequences = [animate.exaggerate(s, exaggerate) for s in sequences]
    where = loaded[0].head_to_world
    cameras = cameras_for(camera, driver, len(sequences[0]), size, degrees, where)
    with console.progress("Drawing frames") as tick:
        animate.write_video(out, loaded, sequences, cameras, style, tick)
    console.result(str(out))
