"""The commands of `fastgha prep` that take a kind of capture to shards, and their stages.

A new kind of capture is one entry of `RECIPES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated

import typer

from fastgha_cli import options

Value = str | int | bool | Path | None


@dataclass(frozen=True)
class Choice:
    """A parameter that recipes share, worded once."""

    kind: object
    """Its type, with typer's declaration."""
    default: Value = None
    setting: str = ""
    """Field of `PrepConfig` that it sets; empty if it is about the run."""


def _whole(name: str | None) -> str | None:
    """Return the whole path of a file; `makehuman` is a name."""
    return name if name in (None, "makehuman") else str(Path(name).resolve())


CHOICES: dict[str, Choice] = {
    "size": Choice(options.Size, 512, "size"),
    "cameras": Choice(
        Annotated[int, typer.Option(help="Take the most frontal so many; 0: all.", min=0)],
        0, "cameras",
    ),
    "segments": Choice(
        Annotated[str, typer.Option(help="Sentences to take, a pattern such as 'EXP_*'.")],
        "*", "segments",
    ),
    "every": Choice(
        Annotated[int, typer.Option(help="Take one timestep of so many.", min=1)], 1, "every"
    ),
    "most": Choice(
        Annotated[int, typer.Option(help="Most timesteps of a capture; 0: all.", min=0)],
        0, "max_timesteps",
    ),
    "matting": Choice(
        Annotated[str, typer.Option(
                help="Where no matte is shipped: modnet, u2netp, isnet-general-use or "
                "birefnet-portrait (see `fastgha weights`)."
            )],
        "modnet", "matting",
    ),
    "detector": Choice(
        Annotated[
            str,
            typer.Option(
                help="Landmarks: fan (face-alignment), mesh, none, or auto: fan where it is."
            ),
        ],
        "auto", "detector",
    ),
    "codes": Choice(
        Annotated[bool, typer.Option(help="Drop timesteps that have no expression code.")],
        True, "need_codes",
    ),
    "flame": Choice(
        Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="FLAME, converted: head poses tracked with it need the model.",
            ),
        ],
        None, "flame",
    ),
    "split": Choice(
        Annotated[
            str,
            typer.Option(help="train, test (people held out by the lists of the package) or all."),
        ],
        "all", "split",
    ),
    "device": Choice(
        Annotated[str, typer.Option(help="Where networks run that can: cpu, cuda, mps or auto.")],
        "auto",
    ),
    "tracking": Choice(
        Annotated[
            Path | None,
            typer.Option(
                metavar="DIR",
                help="Codes of a tracker (VHAP, metrical-tracker, Pixel3DMM, NeRSemble's, ours): "
                "DIR/<capture>/<sentence>.",
            ),
        ],
        None, "tracking",
    ),
    "face": Choice(
        Annotated[
            str | None,
            typer.Option(
                metavar="makehuman|FILE", callback=_whole,
                help="Our own fit of this head or of converted FLAME: codes, head poses, mesh.",
            ),
        ],
        None, "face",
    ),
    "workers": Choice(options.Workers, 2),
    "ray": Choice(
        Annotated[
            str | None,
            typer.Option(
                metavar="ADDRESS", help="Work on a Ray cluster: its address, auto or local."
            ),
        ]
    ),
    "probe": Choice(
        Annotated[
            bool,
            typer.Option(
                "--probe",
                help="Only try 20 timesteps of one person: what is met, and what all would take.",
            ),
        ],
        False,
    ),
    "dry_run": Choice(
        Annotated[
            bool, typer.Option("--dry-run", help="Count what would be made; write nothing.")
        ],
        False,
    ),
    "overwrite": Choice(options.Overwrite, False),
}  # fmt: skip
"""In the order in which --help lists them."""

EVERY_RECIPE = ("size", "matting", "device", "workers", "dry_run", "overwrite")
TRACKED = ("every", "most", "detector", "codes", "tracking", "face", "flame", "ray", "probe")
"""Choices for data sets with many timesteps, which ship cameras and codes."""


