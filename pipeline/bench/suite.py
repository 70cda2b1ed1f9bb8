"""All benches one after the other, as one record.

What is measured so far lies beside the record until it is whole: <record>.begun, itself a record.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

from pipeline.avatar.avatar import Avatar
from pipeline.avatar.bake import bake
from pipeline.avatar.prune import prune
from pipeline.bench import avatar, browser, model, prep, render, track, train
from pipeline.bench.record import Figure, Record, new_record, read_record
from pipeline.bench.rows import spread
from pipeline.core.errors import ConfigError, MissingPackageError, MissingWeightsError
from pipeline.evaluate.protocol import read, tasks
from pipeline.evaluate.run import scene
from pipeline.expressions.sequences import Sequence, read_sequence
from pipeline.model.checkpoint import checkpoint_path, load_model
from pipeline.prep.plan import PrepConfig
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.prep.synthetic import run as make_people
from pipeline.synthetic.cameras import sample_cameras
from pipeline.synthetic.expressions import sample_expression
from pipeline.system.assets import SEQUENCE
from pipeline.system.host import free_share
from pipeline.system.progress import Progress, silent
from pipeline.train.config import RunConfig
from pipeline.train.presets import recipe

Figures = Mapping[str, Figure]
WritePage = Callable[[Avatar, Path, Sequence], Path]
"""`pipeline.apps.web.export_web`."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much."""

    write_page: WritePage
    scenes: tuple[tuple[int, int], ...] = ((16_384, 256), (65_536, 256), (65_536, 512))
    """Gaussians, and pixels along an edge."""
    preset: str = "small"
    checkpoint: Path | None = None
    """The shipped one if not given."""
    inputs: tuple[int, ...] = (1, 4)
    sizes: tuple[int, ...] = (256, 512)
    """Of avatars' pictures."""
    people: int = 2
    frames: int = 24
    tracked: int = 8
    """Frames of each person."""
    repeats: int = 9
    rounds: int = 3
    """Of benches without repetitions of their own."""
    photographs: int = 8
    photograph_size: int = 512
    quick: bool = False
    """Whether it is too short for its figures to count."""


def quick(write_page: WritePage, checkpoint: Path | None = None) -> Plan:
    """Return a plan that only shows that everything runs."""
    return Plan(
        write_page, ((512, 32),), "tiny", checkpoint, (1,), (64,), people=1, frames=2, tracked=1,
        repeats=1, rounds=1, photographs=1, photograph_size=256, quick=True,
    )  # fmt: skip


def measure(
    plan: Plan, out: Path, only: tuple[str, ...] = (), *, progress: Progress = silent
) -> Record:
    """Measure all benches, or some, into a record; go on where a call was stopped.

    What cannot run here is recorded with its reason.

    Args:
        plan: What, and how much.
        out: The record.
        only: Names of `BENCHES`; all if empty.
        progress: Told after each bench.

    Raises:
        ConfigError: If there is no such bench.
    """
    for name in only:
        if name not in BENCHES:
            raise ConfigError(f"There is no bench {name!r}.", f"Known: {', '.join(BENCHES)}.")
    chosen = [name for name in BENCHES if not only or name in only]
    record = new_record(checkpoint_path(plan.checkpoint), quick=plan.quick)
    begun = out.with_name(f"{out.name}.begun")
    if begun.exists() and record.goes_on(before := read_record(begun)):
        record = before
    for done, name in enumerate(chosen, start=1):
        if name not in record.benches:
            free, skipped = free_share(torch.get_num_threads()), dict[str, str]()
            try:
                found = BENCHES[name](plan)
            except (MissingPackageError, MissingWeightsError) as error:
                found, skipped = {}, {name: f"{error.problem} {error.remedy}"}
            figures = {f"{name}/{key}": figure for key, figure in found.items()}
            record = record.with_bench(figures, skipped, free)
            record.save(begun)
        progress(done, len(chosen))
    record.save(out)
    begun.unlink(missing_ok=True)
    return record


def rounds(count: int, once: Callable[[], Figures]) -> Figures:
    """Measure several times what has no repetitions of its own; return medians and spreads."""
    found = [once() for _ in range(count)]
    figures: dict[str, Figure] = {}
    for name, first in found[0].items():
        values = [one[name].value for one in found]
        figures[name] = Figure(statistics.median(values), first.unit, spread(values))
    return figures


