"""`fastgha bench`: how fast things are on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fastgha_cli import options

app = typer.Typer(help="Measure speed and memory on this machine.", no_args_is_help=True)


@app.callback()
def _bench() -> None: ...  # pyright: ignore[reportUnusedFunction]


@app.command(epilog="Example:  fastgha bench render --json render.json --plot render.png")
def render(
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Backend to measure, repeatable; all that run here if left out."),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            help="Another renderer to measure beside ours, such as "
            "tools/peer_gsplat_torch.py:render; repeatable.",
        ),
    ] = None,
    scene: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GAUSSIANSxPIXELS",
            help="Scene to draw, such as 65536x256, repeatable; 2k to 1M if left out.",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Times each is drawn.", min=1)] = 9,
    threads: Annotated[
        int | None, typer.Option(help="Threads; as many as torch takes if left out.", min=1)
    ] = None,
    json: options.Json = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the growth of time as a PNG.")
    ] = None,
) -> None:
    """Time the render backends side by side on head-like scenes, forward and backward.

    Also tells which parts of the CPU backend take the time, and the least time that this
    machine's arithmetic and memory would allow.
    """
    from fastgha_cli import console
    from pipeline.bench import render as bench

    sizes = bench.parse_scenes(scene) if scene else bench.SIZES
    backends = bench.parse_backends(backend)
    with console.progress("Measuring") as tick:
        rows = bench.bench(
            backends, sizes, peers=peer or (), repeats=repeats, threads=threads, progress=tick
        )
    console.tables([bench.show(rows, repeats)])
    cpu: list[bench.CpuRow] = []
    if "cpu" in backends:
        used = rows[0]["threads"]
        with console.progress("Counting") as tick:
            cpu = bench.examine_cpu(sizes, used, tick)
        for row in cpu:
            console.say(bench.remark(row, used))
    console.write_json(json, {"rows": rows, "cpu": cpu})
    if plot is not None:
        bench.plot(rows, plot)
        console.say(f"wrote {plot}")


@app.command(epilog="Example:  fastgha bench model --preset small --json model.json")
def model(
    preset: Annotated[str, typer.Option(help="As of `fastgha train`.")] = "small",
    inputs: Annotated[
        list[int] | None,
        typer.Option(help="Number of pictures, repeatable; 1 to 6 if left out.", min=1, max=6),
    ] = None,
    tflops: Annotated[
        float | None,
        typer.Option(help="Rate of a device in TFLOP/s, for the least possible time.", min=0.001),
    ] = None,
    run: Annotated[
        bool | None,
        typer.Option(help="Also measure the time here; by default only of models without ViT."),
    ] = None,
    device: options.Device = "auto",
    json: options.Json = None,
) -> None:
    """Count what a model costs in parameters, arithmetic and memory, and time it.

    Counting needs no weights; the time is measured with random ones.
    """
    from fastgha_cli import console
    from pipeline.bench import counts
    from pipeline.bench import model as bench
    from pipeline.train.device import choose
    from pipeline.train.presets import recipe

    place = choose(device)
    config = recipe(preset).model
    views = inputs or [1, 2, 3, 4, 5, 6]
    found = counts.count_views(config, views)
    console.tables(counts.show(preset, config, found, tflops))
    rows: list[bench.Row] = []
    if run if run is not None else config.features.kind == "conv":
        with console.progress("Measuring") as tick:
            rows = bench.bench(config, views, device=place, progress=tick)
        console.tables([bench.show(rows)])
    console.write_json(json, {"preset": preset, "counts": found, "rows": rows})


@app.command(epilog="Example:  fastgha bench avatar --json avatar.json")
def avatar(
    model: options.Model = None,
    shards: Annotated[
        Path | None,
        typer.Option(help="Folder of shards; synthetic people if left out.", file_okay=False),
    ] = None,
    people: Annotated[int, typer.Option(help="How many people.", min=1)] = 2,
    size: Annotated[
        list[int] | None, typer.Option(help="Picture size, repeatable; 256 and 512.", min=16)
    ] = None,
    frames: Annotated[int, typer.Option(help="Frames timed at each size.", min=2)] = 24,
    device: options.Device = "auto",
    json: options.Json = None,
) -> None:
    """Time avatars of held-out people: plain, with the first layer kept, pruned, baked, distilled.

    PSNR is against the exact avatar's pictures, and against the truth.
    """
    from fastgha_cli import console
    from pipeline.bench import avatar as bench
    from pipeline.train.device import choose

    place = choose(device)
    with console.progress("Measuring") as tick:
        rows = bench.bench(
            model, shards, people=people, sizes=size or (256, 512), frames=frames, device=place,
            progress=tick,
        )  # fmt: skip
    console.tables([bench.show(rows, people, frames)])
    console.write_json(json, {"rows": rows})


@app.command(epilog="Example:  fastgha bench train --size 64 --size 256 --json train.json")
def train(
    preset: Annotated[str, typer.Option(help="As of `fastgha train`.")] = "small",
    size: Annotated[
        list[int] | None,
        typer.Option(help="Picture size, repeatable; those of the preset if left out.", min=16),
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="plain, bfloat16, channels_first, attention_written_out, gradient_checkpointing "
            "or compile; repeatable, side by side."
        ),
    ] = None,
    shards: Annotated[
        Path | None,
        typer.Option(help="Folder of shards; two synthetic people if left out.", file_okay=False),
    ] = None,
    perceptual: options.Perceptual = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights in place of downloaded ones.")
    ] = False,
    changes: options.Set = None,
    device: options.Device = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    repeats: Annotated[int, typer.Option(help="Steps that are counted.", min=1)] = 9,
    json: options.Json = None,
) -> None:
    """Time the parts of a training step, and its memory, in several ways side by side."""
    from fastgha_cli import console
    from pipeline.bench import train as bench
    from pipeline.core.config import from_dict, override
    from pipeline.system.machine import machine
    from pipeline.train.config import RunConfig
    from pipeline.train.device import choose
    from pipeline.train.presets import recipe
    from pipeline.train.request import perceptual_file

    config = override(recipe(preset), changes or [])
    how = from_dict(RunConfig, {"device": choose(device), "precision": precision})
    sizes = size or list(config.sizes)
    variants = variant or ["plain"]
    with console.progress("Measuring") as tick:
        rows = bench.bench(
            config, how, sizes=sizes, variants=variants, shards=shards,
            perceptual=perceptual_file(perceptual),
            source="random" if random else "pretrained", repeats=repeats, progress=tick,
        )  # fmt: skip
    console.tables([bench.show(preset, rows, repeats)])
    console.write_json(json, {"preset": preset, "machine": machine(), "rows": rows})


@app.command(epilog="Example:  fastgha bench track --json track.json")
def track(
    people: Annotated[int, typer.Option(help="Synthetic people to track.", min=1)] = 4,
    frames: Annotated[int, typer.Option(help="Of each person.", min=1)] = 8,
    noise: Annotated[
        float, typer.Option(help="Of the landmarks, pixels of a 512-pixel picture.", min=0)
    ] = 1.0,
    seed: options.Seed = 0,
    through: Annotated[
        Literal["landmarks", "detector"],
        typer.Option(
            help="What is fitted: true landmarks with noise, or what is detected in pictures drawn."
        ),
    ] = "landmarks",
    json: options.Json = None,
) -> None:
    """Measure the face tracker on synthetic people whose truth is known."""
    from fastgha_cli import console
    from pipeline.bench import detect
    from pipeline.bench import track as bench

    if through == "detector":
        with console.progress("Tracking") as tick:
            found = detect.bench(people, frames, seed, tick)
        console.tables([detect.show(found)])
        console.write_json(json, {"rows": found})
        return
    with console.progress("Tracking") as tick:
        rows = bench.bench(people, frames, noise, seed, tick)
    console.tables([bench.show(rows, people, frames, noise)])
    console.write_json(json, {"rows": rows})


@app.command(epilog="Example:  fastgha bench motion --people 24 --json motion.json")
def motion(
    model: options.Model = None,
    people: Annotated[int, typer.Option(help="Synthetic people.", min=1)] = 12,
    size: options.Size = 256,
    json: options.Json = None,
) -> None:
    """Measure how far mouths open, lids shut and eyes turn, beside the people's own."""
    from fastgha_cli import console
    from pipeline.bench import motion as bench

    with console.progress("Moving faces") as tick:
        rows = bench.bench(model, people=people, size=size, progress=tick)
    console.tables([bench.show(rows, people)])
    console.write_json(json, {"rows": rows})


