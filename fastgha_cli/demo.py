"""`fastgha demo`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = "Example:  fastgha demo -o demo_out"


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path(
        "demo_out"
    ),
    model: options.Model = None,
    identity: Annotated[int, typer.Option(help="Which held-out person.", min=0)] = 7,
    size: options.ModelSize = None,
    device: options.Device = "auto",
) -> None:
    """Show the whole job: four pictures of a new head, an avatar, a video, measured.

    Needs no download and no GPU. Leaves head.avatar, head.mp4, contact_sheet.png, figures.json.
    """
    from fastgha_cli import console
    from pipeline.apps.demo import run
    from pipeline.train.device import choose

    place = choose(device)
    report = run(out, console.progress, model=model, identity=identity, size=size, device=place)
    console.result(
        f"PSNR {report.psnr:.2f} dB, SSIM {report.ssim:.3f} against the truth; "
        f"{report.gaussians} Gaussians; reconstruction {report.seconds['reconstruction']:.1f} s"
    )
    for name in ("head.avatar", "head.mp4", "contact_sheet.png", "figures.json"):
        console.result(f"  {report.out / name}")
