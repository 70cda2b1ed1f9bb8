"""Point maps to depth in the shards."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from pipeline.core.errors import (
    ConfigError,
    FormatError,
    MissingPackageError,
    MissingWeightsError,
    StaleOutputError,
)
from pipeline.core.geometry import pixel_directions
from pipeline.faces.flame import load_flame
from pipeline.faces.layouts import FLAME2020
from pipeline.prep.depth import run as points
from pipeline.prep.depth.run import PointsConfig
from pipeline.prep.synthetic import SyntheticConfig, capture
from pipeline.shards.reader import Shard
from pipeline.shards.writer import write_shard
from pipeline.tracking.align import align, umeyama
from tests.faces import flames

SIZE = 96


@pytest.fixture(scope="module")
def shot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One synthetic person with the true depth, in a shard."""
    path = tmp_path_factory.mktemp("points") / "a.h5"
    made = capture(SyntheticConfig(identities=1, expressions=2, views=4, size=SIZE), 0)
    write_shard(path, made, {})
    return path


def copy(shot: Path, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "a.h5").write_bytes(shot.read_bytes())
    return folder


def true_maps(shard: Shard, t: int, seed: int) -> np.ndarray:
    """The points of all views [v h w 3] in a frame of any scale; a part of them wrong."""
    rng = np.random.default_rng(seed)
    maps = []
    for v in range(shard.views):
        camera = shard.cameras(t)[v]
        depth = shard.depth([(t, v)], SIZE)[0, 0].numpy()
        rays = pixel_directions(camera).permute(1, 2, 0).numpy()
        inside = rays / rays[..., 2:] * depth[..., None]
        E = camera.world_to_camera.numpy()
        points_ = (inside - E[:3, 3]) @ E[:3, :3]
        maps.append(np.where(depth[..., None] > 0, points_, np.nan))
    R = Rotation.random(random_state=seed).as_matrix()
    scaled = 7.3 * np.stack(maps) @ R.T + rng.normal(0, 3, 3)
    wrong = rng.random(scaled.shape[:3]) < 0.1
    scaled[wrong] += rng.normal(0, 2, (int(wrong.sum()), 3))
    return scaled.astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), scale=st.floats(-3, 3), noise=st.floats(0, 0.0005))
def test_the_transform_is_found_to_half_a_millimetre_with_30_percent_outliers(seed, scale, noise):
    rng = np.random.default_rng(seed)
    target = rng.uniform(-0.09, 0.09, (136, 3)) * [1, 1, 0.5] + [0, 0, 0.06]
    R, s = Rotation.random(random_state=seed).as_matrix(), 10**scale
    t = rng.normal(0, 2, 3)
    source = (target + rng.normal(0, noise, target.shape) - t) @ R / s
    wrong = rng.permutation(136)[: int(0.3 * 136)]
    source[wrong] += rng.normal(0, 0.08, (len(wrong), 3)) / s
    source[rng.permutation(136)[:5]] = np.nan
    found = align(source, target)
    assert found is not None
    head = rng.uniform(-0.08, 0.08, (200, 3)) * [1, 1, 0.5] + [0, 0, 0.06]
    moved = found.similarity((head - t) @ R / s)
    assert np.linalg.norm(moved - head, axis=1).max() < 0.0005
    assert found.residual < 3 * 1000 * noise + 0.6


def test_points_that_fix_no_transform_give_none():
    line = np.linspace(0, 1, 20)[:, None] * np.ones(3)
    assert umeyama(line, line) is None
    rng = np.random.default_rng(0)
    assert align(rng.normal(size=(60, 3)), 0.1 * rng.normal(size=(60, 3))) is None
    assert align(np.full((60, 3), np.nan), rng.normal(size=(60, 3))) is None


def test_precomputed_points_of_any_scale_become_the_true_depth(shot: Path, tmp_path: Path):
    out, maps = copy(shot, tmp_path / "out"), tmp_path / "maps"
    with Shard(shot) as shard:
        (maps / shard.subject).mkdir(parents=True)
        for t in range(2):
            np.savez(maps / shard.subject / f"{t:06d}.npz", points=true_maps(shard, t, t))
        report = points.run(out, PointsConfig("precomputed", str(maps)))
        assert report.done == 2 and report.dropped == {}
        with Shard(out / "a.h5") as made:
            made.verify()
            assert (made.depth_error(0) < 3).all() and (made.depth_error(0) > 0).all()
            pairs = [(t, v) for t in range(2) for v in range(4)]
            found, true = made.depth(pairs, SIZE), shard.depth(pairs, SIZE)
    both = (found > 0) & (true > 0)
    assert both.sum() > 0.5 * (true > 0).sum()
    assert (found - true)[both].abs().median() < 0.001
    assert ((found > 0) & (true == 0)).sum() < 0.02 * both.sum()


