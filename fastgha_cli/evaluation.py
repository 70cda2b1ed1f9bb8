"""What `fastgha eval` does once it knows what is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgha_cli import console
from pipeline.core.errors import ConfigError, InputError
from pipeline.evaluate import figures, report, results, tables
from pipeline.evaluate.metrics import Metrics, prepare
from pipeline.evaluate.predictions import read_predictions
from pipeline.evaluate.protocol import Protocol, Task, tasks
from pipeline.evaluate.report import Sheet
from pipeline.evaluate.results import Result
from pipeline.evaluate.run import baselines, measure, ours
from pipeline.evaluate.tables import Table
from pipeline.model.checkpoint import checkpoint_path, load_model, resolve
from pipeline.system.files import digest, write_whole

if TYPE_CHECKING:
    from pipeline.model.fastgha import FastGHA

MODEL = "FastGHA (ours)"


@dataclass(frozen=True)
class Job:
    """What is measured on, and where the results go."""

    shards: Path
    protocol: Protocol
    device: str
    out: Path | None
    json: Path | None

    def folder(self, name: str) -> Path | None:
        """Return where a method's finished avatars are kept."""
        return self.out / "finished" / name if self.out else None


def one(
    job: Job,
    checkpoint: Path | None,
    table: int | None,
    predictions: Path | None,
    name: str,
    earlier: list[Path],
) -> None:
    """Measure a model or another method's pictures, beside baselines."""
    if table not in (None, 1):
        raise ConfigError(f"There is no table {table} to print.", "Choose 1, 2, 3, 5 or 6.")
    sheet = Sheet()
    found = [results.read(path) for path in earlier]
    if predictions is not None:
        if not name:
            raise ConfigError("The method has no name.", "Add --name METHOD.")
        chosen = tasks(job.protocol, job.shards, None)
        method, model, sha256 = read_predictions(predictions, job.protocol, chosen), None, ""
    else:
        path = checkpoint_path(checkpoint)
        model, loaded = load_model(path)
        model = model.to(job.device)
        chosen = tasks(job.protocol, job.shards, loaded.header["layout"])
        method, name, sha256 = ours(model), name or MODEL, digest(path)
    metrics = prepare(job.protocol)
    with console.progress(f"Measuring {name}") as tick:
        mine = measure(
            method, name, job.protocol, chosen, checkpoint=sha256, device=job.device,
            out=job.folder(name), metrics=metrics, progress=tick,
            show=partial(sheet.show, name, model) if job.out else None,
        )  # fmt: skip
    others: list[Result] = []
    for other, draw in baselines(chosen).items():
        with console.progress(f"Measuring {other}") as tick:
            others.append(
                measure(draw, other, job.protocol, chosen, out=job.folder(other),
                        metrics=metrics, progress=tick)
            )  # fmt: skip
    finished = tables.comparison([mine, *found, *others], job.protocol, table)
    pictures: list[tuple[str, Path]] = []
    if job.out:
        sheet.write(job.out / "sheet.png")
        pictures.append((f"In a row: {sheet.legend}.", job.out / "sheet.png"))
    _finish(job, [finished], pictures, mine.to_json() | {"baselines": _json(others)})


def variants(job: Job, table: int, runs: Path | None) -> None:
    """Measure all variants of a table, or of figure 11, every seed."""
    from pipeline.train.variants import FULL, ONE_SHOT, TABLES, run_of

    if runs is None:
        raise ConfigError(
            f"Table {table} compares several models.",
            f"Train them with `fastgha train --table {table}`, and give their folder as --runs.",
        )
    metrics, sheet = prepare(job.protocol), Sheet()
    found: list[Result] = []
    absent: list[str] = []
    for variant in TABLES[table]:
        seeds = sorted(runs.glob(f"{variant}/seed-*"))
        if not seeds:
            absent.append(variant)
        for folder in seeds:
            seed = int(folder.name.removeprefix("seed-"))
            path = resolve(run_of(runs, variant, seed))
            model, loaded = load_model(path)
            chosen = tasks(job.protocol, job.shards, loaded.header["layout"])
            name = {FULL: "one", ONE_SHOT: "one, fine-tuned"}.get(variant, variant)
            name = name if table == 6 else variant
            found.append(
                _variant(job, model.to(job.device), name, seed, chosen, path, metrics, sheet)
            )
    if not found:
        raise InputError(
            f"{runs} holds no runs of table {table}.",
            f"Train them: fastgha train SHARDS -o {runs} --table {table}.",
        )
    in_paper = table in tables.REFERENCE
    finished = tables.comparison(found, job.protocol, table if in_paper else None)
    if absent:
        note = f"Not there, so not measured: {', '.join(absent)}."
        finished = replace(finished, notes=(*finished.notes, note))
    pictures: list[tuple[str, Path]] = []
    if job.out:
        sheet.write(job.out / "sheet.png")
        pictures.append((f"In a row: {sheet.legend}.", job.out / "sheet.png"))
    both = [finished, *([tables.orderings(found, table)] if in_paper else [])]
    _finish(job, both, pictures, {"table": table, "results": _json(found)})


