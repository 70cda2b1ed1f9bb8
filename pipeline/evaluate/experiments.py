"""The paper's experiments: models and methods measured under a protocol, into tables and figures.

Each function returns a `Report`: what `fastgha eval` prints, and writes with `-o`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from pipeline.core.errors import ConfigError, InputError
from pipeline.evaluate import figures, results, tables
from pipeline.evaluate import speed as speeds
from pipeline.evaluate.candidate import Candidate, lacking, load_candidate
from pipeline.evaluate.estimates import refuse
from pipeline.evaluate.inputs import some_views
from pipeline.evaluate.metrics import Metrics, prepare
from pipeline.evaluate.predictions import read_predictions
from pipeline.evaluate.protocol import Protocol, Task, read, tasks
from pipeline.evaluate.reenactment import INPUTS, TARGETS, Reenactment, reenact
from pipeline.evaluate.report import Picture, Report, Sheet
from pipeline.evaluate.results import Result
from pipeline.evaluate.run import MEAN_HEAD, baselines, measure, ours
from pipeline.io.charts import new_figure
from pipeline.model.checkpoint import checkpoint_path, load_model, resolve
from pipeline.shards.reader import Shard, find_shards
from pipeline.system.progress import Bars, no_bars
from pipeline.train.device import choose
from pipeline.train.variants import FULL, ONE_SHOT, TABLES, run_of

MODEL = "FastGHA (ours)"
SPEED_TABLE, VARIANT_TABLES, VARIANT_FIGURE = 2, (3, 5, 6), 11
DATASETS = {"ava256": "Ava-256", "nersemble": "NeRSemble"}
"""Data sets whose protocols name their people, as shards call them and as we do; people of others
are measured under the protocols of synthetic ones, which take whoever is there."""
KINDS = {1: "same", 3: "mixed", 5: "mixed", 6: "one"}
"""The kind of protocol of a table."""
OTHERWISE = "mixed"
NOBODY_ELSE = f"{MEAN_HEAD}: not measured, as there is nobody else in the shards."


@dataclass(frozen=True)
class Request:
    """Which experiment is wanted, and of what."""

    shards: Path | None = None
    """Folder of shards of held-out people."""
    model: Path | None = None
    """Checkpoint or run; the shipped one if not given."""
    protocol: str | None = None
    """Name or file; chosen by the table if not given."""
    table: int | None = None
    figure: int | None = None
    runs: Path | None = None
    """What `train_table` made, for the tables that compare variants."""
    predictions: Path | None = None
    """Another method's pictures, measured in place of a model."""
    name: str = ""
    earlier: tuple[Path, ...] = ()
    """Results of other methods, into the same table."""
    inputs: int | None = None
    size: int | None = None
    targets: int | None = None
    """Other numbers than the protocol's."""
    device: str = "auto"
    out: Path | None = None
    """Where pictures go, and what a stopped evaluation had finished."""
    allow_seen: bool = False
    """Measure a model also on people that it was trained on."""
    video: Path | None = None
    """A video to reenact, in place of shards."""
    frames: tuple[int, ...] = ()
    """Numbers of its frames that are inputs."""
    refine_s: float = 0.0
    """Seconds in which the video's avatar is refined."""


@dataclass(frozen=True)
class Ground:
    """What an experiment is measured on, and where what it made is kept."""

    shards: Path
    protocol: Protocol
    device: str = "cpu"
    out: Path | None = None
    allow_seen: bool = False
    notes: tuple[str, ...] = ()
    """What every table says."""

    def candidate(
        self, checkpoint: Path, bars: Bars, protocol: Protocol | None = None
    ) -> Candidate:
        """Load a model to be measured, under another protocol if one is given."""
        with bars("Choosing the pictures") as tick:
            return load_candidate(
                checkpoint, protocol or self.protocol, self.shards, self.device,
                allow_seen=self.allow_seen, progress=tick,
            )  # fmt: skip

    def finished(self, name: str) -> Path | None:
        """Return where a method's finished avatars are kept."""
        return self.out / "finished" / name if self.out else None


