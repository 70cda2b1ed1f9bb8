"""`fastgha avatar`."""

from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

EXAMPLE = (
    "Example:  fastgha avatar front.jpg left.jpg right.jpg -o me.avatar, or of a video:  fastgha "
    "avatar me.mp4 --refine 120 -o me.avatar"
)


def avatar(
    photos: Annotated[
        list[Path],
        typer.Argument(
            help="1 to 6 photographs of one person, or one video or folder of its frames."
        ),
    ],
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
    also: Annotated[
        list[Path] | None,
        typer.Option(metavar="PHOTO", help="A photograph beside a video; repeatable."),
    ] = None,
    face: Annotated[
        int | None,
        typer.Option(help="Which face, where there are several; 1 is the largest.", min=1),
    ] = None,
) -> None:
    """Make an avatar of photographs, or of a video.

    Photographs: matte, landmarks, cameras, then one pass of the model. A video: up to six of its
    frames likewise, then a light avatar is fitted to the others for the seconds of --refine; every
    tenth frame and the last fifth are held back, and tell how good it is. Ctrl-C ends the fit and
    keeps the best so far.

    A file of cameras is JSON: width, height, cameras [{world_to_camera, K}], in the order of the
    photographs; frame is head (if left out) or world, where the head is found first, in one place
    for all photographs, or with static: false in one for each. Only make avatars of people who
    agreed to it.
    """
    from fastgha_cli import console
    from pipeline.avatar.create import make_avatar
    from pipeline.avatar.video import is_video
    from pipeline.train.device import choose

    console.consent()
    place, notes = choose(device), list[str]()
    if any(is_video(path) for path in photos):
        _alone(photos, cameras, face)
        _of_video(photos[0], out, model, also or [], matting, refine, size, place, sheet)
        return
    photos = [*photos, *(also or [])]
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


def _alone(given: list[Path], cameras: Path | None, face: int | None) -> None:
    from pipeline.core.errors import InputError

    if len(given) > 1:
        raise InputError(
            f"{len(given)} files were given, one of them a video.",
            "Give one video, and photographs beside it with --also.",
        )
    if cameras is not None or face is not None:
        raise InputError(
            "--cameras and --face are for photographs.", "Leave them out: a video is tracked."
        )


def _of_video(
    video: Path,
    out: Path,
    model: Path | None,
    also: list[Path],
    matting: str,
    seconds: float,
    size: int | None,
    device: str,
    sheet: Path | None,
) -> None:
    from collections.abc import Callable

    from fastgha_cli import console
    from pipeline.avatar.avatar import Avatar
    from pipeline.avatar.create import VIDEO_SIZE, make_video_avatar
    from pipeline.avatar.fit import Look

    def tell(look: Look, now: Callable[[], Avatar]) -> None:
        console.say(
            f"{look.seconds:5.0f} s of {seconds:.0f}: held-back frames {look.judged:.2f} dB, the "
            f"end {look.unseen:.2f} dB ({look.steps} steps, {look.size} pixels)"
        )

    made, report = make_video_avatar(
        video, model, also=also, matting=matting, seconds=seconds, size=size or VIDEO_SIZE,
        sheet=sheet, device=device, bars=console.progress, note=console.say, tell=tell,
    )  # fmt: skip
    if report is not None and report.stopped:
        console.say("Stopped: the best so far is kept.")
    made.save(out)
    frames = made.made.get("video_frames")
    console.say(f"{len(made.canonical)} Gaussians from {frames} frames.")
    if report is not None:
        best = report.best
        console.say(
            f"Held-back frames {best.judged:.2f} dB of the head, at the end {best.unseen:.2f}; "
            f"{report.steps_per_s:.1f} steps a second."
        )
    console.result(str(out))
