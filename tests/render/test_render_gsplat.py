"""gsplat behind the same function: what we pass, what we read, and its own projection."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import types

import numpy as np
import pytest
import torch

from pipeline.core.errors import BackendError
from pipeline.core.types import Camera, Gaussians
from pipeline.render import gsplat_backend, render, render_sets
from pipeline.render.gsplat_backend import rasterize
from tests.render.scenes import cameras, cloud, needles, ordinary
from tests.render.test_render_cpu import _records, conics

here = importlib.util.find_spec("gsplat") is not None
needs_gsplat = pytest.mark.skipif(not here, reason="gsplat is not installed")
needs_cuda = pytest.mark.skipif(
    not (here and torch.cuda.is_available()), reason="gsplat draws on CUDA devices only"
)
quiet = pytest.mark.filterwarnings("ignore")


class StandIn:
    """gsplat's documented contract, drawn by the reference."""

    def __init__(self):
        self.asked: dict = {}
        self.calls = 0

    def rasterization(self, means, quats, scales, opacities, colors, viewmats, Ks, width, height,
                      near_plane=0.01, far_plane=1e10, radius_clip=0.0, eps2d=0.3, sh_degree=None,
                      packed=True, tile_size=16, backgrounds=None, render_mode="RGB",
                      sparse_grad=False, absgrad=False, rasterize_mode="classic"):  # fmt: skip
        self.calls += 1
        self.asked = {k: v for k, v in locals().items() if k != "self"}
        *batch, n, _ = means.shape
        lead = (*batch, viewmats.shape[-3])
        assert means.shape == (*batch, n, 3) and quats.shape == (*batch, n, 4)
        assert scales.shape == (*batch, n, 3) and opacities.shape == (*batch, n)
        assert colors.shape[:-1] == (*batch, n) and Ks.shape == (*lead, 3, 3)
        assert viewmats.shape == (*lead, 4, 4) and backgrounds.shape == (*lead, colors.shape[-1])
        assert render_mode == "RGB+ED" and eps2d == 0.3 and len(batch) == 1
        drawn = [
            render(
                Gaussians(means[b], quats[b], scales[b], opacities[b], colors[b]),
                Camera(viewmats[b], Ks[b], width, height),
                background=backgrounds[b, 0],
                backend="reference",
                antialiased=rasterize_mode == "antialiased",
            )
            for b in range(batch[0])
        ]
        color = torch.stack([torch.cat([d.color, d.depth], -1) for d in drawn])
        return color, torch.stack([d.alpha for d in drawn]), {}


@pytest.fixture
def stand_in(monkeypatch):
    module = types.ModuleType("gsplat")
    stand_in = StandIn()
    module.rasterization = stand_in.rasterization
    monkeypatch.setitem(sys.modules, "gsplat", module)
    return stand_in


@pytest.mark.parametrize("channels", [1, 3, 7])
@pytest.mark.parametrize("antialiased", [False, True])
def test_what_gsplat_documents_becomes_our_rendering(stand_in, channels, antialiased):
    sets, camera = [cloud(60, channels), cloud(60, channels, seed=1)], cameras(20, 12)
    background = torch.rand(channels)
    rows = Camera(camera.world_to_camera.expand(2, 2, 4, 4), camera.K.expand(2, 2, 3, 3), 20, 12)
    for chosen in (camera, rows):
        got = rasterize(sets, chosen, background, antialiased=antialiased)
        want = render_sets(sets, chosen, background=background, backend="reference",
                           antialiased=antialiased)  # fmt: skip
        for part in ("color", "alpha", "depth"):
            assert torch.equal(getattr(got, part), getattr(want, part)), part
    assert stand_in.asked["packed"] is False


@pytest.mark.parametrize("single", [False, True])
def test_one_set_keeps_the_cameras_dimensions(stand_in, monkeypatch, single):
    monkeypatch.setattr(gsplat_backend, "_require_cuda", lambda gaussians: None)
    gaussians, camera = cloud(40), cameras(20, 12)
    chosen = camera[0] if single else camera
    got = render(gaussians, chosen, backend="gsplat")
    want = render(gaussians, chosen, backend="reference")
    assert torch.equal(got.color, want.color) and torch.equal(got.depth, want.depth)


