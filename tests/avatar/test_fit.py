"""Fitting a light avatar to a video of a person whose truth is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from pipeline.apps.web import export_web
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.fit import FitConfig, FitReport, Look, fit, psnr_where
from pipeline.avatar.prune import blending
from pipeline.avatar.start import LightConfig, bare_mesh, light
from pipeline.avatar.video import Footage
from pipeline.core.errors import ConfigError
from pipeline.core.types import Camera, ExpressionCode
from pipeline.expressions.sequences import Sequence
from pipeline.faces.layouts import ARKIT, FLAME2020, arkit_to_code, arkit_weights
from pipeline.model.baked import Baked
from pipeline.model.fastgha import FastGHA
from pipeline.train.presets import tiny

CONFIG = FitConfig(seconds=120, sizes=(64,), shares=(1.0,), gaussians=5_000, splits=1, looks=0.2)
"""Of a clock that goes a second each time it is read: the same steps each time."""


def ticking() -> Callable[[], float]:
    seconds = count()
    return lambda: float(next(seconds))


@pytest.fixture(scope="module")
def start(footage: Footage) -> Avatar:
    return bare_mesh(footage, LightConfig(gaussians=4_000, rank=6))


def fitted(
    start: Avatar, footage: Footage, config: FitConfig = CONFIG
) -> tuple[Avatar, FitReport, Avatar]:
    """Fit; also give the state of the end, which nothing chose."""
    states: list[Avatar] = []

    def tell(look: Look, now: Callable[[], Avatar]) -> None:
        states[:] = [now()]

    kept, report = fit(start, footage, config, tell=tell, clock=ticking())
    return kept, report, states[0]


@pytest.fixture(scope="module")
def done(start: Avatar, footage: Footage) -> tuple[Avatar, FitReport, Avatar]:
    return fitted(start, footage)


def head_db(avatar: Avatar, footage: Footage, rows: tuple[int, ...]) -> float:
    truth = footage.views(rows)
    drawn = [avatar.render(footage.codes[row], truth.camera[n]).color for n, row in enumerate(rows)]
    pictures = torch.stack(drawn).permute(0, 3, 1, 2)
    return float(psnr_where(pictures, truth.image, footage.head(rows, 64)).mean())


def test_held_back_frames_come_out_better(start: Avatar, footage: Footage, done):
    kept, report, _ = done
    for rows in (footage.judges, footage.unseen):
        assert head_db(kept, footage, rows) > head_db(start, footage, rows) + 2
    assert report.best.judged == pytest.approx(head_db(kept, footage, footage.judges), abs=0.2)
    assert report.best.judged == max(look.judged for look in report.looks)
    assert [look.steps for look in report.looks] == sorted(look.steps for look in report.looks)
    assert not report.stopped and report.steps_per_s > 0


def same(a: Avatar, b: Avatar) -> bool:
    assert isinstance(a.deformation, Baked) and isinstance(b.deformation, Baked)
    pairs = [*zip(vars(a.canonical).values(), vars(b.canonical).values(), strict=True)]
    pairs.append((a.deformation.shapes, b.deformation.shapes))
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs)


def test_held_back_frames_are_never_fitted_to(start: Avatar, footage: Footage, done):
    pixels = footage.pixels.clone()
    for row in (*footage.judges, *footage.unseen):
        pixels[row] = 255 - pixels[row]
    _, _, end = fitted(start, replace(footage, pixels=pixels))
    assert same(end, done[2])


def test_the_end_of_the_video_chooses_nothing(start: Avatar, footage: Footage, done):
    pixels = footage.pixels.clone()
    pixels[list(footage.unseen)] = 0
    kept, report, _ = fitted(start, replace(footage, pixels=pixels))
    assert same(kept, done[0]) and report.best.judged == done[1].best.judged


@pytest.mark.parametrize("known", [True, False])
def test_what_is_beyond_the_picture_is_not_taken_for_empty(
    start: Avatar, footage: Footage, known: bool
):
    pixels = footage.pixels.clone()
    pixels[:, :3, :, 32:] = 255
    pixels[:, 3, :, 32:] = 0
    inside = footage.inside.clone()
    if not known:
        inside[:, 2] = 0.5
    _, _, end = fitted(start, replace(footage, pixels=pixels, inside=inside))
    row = footage.inputs[0]
    camera = footage.views([row]).camera[0]
    drawn = end.render(footage.codes[row], camera).color
    there = footage.head([row], 64)[0, 0]
    there[:, :36] = False
    assert (float((1 - drawn[there]).mean()) < 0.25) == known


def test_what_no_frame_sees_stays_as_it_was(start: Avatar, footage: Footage):
    still = replace(CONFIG, splits=0, seconds=60)
    end, _, _ = fitted(start, footage, still)
    seen = torch.zeros(len(start.canonical))
    for row in footage.supervise:
        seen += blending(start.animate(footage.codes[row]), footage.cameras[row])
    hidden = start.animate(footage.codes[0]).colors[seen == 0]
    assert len(hidden) > 100
    found = {tuple(c) for c in (end.canonical.colors * 1e4).round().int().tolist()}
    was = {tuple(c) for c in (hidden * 1e4).round().int().tolist()}
    assert len(was & found) > 0.9 * len(was)


def unlike(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().mean())


def test_sides_that_no_frame_shows_are_held_to_the_start(start: Avatar, footage: Footage):
    free, held = (fitted(start, footage, replace(CONFIG, held=w))[2] for w in (0.0, 3.0))
    turn = torch.eye(4)
    turn[:3, :3] = torch.from_numpy(Rotation.from_euler("y", 50, degrees=True).as_matrix())
    row = footage.inputs[0]
    front, code = footage.cameras[row], footage.codes[row]
    side = replace(front, world_to_camera=front.world_to_camera @ turn)

    def change(camera: Camera) -> float:
        was, off, near = (a.render(code, camera).color for a in (start, free, held))
        return unlike(near, was) / unlike(off, was)

    assert change(side) < 0.7
    assert change(side) < 0.9 * change(front)


def test_expressions_that_no_frame_shows_are_held_to_the_start(
    start: Avatar, footage: Footage, monkeypatch: pytest.MonkeyPatch
):
    weights = torch.zeros(2, len(ARKIT))
    weights[1, [ARKIT["mouthFunnel"], ARKIT["browInnerUp"]]] = 1
    rest, other = (arkit_to_code(weights.numpy())[i] for i in range(2))
    camera = footage.cameras[footage.inputs[0]]

    def effect(avatar: Avatar) -> Tensor:
        return avatar.render(other, camera).color - avatar.render(rest, camera).color

    config = replace(CONFIG, held=3.0)
    _, _, held = fitted(start, footage, config)
    still = rest.values[None].repeat(96, 1)
    monkeypatch.setattr("pipeline.avatar.fit.sample_codes", lambda *_: still)
    _, _, alone = fitted(start, footage, config)
    assert unlike(effect(held), effect(start)) < 0.95 * unlike(effect(alone), effect(start))


@pytest.mark.parametrize("look", [0, 3])
def test_a_fit_that_is_interrupted_keeps_the_best(start: Avatar, footage: Footage, look: int):
    best: list[tuple[float, Avatar]] = []

    def stop(found: Look, now: Callable[[], Avatar]) -> None:
        best.append((found.judged, now()))
        if len(best) > look:
            raise KeyboardInterrupt

    if look == 0:  # nothing is lost, nothing is made
        with pytest.raises(KeyboardInterrupt):
            fit(start, footage, CONFIG, tell=stop, clock=ticking())
        return
    kept, report = fit(start, footage, CONFIG, tell=stop, clock=ticking())
    assert report.stopped and len(report.looks) == look + 1
    assert same(kept, max(best, key=lambda pair: pair[0])[1])


def test_the_result_is_light_and_goes_everywhere(done, footage: Footage, tmp_path: Path):
    kept, _, _ = done
    kept.save(tmp_path / "me.avatar")
    again = Avatar.load(tmp_path / "me.avatar")
    assert (tmp_path / "me.avatar").stat().st_size < 4e6 and len(again.canonical) <= 5_000
    a, b = (x.animate(footage.codes[3]).means for x in (kept, again))
    torch.testing.assert_close(a, b, atol=2e-5, rtol=0)
    export_web(again, tmp_path / "site", Sequence(footage.codes[:5], 25.0))
    assert (tmp_path / "site" / "index.html").is_file()


def test_of_a_network_neighbours_become_one(footage: Footage):
    torch.manual_seed(0)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    rows = footage.inputs[:2]
    exact = Avatar.create(net, footage.views(rows), footage.codes.layout, {}, footage.mesh(rows))
    few = light(exact, footage, LightConfig(gaussians=400, rank=8))
    assert 200 < len(few.canonical) <= 400 < len(exact.canonical)
    assert isinstance(few.deformation, Baked) and len(few.deformation.shapes) == 8
    jaw = [float(arkit_weights(code)[ARKIT["jawOpen"]]) for code in footage.codes.values]
    row = max(footage.supervise, key=lambda row: jaw[row])
    moves, wanted = (
        avatar.animate(footage.codes[row]).means - avatar.canonical.means for avatar in (few, exact)
    )
    _, near = KDTree(exact.canonical.means.numpy()).query(few.canonical.means.numpy())
    assert float(wanted.norm(dim=1).max()) > 5e-3
    off = (moves - wanted[near]).norm(dim=1)
    assert float(off.mean()) < 0.3 * float(wanted[near].norm(dim=1).mean())
    truth = footage.views([row])
    drawn = few.render(footage.codes[row], truth.camera[0]).color.permute(2, 0, 1)[None]
    wanted = exact.render(footage.codes[row], truth.camera[0]).color.permute(2, 0, 1)[None]
    assert float(psnr_where(drawn, wanted, truth.alpha > 0.5)) > 20


def test_what_cannot_be_fitted_is_refused(start: Avatar, footage: Footage):
    other = ExpressionCode(footage.codes.values, FLAME2020)
    with pytest.raises(ConfigError, match="the video has"):
        fit(start, replace(footage, codes=other), CONFIG)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    rows = footage.inputs[:1]
    exact = Avatar.create(net, footage.views(rows), footage.codes.layout, {}, footage.mesh(rows))
    with pytest.raises(ConfigError, match="Only a linear baked avatar"):
        fit(exact, footage, CONFIG)