@dataclass(frozen=True)
class Recipe:
    """A kind of capture, as a command."""

    source: str
    """Name of the command, and of the data set in `pipeline.captures.registry`."""
    help: str
    example: str
    choices: tuple[str, ...] = ()
    """Of `CHOICES`, beside `EVERY_RECIPE`."""
    defaults: Mapping[str, Value] = field(default_factory=lambda: dict[str, Value]())
    """Where they differ from those of `CHOICES`."""
    fixed: Mapping[str, Value] = field(default_factory=lambda: dict[str, Value]())
    """Settings that the user is not asked for."""


RECIPES = (
    Recipe(
        "ava256",
        "Take Ava-256 captures to shards. The same command goes on where a stopped run was.",
        "/data/ava-256 -o shards/ava --face makehuman --workers 16",
        (*TRACKED, "cameras", "segments", "split"),
        defaults={"cameras": 40},
    ),
    Recipe(
        "nersemble",
        "Take NeRSemble participants (version 1, 2, paper's zips or benchmark) to shards.",
        "/data/nersemble -o shards/nersemble --face makehuman",
        (*TRACKED, "cameras", "segments", "split"),
    ),
    Recipe(
        "folder",
        "Take exports of VHAP (the layout of GaussianAvatars) to shards.",
        "exports/074_EMO-1 -o shards/vhap --flame flame2023.npz",
        TRACKED,
        defaults={"detector": "mesh"},
        fixed={"cameras": 0},
    ),
    Recipe(
        "photos",
        "Take photographs of people (a folder each) to shards: cameras and codes estimated.",
        "my_photos -o shards/me",
        ("face",),
        defaults={"workers": 1},
        fixed={"cameras": 0, "need_codes": False},
    ),
    Recipe(
        "video",
        "Take a video of one person to a shard: cameras and codes estimated.",
        "me.mp4 -o shards/me --every 5",
        ("every", "most", "face"),
        defaults={"workers": 1},
        fixed={"cameras": 0, "need_codes": False},
    ),
)


@dataclass(frozen=True)
class Stage:
    """A stage of recipes, as a command of its own."""

    name: str
    help: str
    example: str
    workers: int = 2


STAGES = (
    Stage(
        "landmarks",
        "Find 68 landmarks in every raw picture.",
        "shards/ava --workers 8",
    ),
    Stage(
        "track",
        "Bring cameras, codes, landmarks and mesh into the head frame.",
        "shards/ava --workers 8",
    ),
    Stage(
        "crop",
        "Crop every picture to the head, and its camera with it.",
        "shards/ava --workers 8",
    ),
    Stage(
        "matte",
        "Cut the heads from their background where the data set ships no matte.",
        "shards/ava --workers 8",
    ),
    Stage(
        "pack",
        "Write what the stages made into one shard for each capture.",
        "shards/ava",
        workers=1,
    ),
)

RAW = Annotated[Path, typer.Argument(help="Folder of the raw data, as its owner lays it out.")]
OUT = Annotated[Path, typer.Option("--out", "-o", help="Folder for the shards.", file_okay=False)]
PREPARED = Annotated[Path, typer.Argument(help="Folder that a recipe began.", file_okay=False)]


def add(app: typer.Typer) -> None:
    """Give an application the commands of all recipes and stages."""
    for recipe in RECIPES:
        names = [n for n in CHOICES if n in EVERY_RECIPE or n in recipe.choices]
        defaults = {name: recipe.defaults.get(name, CHOICES[name].default) for name in names}
        kinds = {"raw": RAW, "out": OUT, **{name: CHOICES[name].kind for name in names}}
        command = _with_signature(_recipe_command(recipe), kinds, defaults)
        _register(app, recipe.source, recipe.help, recipe.example, command)
    for stage in STAGES:
        kinds = {
            "out": PREPARED,
            **{name: CHOICES[name].kind for name in ("device", "workers", "ray")},
        }
        command = _with_signature(
            _stage_command(stage.name),
            kinds,
            {"device": "auto", "workers": stage.workers, "ray": None},
        )
        _register(app, stage.name, stage.help, stage.example, command)


