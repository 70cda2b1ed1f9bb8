"""`fastgha export`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

app = typer.Typer(help="Write an avatar for other programs.", no_args_is_help=True)


@app.command(epilog="Example:  fastgha export splats me.avatar --expr seq.npz --frame 12 -o me.ply")
def splats(
    avatar: Annotated[Path, typer.Argument(help="Avatar file.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to write: .ply, .spz or .glb.")
    ] = Path("avatar.ply"),
    expr: Annotated[
        Path | None, typer.Option(help="Expression sequence; the canonical head if left out.")
    ] = None,
    frame: Annotated[
        int | None, typer.Option(help="Which frame; all of them, numbered, if left out.", min=0)
    ] = None,
    animated: Annotated[
        bool, typer.Option("--animated", help="All frames in one PLY, as Brush plays it.")
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Write Gaussians as PLY (3DGS layout), SPZ or GLB, which common splat viewers open.

    Without --expr the canonical head, before any expression. With --expr one frame, or every frame
    as me_00000.ply and so on; with --animated all in one file of offsets.
    """
    from fastgha_cli import console
    from pipeline.avatar.avatar import Avatar
    from pipeline.core.errors import InputError
    from pipeline.expressions.read import read_expressions
    from pipeline.io.splats import write_animated, write_splats
    from pipeline.train.device import choose

    if animated and (expr is None or frame is not None):
        raise InputError("--animated writes a sequence.", "Give --expr, and no --frame.")
    console.consent()
    place = choose(device, draws=False)
    loaded = Avatar.load(avatar).to(place)
    if expr is None:
        write_splats(out, loaded.canonical)
        console.result(str(out))
        return
    codes = read_expressions(expr, loaded.layout).codes
    if frame is not None and frame >= len(codes):
        raise InputError(f"{expr} has {len(codes)} frames; {frame} is not one.", "Count from 0.")
    chosen = range(len(codes)) if frame is None else [frame]
    if animated:
        write_animated(out, [loaded.animate(codes[i]) for i in range(len(codes))])
        console.result(str(out))
        return
    with console.progress("Writing frames") as tick:
        for done, i in enumerate(chosen):
            name = out if frame is not None else out.with_stem(f"{out.stem}_{i:05d}")
            write_splats(name, loaded.animate(codes[i]))
            tick(done + 1, len(chosen))
            console.result(str(name))


@app.command(epilog="Example:  fastgha export web me.avatar -o site")
def web(
    avatar: Annotated[Path, typer.Argument(help="Avatar file; an exact one is distilled first.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write.")] = Path("site"),
    expr: Annotated[
        Path | None, typer.Option(help="Sequence to play; a talking head if left out.")
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="How long an exact one is fitted (bake --gaussians).", min=0)
    ] = 40.0,
    webcam: Annotated[
        bool,
        typer.Option("--webcam", help="Let a webcam drive it (`fastgha weights fetch webcam`)."),
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Write a page with the avatar: sliders, expressions, a sequence, a custom element.

    Everything is inside; index.html opens from the disk or from any server of files. ?bench
    measures and prints JSON, ?size=256 fixes the picture's size; more is in docs/web.md.
    """
    from fastgha_cli import console
    from pipeline.apps.web import export_web
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.distill import DistillConfig
    from pipeline.avatar.lighten import lighten
    from pipeline.expressions.read import read_expressions
    from pipeline.system.assets import SEQUENCE
    from pipeline.train.device import choose

    console.consent()
    place = choose(device)
    loaded = Avatar.load(avatar).to(place)
    loaded = lighten(loaded, DistillConfig(seconds=seconds), console.progress)
    sequence = read_expressions(expr or SEQUENCE, loaded.layout)
    console.result(str(export_web(loaded, out, sequence, webcam=webcam)))