def run(request: Request, bars: Bars = no_bars) -> Report:
    """Carry out the experiment of a request.

    Args:
        request: What is wanted.
        bars: Shows how far each measurement is.

    Raises:
        ConfigError: If there is no such experiment, or something that it needs was not named.
    """
    if request.refine_s > 0 and request.video is None:
        raise ConfigError(
            "Only the avatar of a video is refined here.",
            "Add --video FILE, or leave --refine out.",
        )
    if request.video is not None:
        return reenact(_reenactment(request, request.video), request.out, bars)
    if request.table == SPEED_TABLE:
        return measure_speed(request.model, request.shards, choose(request.device), bars)
    if request.shards is None:
        raise ConfigError("Which pictures? No shards were given.", "Add --shards FOLDER.")
    dataset = "" if request.protocol else dataset_of(request.shards)
    protocol = choose_protocol(
        request.protocol, request.table, dataset,
        inputs=request.inputs, size=request.size, targets=request.targets,
    )  # fmt: skip
    notes = () if request.protocol else (_why(protocol, dataset),)
    ground = Ground(
        request.shards, protocol, choose(request.device), request.out, request.allow_seen, notes
    )
    if request.figure == VARIANT_FIGURE:
        return compare_variants(ground, VARIANT_FIGURE, request.runs, bars)
    if request.figure is not None:
        return draw_figure(ground, request.figure, request.model, bars)
    if request.table in VARIANT_TABLES:
        return compare_variants(ground, request.table, request.runs, bars)
    if request.table not in (None, 1):
        raise ConfigError(f"There is no table {request.table} to print.", "Choose 1, 2, 3, 5 or 6.")
    return compare_methods(
        ground, request.model, table=request.table, predictions=request.predictions,
        name=request.name, earlier=request.earlier, bars=bars,
    )  # fmt: skip


def _reenactment(request: Request, video: Path) -> Reenactment:
    return Reenactment(
        video, request.model, request.inputs or INPUTS, request.frames, request.targets or TARGETS,
        request.size, device=choose(request.device), refine_s=request.refine_s,
    )  # fmt: skip


def choose_protocol(
    name: str | None,
    table: int | None = None,
    dataset: str = "",
    *,
    inputs: int | None = None,
    size: int | None = None,
    targets: int | None = None,
) -> Protocol:
    """Return a protocol by its name or else by table and data set, with other numbers if given."""
    family = dataset if dataset in DATASETS else "synthetic"
    protocol = read(name or f"{family}-{KINDS.get(table or 0, OTHERWISE)}")
    changed = {
        key: value
        for key, value in (("inputs", inputs), ("size", size), ("targets", targets))
        if value is not None
    }
    return replace(protocol, name=f"{protocol.name}, changed", **changed) if changed else protocol


def dataset_of(shards: Path) -> str:
    """Return the data set of a folder of shards; empty if they are of several, or unknown.

    Raises:
        InputError: If there is no shard.
    """
    found: set[str] = set()
    for path in find_shards(shards):
        with Shard(path) as shard:
            found.add(shard.dataset)
    return found.pop() if len(found) == 1 else ""


def _why(protocol: Protocol, dataset: str) -> str:
    people = DATASETS.get(dataset, "whoever is in the shards")
    return f"Protocol {protocol.name} is for {people}; --protocol takes another."