@app.command(epilog="Example:  fastgha bench refine --video me.mp4 --json refine.json")
def refine(
    video: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A video; a synthetic person if left out."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Of each fit.", min=0.1)] = 120.0,
    model: options.Model = None,
    old: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Another checkpoint to begin from; repeatable."),
    ] = None,
    size: options.Size = 256,
    length: Annotated[
        float, typer.Option(help="Of the synthetic person's video, seconds.", min=1)
    ] = 10.0,
    json: options.Json = None,
) -> None:
    """Measure the fit to a video against time: from the network, the bare mesh, other models.

    All figures are of the last fifth of the video, for which nothing is chosen, except "of
    judges": every tenth frame before it, which is not fitted to either.
    """
    from fastgha_cli import console
    from pipeline.avatar.fit import FitConfig
    from pipeline.bench import refine as bench
    from pipeline.system.machine import machine

    if video is None:
        scene = bench.synthetic(length, size)
    else:
        scene = bench.filmed(video, size, console.progress)
    rows = bench.bench(
        scene, model=model, old=old or (), config=FitConfig(seconds), bars=console.progress
    )
    console.tables([bench.show(rows, scene.footage.name)])
    console.write_json(json, {"seconds": seconds, "machine": machine(), "rows": rows})


@app.command(epilog="Example:  fastgha bench prep my_photos --json prep.json")
def prep(
    photos: Annotated[Path, typer.Argument(help="Folders of photographs.", file_okay=False)],
    size: options.Size = 512,
    json: options.Json = None,
) -> None:
    """Time the stages of `fastgha prep photos` with 1 and 2 workers, and reading of shards."""
    from fastgha_cli import console
    from pipeline.bench import prep as bench
    from pipeline.prep.plan import PrepConfig

    figures = bench.bench(photos, PrepConfig("photos", size=size, cameras=0, need_codes=False))
    console.tables([bench.show(figures)])
    console.write_json(json, figures)