def test_sets_of_one_size_are_one_call_and_others_are_drawn_one_by_one(stand_in, monkeypatch):
    monkeypatch.setattr(gsplat_backend, "_require_cuda", lambda gaussians: None)
    for sizes, calls in (((30, 30), 1), ((30, 20), 2)):
        stand_in.calls = 0
        sets = [cloud(n, seed=n) for n in sizes]
        got = render_sets(sets, cameras(20, 12), backend="gsplat")
        want = render_sets(sets, cameras(20, 12), backend="reference")
        assert torch.equal(got.color, want.color) and stand_in.calls == calls


@needs_gsplat
@quiet
def test_the_installed_gsplat_knows_every_argument_we_pass(stand_in):
    rasterize([cloud(5)] * 2, cameras(8, 8), torch.ones(3), antialiased=False)
    sys.modules.pop("gsplat")
    from gsplat import rasterization

    known = inspect.signature(rasterization).parameters
    source = inspect.getsource(rasterize)
    passed = [k for k in stand_in.asked if f"{k}=" in source]
    assert len(passed) == 16
    assert set(passed) <= set(known)


def test_gsplat_refuses_tensors_that_are_not_on_cuda():
    with pytest.raises(BackendError, match=r"Move them with .to\('cuda'\)"):
        render(*ordinary(), backend="gsplat")


def test_a_missing_gsplat_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(BackendError, match=r"pip install 'fastgha\[cuda\]'"):
        rasterize([cloud(5)] * 2, cameras(8, 8), torch.ones(3), antialiased=False)


@needs_gsplat
@quiet
@pytest.mark.parametrize("scene", [ordinary, needles])
def test_the_projection_is_gsplats(scene):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    gaussians, camera = scene()
    covariance, _ = _quat_scale_to_covar_preci(
        gaussians.quats.double(), gaussians.scales.double(), True, False
    )
    _, centers, depths, wanted, _ = _fully_fused_projection(
        gaussians.means.double(), covariance, camera.world_to_camera.double(), camera.K.double(),
        camera.width, camera.height,
    )  # fmt: skip
    for v in range(len(camera)):
        records, _, listed, _ = _records(gaussians, camera[v])
        assert len(listed) > 0.7 * len(gaussians)
        assert np.allclose(records[listed, :2], centers[v, listed], atol=1e-4)
        assert np.allclose(records[listed, 6], depths[v, listed], rtol=1e-6)
        want = wanted[v, listed].numpy()
        error = np.abs(conics(records[listed]) - want)
        assert (error <= 5e-4 * np.abs(want).max(-1, keepdims=True)).all()


@needs_gsplat
@quiet
def test_the_antialiased_opacity_is_gsplats():
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    gaussians, camera = ordinary()
    covariance, _ = _quat_scale_to_covar_preci(
        gaussians.quats.double(), gaussians.scales.double(), True, False
    )
    *_, shrink = _fully_fused_projection(
        gaussians.means.double(), covariance, camera.world_to_camera.double(), camera.K.double(),
        camera.width, camera.height, calc_compensations=True,
    )  # fmt: skip
    records, _, listed, _ = _records(gaussians, camera[0], antialiased=True)
    wanted = gaussians.opacities[listed].double() * shrink[0, listed]
    assert np.allclose(np.exp2(records[listed, 5]), wanted, rtol=1e-4)


@needs_cuda
def test_cuda_kernels_draw_what_the_cpu_does():
    gaussians, camera = ordinary()
    got = render(gaussians.to("cuda"), camera.to("cuda"), backend="gsplat")
    want = render(gaussians, camera, backend="cpu")
    for part in ("color", "alpha"):
        difference = (getattr(got, part).cpu() - getattr(want, part)).abs()
        assert difference.max() <= 2.1 / 255
        assert (difference > 1e-4).sum() <= max(6, 1e-3 * difference.numel())