def compare_methods(
    ground: Ground,
    model: Path | None = None,
    *,
    table: int | None = None,
    predictions: Path | None = None,
    name: str = "",
    earlier: tuple[Path, ...] = (),
    bars: Bars = no_bars,
) -> Report:
    """Measure a model or another method's pictures, beside baselines and earlier results.

    Args:
        ground: What to measure on.
        model: Checkpoint or run; the shipped one if not given.
        table: Number in the paper whose own figures are shown; none if not given.
        predictions: Pictures of another method, measured in place of a model.
        name: What the method is called; needed with `predictions`.
        earlier: Results of the same protocol, into the same table.
        bars: Shows how far each measurement is.

    Raises:
        ConfigError: If another method has no name, or results do not belong into one table.
    """
    sheet, marks, notes = Sheet(), (), ()
    found = [results.read(path) for path in earlier]
    if predictions is not None:
        if not name:
            raise ConfigError("The method has no name.", "Add --name METHOD.")
        refuse(ground.protocol, "another method cannot be measured under it")
        chosen = tasks(ground.protocol, ground.shards, None)
        method, net, sha256 = read_predictions(predictions, ground.protocol, chosen), None, ""
    else:
        mine = ground.candidate(checkpoint_path(model), bars)
        net, chosen, sha256, marks = mine.model, mine.chosen, mine.sha256, mine.marks
        notes = mine.notes
        method, name = ours(net), name or MODEL
    metrics = prepare(ground.protocol, ground.device)
    with bars(f"Measuring {name}") as tick:
        result = measure(
            method, name, ground.protocol, chosen, checkpoint=sha256, device=ground.device,
            out=ground.finished(name), metrics=metrics, marks=marks, progress=tick,
            show=partial(sheet.show, name, net) if ground.out else None,
        )  # fmt: skip
    others: list[Result] = []
    for other, draw in baselines(chosen).items():
        with bars(f"Measuring {other}") as tick:
            others.append(
                measure(draw, other, ground.protocol, chosen, out=ground.finished(other),
                        metrics=metrics, progress=tick)
            )  # fmt: skip
    comparison = tables.comparison([result, *found, *others], ground.protocol, table)
    lone = () if MEAN_HEAD in [other.method for other in others] else (NOBODY_ELSE,)
    comparison = _noted(comparison, ground, chosen, (*notes, *lone))
    values = result.to_json() | {"baselines": [result.to_json() for result in others]}
    return Report(_title(ground), (comparison,), _sheet(ground, sheet), values)


def compare_variants(ground: Ground, table: int, runs: Path | None, bars: Bars = no_bars) -> Report:
    """Measure all variants of a table, or of figure 11, every seed.

    Args:
        ground: What to measure on.
        table: Number of the table, or 11.
        runs: What `train_table` made.
        bars: Shows how far each measurement is.

    Raises:
        ConfigError: If no runs were named.
        InputError: If there is no run of these variants.
    """
    if runs is None:
        raise ConfigError(
            f"Table {table} compares several models.",
            f"Train them with `fastgha train --table {table}`, and give their folder as --runs.",
        )
    metrics, sheet = prepare(ground.protocol, ground.device), Sheet()
    found: list[Result] = []
    chosen: list[Task] = []
    absent: list[str] = []
    for variant in TABLES[table]:
        seeds = sorted(runs.glob(f"{variant}/seed-*"))
        if not seeds:
            absent.append(variant)
        for folder in seeds:
            seed = int(folder.name.removeprefix("seed-"))
            name = {FULL: "one", ONE_SHOT: "one, fine-tuned"}.get(variant, variant)
            path = resolve(run_of(runs, variant, seed))
            mine = ground.candidate(path, bars)
            chosen = mine.chosen
            found.append(
                _measure_seed(
                    ground, mine, name if table == 6 else variant, seed, metrics, sheet, bars
                )
            )
    if not found:
        raise InputError(
            f"{runs} holds no runs of table {table}.",
            f"Train them: fastgha train SHARDS -o {runs} --table {table}.",
        )
    in_paper = table in tables.REFERENCE
    comparison = tables.comparison(found, ground.protocol, table if in_paper else None)
    gone = (f"Not there, so not measured: {', '.join(absent)}.",) if absent else ()
    comparison = _noted(comparison, ground, chosen, gone)
    differences = tables.paired(found, "one" if table == 6 else FULL)
    orderings = (tables.orderings(found, table),) if in_paper else ()
    values = {"table": table, "results": [result.to_json() for result in found]}
    several = (comparison, differences, *orderings)
    return Report(_title(ground), several, _sheet(ground, sheet), values)