def test_a_group_that_does_not_fit_is_reported_and_left_out(shot: Path, tmp_path: Path):
    out, maps = copy(shot, tmp_path / "out"), tmp_path / "maps"
    with Shard(shot) as shard:
        (maps / shard.subject).mkdir(parents=True)
        noise = np.random.default_rng(0).normal(size=(4, SIZE, SIZE, 3))
        np.savez(maps / shard.subject / "000000.npz", points=noise)
        np.savez(maps / shard.subject / "000001.npz", points=true_maps(shard, 1, 1))
    report = points.run(out, PointsConfig("precomputed", str(maps)))
    assert list(report.dropped) == ["a 000000 views 0,1,2,3"]
    with Shard(out / "a.h5") as made:
        assert np.isnan(made.depth_error(0)).all() and np.isfinite(made.depth_error(1)).all()
        assert not made.depth([(0, 1)], SIZE).any() and made.depth([(1, 1)], SIZE).any()


def test_the_tracked_mesh_gives_depth_near_the_truth_without_weights(shot: Path, tmp_path: Path):
    out = copy(shot, tmp_path / "out")
    points.run(out, PointsConfig("mesh"))
    once = (out / "a.h5").read_bytes()
    again = points.run(out, PointsConfig("mesh"))
    assert (again.done, again.skipped) == (0, 2)
    with Shard(out / "a.h5") as made, Shard(shot) as shard:
        found, true = made.depth([(0, 0)], SIZE), shard.depth([(0, 0)], SIZE)
    both = (found > 0) & (true > 0)
    assert both.float().mean() > 0.2
    assert (found - true)[both].abs().median() < 0.002
    with pytest.raises(StaleOutputError, match="other settings"):
        points.run(out, PointsConfig("mesh", group=3))
    points.run(copy(shot, tmp_path / "out"), PointsConfig("mesh"))
    assert (out / "a.h5").read_bytes() == once


def test_a_mesh_without_known_triangles_asks_for_them(tmp_path: Path, shot: Path):
    out = tmp_path / "out"
    out.mkdir()
    made = capture(SyntheticConfig(identities=1, expressions=1, views=2, size=32), 0)
    write_shard(out / "a.h5", replace(made, vertices=made.vertices[:, :50], neutral=None), {})
    with pytest.raises(ConfigError, match="--topology"):
        points.run(out, PointsConfig("mesh"))
    obj = tmp_path / "t.obj"
    corners = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\n"
    obj.write_text(corners + "f 1/1 2/2 3/3 4/4\n")
    points.run(out, PointsConfig("mesh", topology=str(obj)))
    bad = tmp_path / "bad.obj"
    bad.write_text("nothing")
    with pytest.raises(FormatError, match="faces"):
        points.run(out, PointsConfig("mesh", topology=str(bad)), overwrite=True)


def test_a_missing_point_map_is_named(shot: Path, tmp_path: Path):
    out = copy(shot, tmp_path / "out")
    with pytest.raises(FormatError, match=r"000000\.npz is missing"):
        points.run(out, PointsConfig("precomputed", str(tmp_path)))


VGGT = '''
import numpy as np, torch
class VGGT:
    """Keeps the contract of the real one: shapes, ranges, keys; its points come from a file."""
    @classmethod
    def from_pretrained(cls, name):
        self = cls(); self.points = torch.from_numpy(np.load(name)); return self
    def to(self, device): return self
    def eval(self): return self
    def __call__(self, images):
        assert images.ndim == 4 and images.shape[1:] == (3, 518, 518), images.shape
        assert 0 <= float(images.min()) and float(images.max()) <= 1
        n = images.shape[0]
        z = torch.nn.functional.interpolate(
            self.points[:n].permute(0, 3, 1, 2), (518, 518), mode="nearest").permute(0, 2, 3, 1)
        sure = torch.where(z.isfinite().all(-1), 2.0, 1.0)
        return {"world_points": z[None], "world_points_conf": sure[None], "depth": z[None, ..., 2:],
                "depth_conf": sure[None], "pose_enc": torch.zeros(1, n, 9)}
'''


