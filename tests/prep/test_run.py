"""Raw captures to shards, through the real command line and by hand."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.core.errors import InputError, MissingPackageError, StaleOutputError
from pipeline.core.geometry import project
from pipeline.perception.detectors import get_detector
from pipeline.prep import run as recipes
from pipeline.prep.plan import PrepConfig
from pipeline.shards.reader import Shard
from pipeline.system.executor import RayWorkers
from pipeline.system.locks import locked
from pipeline.tracking.triangulate import triangulate
from tests.captures import ava
from tests.captures.studio import shoot
from tests.conftest import dome

CONFIG = PrepConfig("ava256", size=64, detector="none", need_codes=False)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    ava.write(root, shoot(height=147))
    return root


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    recipes.run(raw, out, CONFIG)
    return out


def test_what_is_lost_is_marked_and_reported_and_the_rest_is_packed(made: Path):
    with Shard(made / f"{ava.NAME}.h5") as shard:
        shard.verify()
        assert (shard.timesteps, shard.views) == (3, 3)
        assert np.argwhere(~shard.valid).tolist() == [[1, 1]]
        assert shard.sentences.tolist() == [0, 0, 1]
        assert shard.provenance["color"] == "ava256-srgb-v1"
        with pytest.raises(Exception, match="not finite"):
            shard.code(0)  # nobody tracked it
    report = json.loads((made / "reports" / f"{ava.NAME}.json").read_text())
    assert report["dropped_views"] == {"EXP_neutral_peak_000068 400941": "there is no picture"}
    assert "does not exist" in report["dropped_timesteps"]["SEN_a_b_001204"]
    assert report["missing"]["image/cam401999.zip"] == "not a whole zip archive."


def test_the_tracked_mesh_falls_on_the_head_in_every_crop(made: Path):
    with Shard(made / f"{ava.NAME}.h5") as shard:
        for t, v in np.argwhere(shard.valid).tolist():
            pixels, depth = project(shard.cameras(t)[v], shard.vertices(t))
            assert (depth > 0.5).all()
            inside = ((pixels > 0) & (pixels < 64)).all(-1)
            x, y = pixels[inside].long().T
            assert (shard.read([(t, v)], 64).alpha[0, 0, y, x] > 0.5).float().mean() > 0.9


def test_the_same_raw_data_give_the_same_bytes_on_any_number_of_workers(
    raw: Path, made: Path, tmp_path: Path
):
    recipes.run(raw, tmp_path / "two", CONFIG, workers=2)
    name = f"{ava.NAME}.h5"
    assert (tmp_path / "two" / name).read_bytes() == (made / name).read_bytes()


def test_a_run_that_was_killed_before_its_plan_was_written_goes_on(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    recipes.run(raw, out, CONFIG, until="crop")
    (out / "work" / ava.NAME / "plan.json").unlink()
    with pytest.raises(InputError, match="has no work in it"):
        recipes.run_stage(out, "matte")
    assert recipes.run(raw, out, CONFIG).done
    assert (out / f"{ava.NAME}.h5").is_file()


def test_a_finished_run_does_nothing_and_a_damaged_item_is_named(raw: Path, tmp_path: Path):
    out = tmp_path / "out"
    first = recipes.run(raw, out, CONFIG)
    again = recipes.run(raw, out, CONFIG)
    assert again.done == 0 and again.skipped == first.done
    (out / f"{ava.NAME}.h5").unlink()
    item = next((out / "work").rglob("crop/*.npz"))
    item.write_bytes(item.read_bytes()[:100])
    with pytest.raises(Exception, match=item.name):
        recipes.run(raw, out, CONFIG)
    item.unlink()
    assert recipes.run(raw, out, CONFIG).done == 2


def test_stages_one_by_one_make_what_the_recipe_makes(raw: Path, made: Path, tmp_path: Path):
    out = tmp_path / "steps"
    recipes.run(raw, out, CONFIG, until="landmarks")
    with pytest.raises(InputError, match="track is not done for 4 timesteps"):
        recipes.run_stage(out, "crop")
    for stage in recipes.STAGES[1:]:
        recipes.run_stage(out, stage)
    name = f"{ava.NAME}.h5"
    assert (out / name).read_bytes() == (made / name).read_bytes()


def test_without_codes_nothing_is_packed_for_training(raw: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no expression code"):
        recipes.run(raw, tmp_path / "x", PrepConfig("ava256", size=64, detector="none"))


def test_a_dry_run_counts_and_writes_nothing(raw: Path, tmp_path: Path):
    plan = recipes.estimate(raw, tmp_path / "out", CONFIG)
    assert (plan.captures, plan.timesteps, plan.pictures) == (1, 4, 12)
    assert plan.bytes_needed > 0 and list(tmp_path.iterdir()) == []


def test_results_do_not_go_into_the_raw_data_nor_beside_another_run(raw: Path, tmp_path: Path):
    with pytest.raises(InputError, match="inside the raw data"):
        recipes.run(raw, raw / "out", CONFIG)
    with locked(tmp_path), pytest.raises(StaleOutputError, match="is working in"):
        recipes.run(raw, tmp_path, CONFIG)


def test_three_kills_leave_no_trace_in_the_shard(raw: Path, made: Path, tmp_path: Path):
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "fastgha_cli", "prep", "ava256", str(raw), "-o", str(out)]
    command += ["--size", "64", "--detector", "none", "--no-codes", "--workers", "1"]
    for stage in ("landmarks", "crop", "matte"):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while process.poll() is None and not any(out.glob(f"work/*/{stage}/*.npz")):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (out / "work" / f".x.npz.{process.pid}.part").touch()
    assert subprocess.run(command, capture_output=True).returncode == 0
    name = f"{ava.NAME}.h5"
    assert (out / name).read_bytes() == (made / name).read_bytes()
    assert not list(out.rglob(".*.part"))


def slow_touch(path: Path) -> None:
    """Leave the process's number; the first worker to meet `victim` dies of it."""
    if path.name == "victim" and not path.with_name("died").exists():
        path.with_name("died").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.02)
    path.write_text(str(os.getpid()))