def _register(
    app: typer.Typer, name: str, words: str, example: str, command: Callable[..., None]
) -> None:
    epilog = f"Example:  fastgha prep {name} {example}"
    app.command(name, help=words, epilog=epilog)(command)


def _with_signature(
    command: Callable[..., None], kinds: Mapping[str, object], defaults: Mapping[str, Value]
) -> Callable[..., None]:
    """Give a function that takes any keywords the parameters that typer shall see."""
    parameters = [
        Parameter(
            name, Parameter.KEYWORD_ONLY, default=defaults.get(name, Parameter.empty), annotation=k
        )
        for name, k in kinds.items()
    ]
    command.__signature__ = Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    command.__annotations__ = dict(kinds)
    return command


def _recipe_command(recipe: Recipe) -> Callable[..., None]:
    def command(raw: Path, out: Path, workers: int, **chosen: Value) -> None:
        from fastgha_cli import console
        from pipeline.core.config import from_dict
        from pipeline.perception.detectors import best_detector
        from pipeline.prep import run as recipes
        from pipeline.train.device import choose

        device = choose(str(chosen["device"]), draws=False)
        settings = {
            CHOICES[name].setting: _plain(value)
            for name, value in chosen.items()
            if CHOICES[name].setting
        }
        if settings.get("detector") == "auto":
            settings["detector"] = best_detector()
        config = from_dict(
            recipes.PrepConfig, {"source": recipe.source, **settings, **recipe.fixed}
        )
        if chosen.get("probe"):
            from pipeline.prep.probe import probe

            with console.progress("Probing") as tick:
                met = probe(raw, config, workers=workers,
                            tick=lambda _, done, total: tick(done, total))  # fmt: skip
            for line in met.lines():
                console.result(line)
            return
        if chosen["dry_run"]:
            plan = recipes.estimate(raw, out, config)
            console.result(
                f"{plan.captures} captures, {plan.timesteps} timesteps, {plan.pictures} pictures; "
                f"about {plan.bytes_needed / 1e9:.1f} GB needed, "
                f"{plan.bytes_free / 1e9:.1f} GB free; "
                f"about {plan.seconds / max(workers, 1) / 3600:.1f} hours"
            )
            return
        ray = chosen.get("ray")
        with console.progress("Preparing") as tick:
            report = recipes.run(
                raw, out, config, workers=workers, ray=None if ray is None else str(ray),
                device=device,
                overwrite=bool(chosen["overwrite"]),
                tick=lambda stage, done, total: tick(done, total), announce=console.say,
            )  # fmt: skip
        for name, reason in report.dropped.items():
            console.say(f"{name} left out: {reason}.")
        console.say(f"{report.done} items made, {report.skipped} were there already.")
        console.result(str(out))

    return command


def _stage_command(stage: str) -> Callable[..., None]:
    def command(out: Path, device: str, workers: int, ray: str | None) -> None:
        from fastgha_cli import console
        from pipeline.prep import run as recipes
        from pipeline.train.device import choose

        with console.progress(stage.capitalize()) as tick:
            report = recipes.run_stage(
                out, stage, workers=workers, ray=ray, device=choose(device, draws=False),
                tick=lambda _, done, total: tick(done, total),
            )  # fmt: skip
        console.say(f"{report.done} items made, {report.skipped} were there already.")
        console.result(str(out))

    return command


def _plain(value: Value) -> Value:
    """Return a setting as text or number: a file by its whole path, no file as nothing."""
    if value is None:
        return ""
    return str(value.resolve()) if isinstance(value, Path) else value