@app.command("all", epilog="Example:  fastgha bench all -o bench.json")
def measure_all(
    out: Annotated[Path, typer.Option("--out", "-o", help="Record to write.")] = Path("bench.json"),
    only: Annotated[
        list[str] | None,
        typer.Option(help="render, model, train, avatar, track, prep or web; repeatable."),
    ] = None,
    model: options.Model = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Only show that everything runs; figures do not count.")
    ] = False,
) -> None:
    """Measure everything in one record with machine and commit, to be kept and compared.

    What cannot run here is named with its reason. Nothing else should run meanwhile. Stopped, the
    same command goes on.
    """
    from fastgha_cli import console
    from pipeline.apps.web import export_web
    from pipeline.bench import suite
    from pipeline.bench.record import busy

    plan = suite.quick(export_web, model) if quick else suite.Plan(export_web, checkpoint=model)
    with console.progress("Measuring") as tick:
        record = suite.measure(plan, out, tuple(only or ()), progress=tick)
    if warning := busy(record):
        console.say(f"The figures are not of an idle machine: {warning}")
    for name, why in record.skipped.items():
        console.say(f"{name} was not measured: {why}")
    console.result(f"{len(record.figures)} figures: {out}")


@app.command(epilog="Example:  fastgha bench compare before.json after.json")
def compare(
    before: Annotated[Path, typer.Argument(help="Record of `fastgha bench all`.")],
    after: Annotated[Path, typer.Argument(help="A later one, of the same machine.")],
) -> None:
    """Say what got slower between two records, beyond their noise; exit code 1 if anything did."""
    from fastgha_cli import console
    from pipeline.bench import record

    first, second = record.read_record(before), record.read_record(after)
    changes = record.compare(first, second)
    console.tables([record.show(changes, first, second)])
    if any(change.counts for change in changes):
        raise typer.Exit(1)
