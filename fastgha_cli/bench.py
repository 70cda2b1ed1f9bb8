"""`fastgha bench`: how fast things are on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastgha_cli import options

if TYPE_CHECKING:
    from pipeline.render.cpu.limits import Details

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
    from pipeline.render import bench

    sizes = bench.parse_scenes(scene) if scene else bench.SIZES
    backends = bench.parse_backends(backend)
    with console.progress("Measuring") as tick:
        rows = bench.bench(
            backends, sizes, peers=peer or (), repeats=repeats, threads=threads, progress=tick
        )
    console.table(
        f"Milliseconds, median of {repeats} (spread), {rows[0]['threads']} threads",
        ["backend", "Gaussians", "pixels", "forward", "backward", "peak MB"],
        [
            [
                row["backend"],
                f"{row['gaussians']:,}",
                f"{row['width']}x{row['height']}",
                f"{row['forward_ms']:.1f} ({row['forward_spread_ms']:.1f})",
                f"{row['backward_ms']:.1f} ({row['backward_spread_ms']:.1f})",
                f"{row['peak_mb']:.0f}",
            ]
            for row in rows
        ],
    )
    details: list[tuple[int, int, Details]] = []
    if "cpu" in backends:
        from pipeline.render.cpu import limits

        with console.progress("Counting") as tick:
            for done, (count, size) in enumerate(sizes, start=1):
                found = limits.examine(*bench.head_scene(count, size), threads=rows[0]["threads"])
                details.append((count, size, found))
                tick(done, len(sizes))
        for count, size, found in details:
            parts = ", ".join(f"{k} {v:.1f}" for k, v in found["phases_ms"].items())
            least = found["limit"]
            console.say(
                f"{count:,} at {size}x{size}, one thread, ms: {parts}; least possible with "
                f"{rows[0]['threads']} threads: {least['forward_ms']:.1f} forward, "
                f"{least['backward_ms']:.1f} backward"
            )
    if plot is not None:
        bench.plot(rows, plot)
        console.say(f"wrote {plot}")
    cpu = [{"gaussians": n, "width": size, "height": size, **found} for n, size, found in details]
    console.write_json(json, {"rows": rows, "cpu": cpu})