def _render(plan: Plan) -> Figures:
    found: dict[str, Figure] = {}
    backends = render.parse_backends(None)
    for row in render.bench(backends, plan.scenes, repeats=plan.repeats):
        name = f"{row['backend']}/{row['gaussians']} Gaussians/{row['width']} px"
        found[f"{name}/forward"] = Figure(row["forward_ms"], "ms", row["forward_spread_ms"])
        found[f"{name}/backward"] = Figure(row["backward_ms"], "ms", row["backward_spread_ms"])
    return found


def _model(plan: Plan) -> Figures:
    rows = model.bench(recipe(plan.preset).model, plan.inputs, plan.repeats)
    return {
        f"{plan.preset}/{row['inputs']} inputs/{row['part']}": Figure(
            row["ms"], "ms", row["spread_ms"]
        )
        for row in rows
    }


def _train(plan: Plan) -> Figures:
    config = recipe(plan.preset)
    rows = train.bench(
        config, RunConfig(), sizes=config.sizes[-1:], source="random", repeats=plan.repeats
    )
    return {
        f"{plan.preset}/{row['size']} px/{row['part']}": Figure(row["ms"], "ms", row["spread_ms"])
        for row in rows
    }


def _avatar(plan: Plan) -> Figures:
    rows = avatar.bench(plan.checkpoint, people=plan.people, sizes=plan.sizes, frames=plan.frames)
    return {
        f"{row['variant']}/{row['width']} px": Figure(row["fps"], "1/s", row["fps_spread"])
        for row in rows
    }


def _track(plan: Plan) -> Figures:
    def once() -> Figures:
        rows = track.bench(plan.people, plan.tracked)
        return {row["capture"]: Figure(row["frames_per_s"], "1/s") for row in rows}

    return rounds(plan.rounds, once)


def _prep(plan: Plan) -> Figures:
    config = PrepConfig("photos", size=plan.photograph_size, cameras=0, need_codes=False)
    with TemporaryDirectory(prefix="fastgha-") as folder:
        people = Path(folder) / "people"
        _photograph(people, plan)

        def once() -> Figures:
            found = prep.bench(people, config, workers=(1,))
            stages = {row["stage"]: Figure(row["images_per_s"], "1/s") for row in found["stages"]}
            return {**stages, "reading shards": Figure(found["shard_views_per_s"], "1/s")}

        return rounds(plan.rounds, once)


def _web(plan: Plan) -> Figures:
    with browser.page() as open_page, TemporaryDirectory(prefix="fastgha-") as folder:
        light, _ = bake(prune(_head(plan, Path(folder)))[0])
        site = plan.write_page(light, Path(folder) / "site", read_sequence(SEQUENCE, light.layout))

        def once() -> Figures:
            return {f"baked/{size} px": Figure(open_page(site, size), "ms") for size in plan.sizes}

        return rounds(plan.rounds, once)


def _head(plan: Plan, folder: Path) -> Avatar:
    """Return an avatar of a held-out person."""
    net, loaded = load_model(checkpoint_path(plan.checkpoint))
    layout = str(loaded.header["layout"])
    make_people(folder / "shards", SyntheticConfig(1, expressions=6, split="test"))
    protocol = read("synthetic-same")
    seen, _ = scene(tasks(protocol, folder / "shards", layout)[0], protocol)
    mesh = seen.mesh() if net.config.guide == "mesh" else None
    return Avatar.create(net, seen.inputs, layout, {}, mesh)


def _photograph(folder: Path, plan: Plan) -> None:
    """Write pictures of a drawn person, as if taken."""
    subject, rng = person(SyntheticConfig(split="test"), 0)
    shots = folder / "person"
    shots.mkdir(parents=True)
    cameras = sample_cameras(rng, 1, plan.photographs, plan.photograph_size)
    frames = subject.render_views(sample_expression(rng), cameras[0])
    for i, frame in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(frame.rgb)).save(shots / f"{i:02d}.png")


BENCHES: dict[str, Callable[[Plan], Figures]] = {
    "render": _render,
    "model": _model,
    "train": _train,
    "avatar": _avatar,
    "track": _track,
    "prep": _prep,
    "web": _web,
}
