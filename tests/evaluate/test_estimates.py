"""A protocol whose cameras, codes and meshes are estimated from the pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import ConfigError, FormatError, InputError
from pipeline.core.geometry import project
from pipeline.evaluate import estimates
from pipeline.evaluate.estimates import estimate, lost, read_estimates, refuse
from pipeline.evaluate.protocol import names, read, selection_hash, tasks
from pipeline.evaluate.run import measure, ours, scene
from pipeline.faces.makehuman import load_asset
from pipeline.model.fastgha import FastGHA
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen
from pipeline.shards.reader import Shard
from pipeline.tracking.tracker import HeadTracker
from pipeline.train.presets import tiny
from tests.evaluate.toys import TOY, plain

PHOTOS = replace(TOY, estimated=True)
IDS = np.concatenate(
    [load_asset().landmarks, np.setdiff1d(np.arange(0, 5000, 40), load_asset().landmarks)]
).astype(np.int64)


class Knowing:
    """Sees the shards' heads where they are; a face's score is the number of its picture."""

    vertices = IDS

    def __init__(self, shards: Path) -> None:
        self.seen = 0
        self.known: list[np.ndarray] = []
        for task in tasks(TOY, shards, None):
            pairs = [*task.inputs, *task.targets]
            with Shard(task.shard) as shard:
                cameras = shard.read(pairs, TOY.size).camera
                for i, (t, _) in enumerate(pairs):
                    points = project(cameras[i], shard.vertices(t)[IDS])[0]
                    self.known.append(points.double().numpy())

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        self.seen += 1
        points, ends = self.known[int(face.score)], np.full(len(IDS), 0.2)
        return PointsSeen(points, ends, np.zeros(107), np.full(107, 0.1))


@pytest.fixture(scope="module")
def finder(shards: Path) -> Knowing:
    return Knowing(shards)


def tools(finder: Knowing, blind: int = -1):
    """A detector that sees nothing in the picture of one number, and a tracker."""
    count = -1

    def detect(rgb: np.ndarray) -> list[Face]:
        nonlocal count
        count += 1
        return [] if count == blind else [Face((0, 0, 32, 32), np.zeros((68, 2)), count)]

    return lambda: (detect, HeadTracker(finder))  # pyright: ignore[reportArgumentType]


def test_cameras_come_from_the_pictures_and_are_kept(shards: Path, finder: Knowing, tmp_path: Path):
    chosen = tasks(PHOTOS, shards, None)
    found = estimate(PHOTOS, chosen, folder=tmp_path, make=tools(finder))
    assert [task.targets for task in found] == [task.targets for task in chosen]
    assert lost(chosen, found) == ""
    told, _ = scene(found[0], PHOTOS)
    true, _ = scene(chosen[0], PHOTOS)
    for mine, theirs in ((told.inputs.camera, true.inputs.camera), (told.camera, true.camera)):
        assert not torch.equal(mine.world_to_camera, theirs.world_to_camera)
        cosines = (mine.world_to_camera[:, :3, :3] * theirs.world_to_camera[:, :3, :3]).sum((1, 2))
        assert torch.rad2deg(((cosines - 1) / 2).clamp(-1, 1).arccos()).max() < 3
    # The head is where the picture shows it, the same one in inputs and targets.
    mesh = told.mesh()
    marks = torch.from_numpy(mesh.posed[:, load_asset().landmarks])
    seen = project(told.inputs.camera, marks)[0]
    with Shard(chosen[0].shard) as shard:
        truth = shard.vertices(0)[load_asset().landmarks]
    torch.testing.assert_close(
        seen, project(true.inputs.camera, truth.expand(2, -1, -1))[0], atol=0.3, rtol=0
    )
    there = project(told.camera, torch.from_numpy(mesh.neutral[load_asset().landmarks]))[0]
    torch.testing.assert_close(there, project(true.camera, truth)[0], atol=0.5, rtol=0)
    # A second model finds what the first one left.
    looks = finder.seen

    def nobody():
        raise AssertionError("tracked again")

    again = estimate(PHOTOS, chosen, folder=tmp_path, make=nobody)
    assert again == found and finder.seen == looks
    assert selection_hash(found) != selection_hash(chosen)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    figures = measure(ours(net), "m", PHOTOS, found, metrics=plain()).figures
    assert figures["PSNR"].count == 6


def test_pictures_without_a_face_are_left_out_and_said(
    shards: Path, finder: Knowing, tmp_path: Path
):
    chosen = tasks(PHOTOS, shards, None)
    found = estimate(PHOTOS, chosen, folder=tmp_path, make=tools(finder, blind=1))
    assert found[0].inputs == chosen[0].inputs[:1] and found[0].targets == chosen[0].targets
    assert "1 of 4 inputs and 0 of 6 pictures" in lost(chosen, found)
    assert len(scene(found[0], PHOTOS)[0].mesh()) == 1

    def blind():
        return (lambda rgb: []), HeadTracker(finder)  # pyright: ignore[reportArgumentType]

    with pytest.raises(InputError, match="finds nobody"):
        estimate(PHOTOS, chosen, folder=tmp_path / "other", make=blind)
    path = found[0].estimates
    assert path is not None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FormatError, match="is damaged"):
        read_estimates(path)


def test_another_tracker_finds_no_old_estimates(
    shards: Path, finder: Knowing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chosen = tasks(PHOTOS, shards, None)[:1]
    first = estimate(PHOTOS, chosen, folder=tmp_path, make=tools(finder))
    monkeypatch.setattr(estimates, "_maker", lambda: "another program")
    second = estimate(PHOTOS, chosen, folder=tmp_path, make=tools(finder))
    assert first[0].estimates != second[0].estimates
    assert selection_hash(first) != selection_hash(second)


def test_only_the_protocol_of_photographs_is_estimated():
    assert [name for name in names() if read(name).estimated] == ["synthetic-photos"]
    assert replace(TOY, estimated=True).hash != TOY.hash
    with pytest.raises(ConfigError, match="estimates cameras and codes itself"):
        refuse(read("synthetic-photos"), "there are none to give")
    refuse(TOY, "")
