"""`fastgha prep`: captures to training shards."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastgha_cli import options

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
            "split": split,
            "seed": seed,
        },
    )
    with console.progress("Drawing people") as tick:
        report = stage.run(out, config, workers=workers, overwrite=overwrite, progress=tick)
    console.say(f"{report.done} people drawn, {report.skipped} were there already.")
    console.result(str(out))


Raw = Annotated[Path, typer.Argument(help="Folder of the raw data, as its owner lays it out.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.", file_okay=False)]
Prepared = Annotated[Path, typer.Argument(help="Folder that a recipe began.", file_okay=False)]
Cameras = Annotated[int, typer.Option(help="Take the most frontal so many; 0: all.", min=0)]
Segments = Annotated[str, typer.Option(help="Sentences to take, a pattern such as 'EXP_*'.")]
Every = Annotated[int, typer.Option(help="Take one timestep of so many.", min=1)]
Most = Annotated[int, typer.Option(help="Most timesteps of a capture; 0: all.", min=0)]
Flame = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="FLAME, converted: head poses tracked with it need the model."
    ),
]
Matting = Annotated[str, typer.Option(help="modnet or u2netp, where no matte is shipped.")]
Detector = Annotated[str, typer.Option(help="Landmarks: mesh, fan (face-alignment) or none.")]
Codes = Annotated[bool, typer.Option(help="Drop timesteps that have no expression code.")]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: its address, auto or local."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Count what would be made; write nothing.")]


@app.command(epilog="Example:  fastgha prep ava256 /data/ava-256 -o shards/ava --workers 16")
def ava256(
    raw: Raw,
    out: Out,
    size: options.Size = 512,
    cameras: Cameras = 40,
    segments: Segments = "*",
    every: Every = 1,
    most: Most = 0,
    matting: Matting = "modnet",
    detector: Detector = "mesh",
    codes: Codes = True,
    workers: options.Workers = 2,
    ray: Ray = None,
    dry_run: DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Take Ava-256 captures to shards. The same command goes on where a stopped run was."""
    settings = {"cameras": cameras, "segments": segments, "every": every, "max_timesteps": most}
    settings |= {"matting": matting, "detector": detector, "need_codes": codes, "size": size}
    _recipe("ava256", raw, out, settings, workers, ray, dry_run, overwrite)