@pytest.mark.parametrize("head", ["points", "depth"])
def test_vggt_is_called_as_its_code_wants(shot: Path, tmp_path: Path, monkeypatch, head: str):
    stand_in = tmp_path / "lib" / "vggt"
    for folder in ("models", "utils"):
        (stand_in / folder).mkdir(parents=True)
    (stand_in / "models" / "vggt.py").write_text(VGGT)
    (stand_in / "utils" / "pose_enc.py").write_text(
        "import torch\n"
        "def pose_encoding_to_extri_intri(pose, size):\n"
        "    assert pose.shape[-1] == 9 and tuple(size) == (518, 518)\n"
        "    return torch.zeros(*pose.shape[:2], 3, 4), torch.zeros(*pose.shape[:2], 3, 3)\n"
    )
    maps = tmp_path / "points.npy"
    (stand_in / "utils" / "geometry.py").write_text(
        "import numpy as np\n"
        "def unproject_depth_map_to_point_map(depth, extrinsic, intrinsic):\n"
        "    n = len(depth)\n"
        "    assert depth.shape == (n, 518, 518, 1) and extrinsic.shape == (n, 3, 4)\n"
        f"    points = np.load({str(maps)!r})\n"
        "    rows = np.arange(518) * points.shape[1] // 518\n"
        "    return points[:n][:, rows][:, :, rows]\n"
    )
    out = copy(shot, tmp_path / "out")
    with Shard(shot) as shard:
        np.save(maps, true_maps(shard, 0, 3))
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    work = points.Points(PointsConfig("vggt", weights=str(maps), head=head))  # pyright: ignore
    work((out / "a.h5", 0))
    for name in [n for n in sys.modules if n.split(".")[0] == "vggt"]:
        del sys.modules[name]
    found = points.load_item(points.item(out / "a.h5", 0, work.config))
    assert found.dropped == {} and (found.arrays["error"] < 3).all()
    assert all(found.pictures["depth"])


def test_vggt_that_is_not_installed_says_what_else_there_is(shot: Path, tmp_path: Path):
    with pytest.raises(MissingPackageError, match="precomputed or mesh"):
        points.run(copy(shot, tmp_path / "out"), PointsConfig("vggt"))


def test_views_are_grouped_evenly_and_spread():
    assert points.groups(list(range(10)), 4) == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert points.groups([3, 5], 16) == [[3, 5]]


def test_the_command_line_stores_depth(shot: Path, tmp_path: Path):
    out = copy(shot, tmp_path / "out")
    words = [sys.executable, "-m", "fastgha_cli", "vggt-cache", str(out), "--backend", "mesh"]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0 and "2 timesteps made" in done.stderr
    with Shard(out / "a.h5") as shard:
        assert torch.isfinite(shard.depth([(0, 0)], SIZE)).all()
        assert shard.provenance["points"]["backend"] == "mesh"


def test_a_mesh_of_flame_is_drawn_with_the_converted_models_own_faces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    weights, out = tmp_path / "weights", tmp_path / "out"
    for folder in (weights, out):
        folder.mkdir()
    monkeypatch.setenv("FASTGHA_WEIGHTS", str(weights))
    made = capture(SyntheticConfig(identities=1, expressions=1, views=2, size=SIZE), 0)
    few = replace(made, vertices=made.vertices[:, flames.kept()], neutral=None, topology="")
    write_shard(out / "a.h5", replace(few, layout=FLAME2020), {})
    with pytest.raises(MissingWeightsError, match="fastgha flame convert|FLAME model"):
        points.run(out, PointsConfig("mesh"))
    # The other version's model has the same triangles; so has the file when it is named.
    model = flames.write_converted(weights)
    points.run(out, PointsConfig("mesh"))
    with Shard(out / "a.h5") as shard:
        found, true = shard.depth([(0, 0)], SIZE)[0, 0], torch.from_numpy(made.depth[0, 0])
        both = (found > 0) & (true > 0)
        assert both.float().mean() > 0.1
        assert (found - true)[both].abs().median() < 0.01  # hair stands off the mesh
        faces = load_flame(model).faces.numpy()
        assert (points.triangles(shard, 0, str(model))[1] == faces).all()
        assert (points.triangles(shard, 0, "")[1] == faces).all()
