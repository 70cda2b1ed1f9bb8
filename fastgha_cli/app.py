"""The `fastgha` command. Heavy imports wait inside the commands, so that --help is quick."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fastgha_cli import (
    avatar,
    bake,
    bench,
    demo,
    doctor,
    evaluate,
    export,
    expressions,
    flame,
    prep,
    render,
    train,
    vggt_cache,
    view,
    weights,
)


class Stopped(BaseException):
    """SIGTERM came; what is half-made is removed on the way out."""


app = typer.Typer(
    name="fastgha",
    help="Few-shot 3D Gaussian head avatars: from a few pictures to an avatar that animates.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("avatar", epilog=avatar.EXAMPLE)(avatar.avatar)
app.command("prune", epilog=bake.PRUNE_EXAMPLE)(bake.prune)
app.command("bake", epilog=bake.BAKE_EXAMPLE)(bake.bake)
app.command("render", epilog=render.EXAMPLE)(render.render)
app.command("view", epilog=view.EXAMPLE)(view.view)
app.command("app", epilog=view.APP_EXAMPLE)(view.app)
app.add_typer(export.app, name="export")
app.add_typer(prep.app, name="prep")
app.command("vggt-cache", epilog=vggt_cache.EXAMPLE)(vggt_cache.vggt_cache)
app.command("train", epilog=train.EXAMPLE)(train.train)
app.add_typer(evaluate.app, name="eval")
app.command("doctor", epilog=doctor.EXAMPLE)(doctor.doctor)
app.add_typer(bench.app, name="bench")
app.add_typer(flame.app, name="flame")
app.add_typer(expressions.app, name="expressions")
app.add_typer(weights.app, name="weights")


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("fastgha"))
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Few-shot 3D Gaussian head avatars."""


def main() -> None:
    """Run the command line; a user's fault is two lines on stderr and exit code 1."""
    from pipeline.system.host import exit_code, keep_freed_memory, signals

    keep_freed_memory()
    try:
        with signals(("SIGTERM",), _stop):
            app()
    except KeyboardInterrupt:
        sys.exit(130)
    except Stopped:
        from fastgha_cli import console

        console.say("Stopped by SIGTERM; the same command goes on, or begins again.")
        sys.exit(exit_code("SIGTERM"))
    except Exception as error:
        # Importing what the errors are made of must not make --help slow.
        from fastgha_cli import console
        from pipeline.core.errors import FastGHAError
        from pipeline.system.files import explain

        if isinstance(error, OSError):
            error = explain(error)
        if isinstance(error, MemoryError):
            console.fail("There is not enough memory.", "Close other programs, or ask for less.")
        elif isinstance(error, FastGHAError):
            console.fail(error.problem, error.remedy)
        else:
            raise
        sys.exit(1)


def _stop(_: str) -> None:
    raise Stopped