@app.command(epilog="Example:  fastgha prep nersemble /data/nersemble -o shards/nersemble")
def nersemble(
    raw: Raw,
    out: Out,
    size: options.Size = 512,
    cameras: Cameras = 0,
    segments: Segments = "*",
    every: Every = 1,
    most: Most = 0,
    matting: Matting = "modnet",
    detector: Detector = "mesh",
    codes: Codes = True,
    flame: Flame = None,
    workers: options.Workers = 2,
    ray: Ray = None,
    dry_run: DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Take NeRSemble participants (version 1, 2, paper's zips or benchmark) to shards."""
    settings = {"cameras": cameras, "segments": segments, "every": every, "max_timesteps": most}
    settings |= {"matting": matting, "detector": detector, "need_codes": codes, "size": size}
    settings |= {"flame": _absolute(flame)}
    _recipe("nersemble", raw, out, settings, workers, ray, dry_run, overwrite)


@app.command(epilog="Example:  fastgha prep folder exports/074_EMO-1 -o shards/vhap")
def folder(
    raw: Raw,
    out: Out,
    size: options.Size = 512,
    every: Every = 1,
    most: Most = 0,
    matting: Matting = "modnet",
    detector: Detector = "mesh",
    codes: Codes = True,
    flame: Flame = None,
    workers: options.Workers = 2,
    ray: Ray = None,
    dry_run: DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Take exports of VHAP (the layout of GaussianAvatars) to shards."""
    settings = {"cameras": 0, "every": every, "max_timesteps": most, "size": size}
    settings |= {"matting": matting, "detector": detector, "need_codes": codes}
    settings |= {"flame": _absolute(flame)}
    _recipe("folder", raw, out, settings, workers, ray, dry_run, overwrite)


@app.command(epilog="Example:  fastgha prep photos my_photos -o shards/me")
def photos(
    raw: Raw,
    out: Out,
    size: options.Size = 512,
    matting: Matting = "modnet",
    workers: options.Workers = 1,
    dry_run: DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Take photographs of people (a folder each) to shards: cameras and codes estimated."""
    settings = {"cameras": 0, "matting": matting, "need_codes": False, "size": size}
    _recipe("photos", raw, out, settings, workers, None, dry_run, overwrite)


@app.command(epilog="Example:  fastgha prep video me.mp4 -o shards/me --every 5")
def video(
    raw: Raw,
    out: Out,
    size: options.Size = 512,
    every: Every = 1,
    most: Most = 0,
    matting: Matting = "modnet",
    workers: options.Workers = 1,
    dry_run: DryRun = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Take a video of one person to a shard: cameras and codes estimated."""
    settings = {
        "cameras": 0,
        "every": every,
        "max_timesteps": most,
        "matting": matting,
        "size": size,
    }
    settings |= {"need_codes": False}
    _recipe("video", raw, out, settings, workers, None, dry_run, overwrite)


@app.command(epilog="Example:  fastgha prep landmarks shards/ava --workers 8")
def landmarks(out: Prepared, workers: options.Workers = 2, ray: Ray = None) -> None:
    """Find 68 landmarks in every raw picture."""
    _stage("landmarks", out, workers, ray)


@app.command(epilog="Example:  fastgha prep track shards/ava --workers 8")
def track(out: Prepared, workers: options.Workers = 2, ray: Ray = None) -> None:
    """Bring cameras, codes, landmarks and mesh into the head frame."""
    _stage("track", out, workers, ray)


@app.command(epilog="Example:  fastgha prep crop shards/ava --workers 8")
def crop(out: Prepared, workers: options.Workers = 2, ray: Ray = None) -> None:
    """Crop every picture to the head, and its camera with it."""
    _stage("crop", out, workers, ray)


@app.command(epilog="Example:  fastgha prep matte shards/ava --workers 8")
def matte(out: Prepared, workers: options.Workers = 2, ray: Ray = None) -> None:
    """Cut the heads from their background where the data set ships no matte."""
    _stage("matte", out, workers, ray)


@app.command(epilog="Example:  fastgha prep pack shards/ava")
def pack(out: Prepared, workers: options.Workers = 1, ray: Ray = None) -> None:
    """Write what the stages made into one shard for each capture."""
    _stage("pack", out, workers, ray)


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


def _absolute(file: Path | None) -> str:
    return "" if file is None else str(file.resolve())


def _recipe(
    source: str,
    raw: Path,
    out: Path,
    settings: dict[str, Any],
    workers: int,
    ray: str | None,
    dry_run: bool,
    overwrite: bool,
) -> None:
    from fastgha_cli import console
    from pipeline.core.config import from_dict
    from pipeline.prep import run as recipes

    config = from_dict(recipes.PrepConfig, {"source": source, **settings})
    if dry_run:
        plan = recipes.estimate(raw, out, config)
        console.result(
            f"{plan.captures} captures, {plan.timesteps} timesteps, {plan.pictures} pictures; "
            f"about {plan.bytes_needed / 1e9:.1f} GB needed, {plan.bytes_free / 1e9:.1f} GB free; "
            f"about {plan.seconds / max(workers, 1) / 3600:.1f} hours"
        )
        return
    with console.progress("Preparing") as tick:
        report = recipes.run(
            raw, out, config, workers=workers, ray=ray, overwrite=overwrite,
            tick=lambda stage, done, total: tick(done, total),
        )  # fmt: skip
    for name, reason in report.dropped.items():
        console.say(f"{name} left out: {reason}.")
    console.say(f"{report.done} items made, {report.skipped} were there already.")
    console.result(str(out))


def _stage(stage: str, out: Path, workers: int, ray: str | None) -> None:
    from fastgha_cli import console
    from pipeline.prep import run as recipes

    with console.progress(stage.capitalize()) as tick:
        report = recipes.run_stage(
            out, stage, workers=workers, ray=ray, tick=lambda _, done, total: tick(done, total)
        )
    console.say(f"{report.done} items made, {report.skipped} were there already.")
    console.result(str(out))
