"""A capture tracked with FLAME gets its head pose and mesh from the converted model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.faces.flame import convert, load_flame
from pipeline.prep import run as recipes
from pipeline.prep.items import item_path, load_item
from pipeline.prep.plan import PrepConfig, load_plans
from tests.captures import vhap
from tests.captures.studio import shoot
from tests.faces.flames import numbers, write_pickle


def test_cameras_and_mesh_come_into_the_head_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_pickle(tmp_path / "flame.pkl", numbers(), monkeypatch)
    convert(tmp_path / "flame.pkl", tmp_path / "flame.npz", "2023")
    raw = vhap.write(tmp_path / "raw", shoot())
    config = PrepConfig(
        "folder", size=64, detector="none", cameras=0, flame=str(tmp_path / "flame.npz")
    )
    out = tmp_path / "out"
    recipes.run(raw, out, config, until="track")
    plan = next(iter(load_plans(out).values()))
    model = load_flame(tmp_path / "flame.npz")
    from pipeline.captures.registry import open_capture

    capture = open_capture("folder", raw)
    for step in plan.timesteps:
        made = load_item(item_path(out, plan.capture, "track", step.name)).arrays
        fit = capture.flame(step)
        assert fit is not None
        pose, world = model.head_to_world(fit), model.of(fit)
        camera = capture.camera(step, plan.cameras[0])
        assert camera is not None
        outer = camera.world_to_camera.double().numpy()
        np.testing.assert_allclose(made["world_to_camera"][0], outer @ pose, atol=1e-5)
        # Through either camera a vertex is at the same place.
        want = world @ outer[:3, :3].T + outer[:3, 3]
        E = made["world_to_camera"][0]
        np.testing.assert_allclose(made["vertices"] @ E[:3, :3].T + E[:3, 3], want, atol=1e-5)
        assert np.isfinite(made["code"]).all()
