"""`fastgha prep`: captures to training shards."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options, recipes

app = typer.Typer(help="Turn captures into training shards.", no_args_is_help=True)


@app.callback()
def _prep() -> None: ...  # pyright: ignore[reportUnusedFunction]


@app.command(epilog="Example:  fastgha prep synthetic shards/train --identities 200")
def synthetic(
    out: Annotated[Path, typer.Argument(help="Folder for the shards.", file_okay=False)],
    identities: Annotated[int, typer.Option(help="How many people.", min=1)] = 200,
    expressions: Annotated[int, typer.Option(help="Expressions of each person.", min=1)] = 16,
    views: Annotated[int, typer.Option(help="Cameras for each expression.", min=1)] = 8,
    size: options.Size = 256,
    yaw: Annotated[
        float,
        typer.Option(
            help="Degrees to each side that cameras look from; 180 is all around.", min=10, max=180
        ),
    ] = 65,
    split: Annotated[
        str, typer.Option(help="train, or test: people that are never in train.")
    ] = "train",
    seed: options.Seed = 0,
    workers: options.Workers = 2,
    overwrite: options.Overwrite = False,
) -> None:
    """Make synthetic captures: people, expressions and cameras drawn at random.

    A run that was stopped goes on where it was when started again.
    """
    from fastgha_cli import console
    from pipeline.core.config import from_dict
    from pipeline.prep import synthetic as stage

    config = from_dict(
        stage.SyntheticConfig,
        {
            "identities": identities,
            "expressions": expressions,
            "views": views,
            "size": size,
            "yaw": yaw,
            "split": split,
            "seed": seed,
        },
    )
    with console.progress("Drawing people") as tick:
        report = stage.run(out, config, workers=workers, overwrite=overwrite, progress=tick)
    console.say(f"{report.done} people drawn, {report.skipped} were there already.")
    console.result(str(out))


recipes.add(app)


@app.command("track-video", epilog="Example:  fastgha prep track-video me.mp4 -o me.track.npz")
def track_video(
    video: Annotated[Path, typer.Argument(help="A video of one person.", dir_okay=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Tracking to write (.npz).")] = Path(
        "track.npz"
    ),
    face: Annotated[
        str, typer.Option(metavar="makehuman|FILE", help="The built-in head, or converted FLAME.")
    ] = "makehuman",
) -> None:
    """Track the head in a video: cameras, expression codes and the person's mesh.

    The file drives an avatar too: fastgha render me.avatar --expr track.npz --camera original
    """
    from fastgha_cli import console
    from pipeline.prep import track_video as stage

    with console.progress("Tracking") as tick:
        report = stage.run(video, out, face=face, progress=tick)
    if report.empty:
        console.say(f"{len(report.empty)} frames show no face, the first is {report.empty[0]}.")
    if report.cuts:
        console.say(f"Another shot begins at frames {', '.join(map(str, report.cuts[:10]))}.")
    console.say(f"{report.frames} frames; the head is off by {report.error_px:.1f} pixels.")
    console.result(str(out))


@app.command(epilog="Example:  fastgha prep check shards/ava --json check.json")
def check(
    out: Annotated[Path, typer.Argument(help="Folder of shards.", file_okay=False)],
    json: options.Json = None,
) -> None:
    """Check shards (bytes, ranges, projections, codes) and draw a page for each in OUT/qa."""
    from dataclasses import asdict

    from fastgha_cli import console
    from pipeline.core.errors import FormatError
    from pipeline.prep import check as stage

    with console.progress("Checking") as tick:
        checks = stage.run(out, tick)
    for one in checks:
        for problem in one.problems:
            console.say(f"{one.name}: {problem}.")
    console.write_json(json, {"shards": [asdict(one) for one in checks]})
    console.result(str(out / "qa"))
    bad = [one.name for one in checks if one.problems]
    if bad:
        raise FormatError(
            f"{len(bad)} of {len(checks)} shards have problems: {', '.join(bad[:5])}.",
            f"Look at their pages in {out / 'qa'}.",
        )