@pytest.mark.filterwarnings("ignore")  # Ray leaves sockets open and warns about the future
def test_a_lost_worker_of_a_cluster_has_its_items_done_again(tmp_path: Path):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    paths = [tmp_path / f"{i}" for i in range(12)]
    paths[5] = tmp_path / "victim"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        RayWorkers(slow_touch, 2, "auto").run(paths)
    finally:
        ray.shutdown()
    assert (tmp_path / "died").exists()
    assert all(path.exists() for path in paths)
    assert len({path.read_text() for path in paths}) == 3  # two workers and the one that came


def test_triangulated_points_are_where_most_cameras_see_them():
    rng = np.random.default_rng(0)
    cameras = dome(6, 512, seed=3).to(torch.float64)
    points = rng.uniform(-0.08, 0.08, (20, 3))
    pixels = project(cameras, torch.from_numpy(points).expand(6, 20, 3))[0].numpy()
    pixels += rng.normal(0, 0.3, pixels.shape)
    pixels[0] += 40  # one camera is wrong everywhere
    pixels[2, :5] = np.nan
    pixels[1:, 7] = np.nan
    E, K = cameras.world_to_camera.numpy(), cameras.K.numpy()
    found = triangulate(pixels, E, K, np.full(6, 3.0))
    assert np.isnan(found[7]).all()  # a single camera
    known = np.delete(np.arange(20), 7)
    assert np.linalg.norm(found[known] - points[known], axis=1).max() < 0.002


def test_a_detector_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "face_alignment", None)
    with pytest.raises(MissingPackageError, match="face-alignment"):
        get_detector("fan").make()