def _measure_seed(
    ground: Ground,
    mine: Candidate,
    name: str,
    seed: int,
    metrics: Metrics,
    sheet: Sheet,
    bars: Bars,
) -> Result:
    with bars(f"Measuring {name}, seed {seed}") as tick:
        return measure(
            ours(mine.model), name, ground.protocol, mine.chosen, checkpoint=mine.sha256,
            device=ground.device, out=ground.finished(f"{name}-{seed}"), metrics=metrics,
            marks=mine.marks, progress=tick,
            show=partial(sheet.show, name, mine.model) if ground.out and seed == 0 else None,
        )  # fmt: skip


def draw_figure(
    ground: Ground, number: int, model: Path | None = None, bars: Bars = no_bars
) -> Report:
    """Measure figure 12 or 14, and draw it if there is a folder for pictures.

    Raises:
        ConfigError: If there is no such figure.
        MissingPackageError: If there is a folder and matplotlib is not installed.
    """
    figure = figures.FIGURES.get(number)
    if figure is None:
        raise ConfigError(f"There is no figure {number} to draw.", "Choose 11, 12 or 14.")
    protocol = figure.protocol(ground.protocol)
    mine = ground.candidate(checkpoint_path(model), bars, protocol)
    if ground.out:
        new_figure(1, 1)  # refuses before the work if it cannot be drawn
    with bars(f"Figure {number}") as tick:
        curves = figure.draw(mine, protocol, tick)
    numbers = _noted(figures.table(number, curves), ground, mine.chosen, mine.notes)
    pictures: tuple[Picture, ...] = ()
    if ground.out:
        drawn = ground.out / f"figure-{number}.png"
        figures.plot(number, curves, drawn)
        pictures = ((f"Figure {number}; shaded: 95 % interval over people.", drawn),)
    values = [result.to_json() for curve in curves for result in curve.results]
    return Report(_title(ground), (numbers,), pictures, {"figure": number, "results": values})


def measure_speed(
    model: Path | None, shards: Path | None, device: str = "cpu", bars: Bars = no_bars
) -> Report:
    """Measure Table 2.

    Args:
        model: Checkpoint or run; the shipped one if not given.
        shards: Where pictures are taken from; a synthetic person is made if not given.
        device: Where to measure.
        bars: Shows how far the measurement is.
    """
    net, loaded = load_model(checkpoint_path(model))
    with bars("Measuring") as tick:
        guided, size = net.config.guide == "mesh", net.config.image_size
        views, mesh = some_views(shards, max(speeds.PAPER), size, guided=guided)
        rows = speeds.speed(net.to(device), views, loaded.header["layout"], mesh, progress=tick)
    name = results.machine(device)["device"]
    values = {"device": name, "rows": [asdict(row) for row in rows]}
    return Report("Table 2", (tables.speeds(rows, name),), (), values)


def _noted(
    table: tables.Table, ground: Ground, chosen: list[Task], more: tuple[str, ...] = ()
) -> tables.Table:
    """Return a table that also says which protocol and whose pictures it is about."""
    gone = lacking(ground.protocol, chosen)
    title = f"{table.title}, partial" if gone else table.title
    notes = (*table.notes, *([gone] if gone else []), *more, *ground.notes)
    return replace(table, title=title, notes=notes)


def _title(ground: Ground) -> str:
    return f"Protocol {ground.protocol.name}"


def _sheet(ground: Ground, sheet: Sheet) -> tuple[Picture, ...]:
    if ground.out is None:
        return ()
    path = ground.out / "sheet.png"
    sheet.write(path)
    return ((f"In a row: {sheet.legend}.", path),)