def _variant(
    job: Job,
    model: FastGHA,
    name: str,
    seed: int,
    chosen: list[Task],
    path: Path,
    metrics: Metrics,
    sheet: Sheet,
) -> Result:
    with console.progress(f"Measuring {name}, seed {seed}") as tick:
        return measure(
            ours(model), name, job.protocol, chosen, checkpoint=digest(path), device=job.device,
            out=job.folder(f"{name}-{seed}"), metrics=metrics, progress=tick,
            show=partial(sheet.show, name, model) if job.out and seed == 0 else None,
        )  # fmt: skip


def figure(job: Job, checkpoint: Path | None, number: int) -> None:
    """Draw figure 12 or 14, with its numbers."""
    draw = {12: figures.against_inputs, 14: figures.against_noise}.get(number)
    if draw is None:
        raise ConfigError(f"There is no figure {number} to draw.", "Choose 11, 12 or 14.")
    path = checkpoint_path(checkpoint)
    model, loaded = load_model(path)
    with console.progress(f"Figure {number}") as tick:
        curves = draw(
            model.to(job.device), job.protocol, job.shards, loaded.header["layout"],
            digest(path), tick,
        )  # fmt: skip
    numbers = figures.table(number, curves)
    pictures: list[tuple[str, Path]] = []
    if job.out:
        drawn = job.out / f"figure-{number}.png"
        figures.plot(number, curves, drawn)
        pictures.append((f"Figure {number}; shaded: 95 % interval over people.", drawn))
    values = [result.to_json() for curve in curves for result in curve.results]
    _finish(job, [numbers], pictures, {"figure": number, "results": values})


def speed(
    checkpoint: Path | None, shards: Path | None, device: str, out: Path | None, json: Path | None
) -> None:
    """Measure Table 2."""
    from dataclasses import asdict

    from pipeline.evaluate import speed as speeds
    from pipeline.evaluate.inputs import some_views

    model, loaded = load_model(checkpoint_path(checkpoint))
    layout = loaded.header["layout"]
    with console.progress("Measuring") as tick:
        guided = model.config.guide == "mesh"
        size = model.config.image_size
        views, mesh = some_views(shards, max(speeds.PAPER), size, guided=guided)
        rows = speeds.speed(model.to(device), views, layout, mesh, progress=tick)
    device_name = results.machine(device)["device"]
    job_json = {"device": device_name, "rows": [asdict(row) for row in rows]}
    _write([tables.speeds(rows, device_name)], [], job_json, out, json, "Table 2")


def _finish(
    job: Job, found: list[Table], pictures: list[tuple[str, Path]], values: Mapping[str, Any]
) -> None:
    _write(found, pictures, values, job.out, job.json, f"Protocol {job.protocol.name}")


def _write(
    found: list[Table],
    pictures: list[tuple[str, Path]],
    values: Mapping[str, Any],
    out: Path | None,
    json: Path | None,
    title: str,
) -> None:
    for table in found:
        for part in table.parts():
            console.table(part.title, part.columns, part.rows)
        for note in table.notes:
            console.say(note)
    if out is not None:
        texts = {"table.csv": found[0].csv(), "table.tex": found[0].latex()}
        for name, text in texts.items():
            write_whole(out / name, lambda part, text=text: part.write_text(text))
        report.page(out / "report.html", title, found, pictures)
        console.result(str(out / "report.html"))
    console.write_json(json, values)


def _json(found: list[Result]) -> list[dict[str, Any]]:
    return [result.to_json() for result in found]
