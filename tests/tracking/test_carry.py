"""What is tracked with the built-in head is told in FLAME's numbers, frame and mesh."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from pipeline.core.errors import FormatError, InputError, MissingWeightsError
from pipeline.core.geometry import project
from pipeline.core.types import Camera
from pipeline.faces.flame import Flame
from pipeline.faces.heads import FlameHead, head_model, visible
from pipeline.faces.layouts import (
    EXPRESSION,
    EYELIDS,
    FLAME2023,
    JAW,
    LEFT_EYE,
    MAKEHUMAN,
    RIGHT_EYE,
    matrix_from_rot6d,
)
from pipeline.faces.makehuman import Head, load_asset
from pipeline.perception.points import PointsSeen
from pipeline.synthetic.people import sample_identity
from pipeline.tracking.models import FlameFace
from pipeline.tracking.track_file import read_track, write_track
from pipeline.tracking.tracker import HeadTracker, TrackedHead, landmarks_of
from tests.conftest import dome
from tests.faces import flames
from tests.prep.test_synthetic import weights
from tests.tracking.test_tracker import IDS, Counting

SIZE, MOMENTS, VIEWS = 512, 4, 3
ACTS = [
    weights(),
    weights(jawOpen=0.8),
    weights(eyeBlinkLeft=1.0, eyeBlinkRight=1.0),
    weights(mouthSmileLeft=0.9, mouthSmileRight=0.9, eyeLookOutLeft=0.8, eyeLookInRight=0.8),
]
TURN = Rotation.from_euler("xyz", (14, 2, -2), degrees=True).as_matrix()
"""Mostly about the axis of the jaw, which FLAME turns about one of its own."""


def turned(model: Flame) -> Flame:
    """The same model in other axes, from another origin."""
    R = torch.from_numpy(TURN).float()
    assert model.eyelids is not None
    return replace(
        model, template=model.template @ R.T + torch.tensor([0.01, -0.02, 0.03]),
        shapes=torch.einsum("ij,vjk->vik", R, model.shapes),
        expressions=torch.einsum("ij,vjk->vik", R, model.expressions),
        eyelids=model.eyelids @ R.T,
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen() -> tuple[list[PointsSeen], Camera]:
    """Points of four moments in three views, to half a pixel, and the cameras."""
    rng, rig = np.random.default_rng(4), dome(VIEWS, SIZE, seed=3)
    head, found = Head(sample_identity(rng)), []
    for act in ACTS:
        mesh = torch.from_numpy(head.vertices(act)[IDS])
        for v in range(VIEWS):
            pixels = project(rig[v], mesh)[0].double().numpy()
            pixels = pixels + rng.normal(0, 0.2, pixels.shape)
            found.append(
                PointsSeen(pixels, np.full(len(IDS), 0.2), np.zeros(107), np.full(107, 9.0))
            )
    return found, rig


def fitted(seen: tuple[list[PointsSeen], Camera], model: Flame | None, **more) -> TrackedHead:
    points, rig = seen
    face = None if model is None else FlameFace(model)
    tracker = HeadTracker(Counting(), face=face)  # pyright: ignore[reportArgumentType]
    count = len(points)
    return tracker.fit(
        points, [(SIZE, SIZE)] * count, cameras=[rig[i % VIEWS] for i in range(count)],
        moments=[i // VIEWS for i in range(count)], **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def both(seen: tuple[list[PointsSeen], Camera], model: Flame) -> tuple[TrackedHead, TrackedHead]:
    """As the built-in head, and as FLAME."""
    return fitted(seen, None), fitted(seen, model)


def in_world(head: TrackedHead, points: np.ndarray) -> np.ndarray:
    poses = head.bundle.poses
    return points @ poses[:, :3, :3].swapaxes(1, 2) + poses[:, None, :3, 3]


def skin() -> np.ndarray:
    """Which of the kept vertices are the outer skin of the face."""
    x, kept = flames.like_makehuman()["v_template"], flames.kept()
    head, mean = head_model(MAKEHUMAN), load_asset().mean
    seen = np.isin(kept, visible(head.surface(mean, mean), head.faces))
    return (x[:, 2] > 0.05) & (x[:, 1] > -0.08) & seen


def test_the_face_is_where_the_tracked_one_is(both: tuple[TrackedHead, TrackedHead]):
    ours, theirs = both
    kept, face = flames.kept(), skin()
    wanted, found = in_world(ours, ours.mesh.posed[:, kept]), in_world(theirs, theirs.mesh.posed)
    off = 1000 * np.linalg.norm(found - wanted, axis=-1)[:, face]
    assert (np.median(off, axis=1) < 1).all() and np.quantile(off, 0.9) < 2.5
    marks = in_world(theirs, theirs.posed_landmarks) - in_world(ours, ours.posed_landmarks)
    assert 1000 * np.linalg.norm(marks, axis=-1)[:, 17:].mean() < 1.5
    np.testing.assert_allclose(ours.landmarks, landmarks_of(ours.mesh.neutral))
    for n in range(MOMENTS):
        np.testing.assert_array_equal(theirs.seen_landmarks(n), theirs.posed_landmarks[n])


@pytest.mark.parametrize("other", [False, True])
def test_the_pictures_see_it_at_the_same_pixels_whatever_flames_frame_is(
    seen: tuple[list[PointsSeen], Camera], both: tuple[TrackedHead, TrackedHead], model: Flame,
    other: bool,
):  # fmt: skip
    ours, theirs = both[0], fitted(seen, turned(model)) if other else both[1]
    kept, face = flames.kept(), skin()
    moves = [
        (in_world(head, head.mesh.posed) - in_world(head, head.mesh.neutral[None]))
        for head in (ours, theirs)
    ]
    missed = np.linalg.norm(moves[1] - moves[0][:, kept], axis=-1)[1, face]
    assert 1000 * missed.mean() < 1
    for i, (a, b) in enumerate(zip(ours.bundle.cameras, theirs.bundle.cameras, strict=True)):
        torch.testing.assert_close(a.K, b.K)
        meshes = ours.mesh.posed[i // VIEWS][kept][face], theirs.mesh.posed[i // VIEWS][face]
        pixels = [
            project(camera, torch.from_numpy(mesh))[0]
            for camera, mesh in zip((a, b), meshes, strict=True)
        ]
        assert float((pixels[0] - pixels[1]).norm(dim=-1).median()) < 2
        # The camera of the head frame is that of the world before the pose.
        E = seen[1][i % VIEWS].world_to_camera.double().numpy() @ theirs.bundle.poses[i // VIEWS]
        np.testing.assert_allclose(b.world_to_camera, E, atol=1e-5)
    R = ours.bundle.poses[0, :3, :3].T @ theirs.bundle.poses[0, :3, :3]
    away = Rotation.from_matrix(R @ (TURN if other else np.eye(3))).magnitude()
    assert np.degrees(away) < 1.5


def test_jaw_lids_and_gaze_are_those_of_the_moments(both: tuple[TrackedHead, TrackedHead]):
    codes = [head.codes.values.double() for head in both]
    jaws = []
    for values in codes:
        R = matrix_from_rot6d(values[:, JAW])
        jaws.append(torch.rad2deg(torch.atan2(R[:, 2, 1], R[:, 2, 2])).numpy())
    assert jaws[0][1] > 12 and np.abs(jaws[1] - jaws[0]).max() < 3
    lids = codes[1][:, EYELIDS].numpy()
    assert (lids[2] > 0.6).all() and np.abs(lids[[0, 1]]).max() < 0.25
    eyes = slice(LEFT_EYE.start, RIGHT_EYE.stop)
    torch.testing.assert_close(codes[0][:, eyes], codes[1][:, eyes])
    assert codes[1][3, EXPRESSION].abs().max() > 0.3


def test_the_mesh_is_flames_under_the_code(both: tuple[TrackedHead, TrackedHead], model: Flame):
    head, flame = both[1], FlameHead(model, FLAME2023)
    assert (head.codes.layout, head.mesh.layout) == (FLAME2023, FLAME2023)
    assert head.topology == flame.topology
    for n in range(MOMENTS):
        posed = flame.posed(head.mesh.neutral, head.codes[n])
        np.testing.assert_allclose(head.mesh.posed[n], posed, atol=2e-5)
    shape = torch.from_numpy(head.identity).float()
    whole = model.template + model.shapes[..., : len(shape)] @ shape
    np.testing.assert_allclose(head.mesh.neutral, whole, atol=1e-6)


def test_a_known_person_is_the_same_flame_in_any_moments(
    seen: tuple[list[PointsSeen], Camera], both: tuple[TrackedHead, TrackedHead], model: Flame
):
    who = both[1].bundle.identity
    parts = [
        fitted((seen[0][at : at + 2 * VIEWS], seen[1]), model, identity=who)
        for at in (0, 2 * VIEWS)
    ]
    for part in parts:
        np.testing.assert_array_equal(part.identity, both[1].identity)
        np.testing.assert_array_equal(part.mesh.neutral, both[1].mesh.neutral)


def test_a_tracking_of_flame_comes_back_from_its_file(
    both: tuple[TrackedHead, TrackedHead], file: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    head, path = both[1], tmp_path / "track.npz"
    one = replace(head.bundle, cameras=head.bundle.cameras[::VIEWS])
    head = replace(head, bundle=one)
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(tmp_path))
    head_model.cache_clear()
    write_track(path, head, list(range(MOMENTS)), [], 25.0)
    with pytest.raises(MissingWeightsError, match="need the FLAME model"):
        read_track(path)
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(file.parent))
    head_model.cache_clear()
    back = read_track(path)
    np.testing.assert_allclose(back.mesh().posed, head.mesh.posed, atol=1e-4)
    torch.testing.assert_close(back.codes.values, head.codes.values)
    with np.load(path) as whole:
        np.testing.assert_allclose(whole["identity"], head.identity, rtol=1e-5)
        np.savez(tmp_path / "else.npz", **{**whole, "topology": np.array("x")})
    with pytest.raises(FormatError, match="another head model"):
        read_track(tmp_path / "else.npz")
    head_model.cache_clear()


def test_a_model_without_its_table_or_with_an_old_one_is_refused(model: Flame):
    with pytest.raises(InputError, match="without the table"):
        HeadTracker(face=FlameFace(replace(model, ties=None)))
    assert model.ties is not None
    old = replace(model, ties=replace(model.ties, topology="x"))
    with pytest.raises(InputError, match="older version"):
        HeadTracker(face=FlameFace(old))
