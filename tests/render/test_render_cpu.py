"""What only the cpu backend promises, and the plain twins of its parts."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from pipeline.bench.render import bench, head_scene
from pipeline.core.errors import BackendError
from pipeline.render import render
from pipeline.render.cpu import binning, projection, rasterize, simd
from pipeline.render.cpu.threads import run, spread
from pipeline.render.reference import project_gaussians
from tests.render.scenes import cameras, cloud, draw, narrow, needles, ordinary


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("scene", [ordinary, narrow, lambda: (cloud(9000), cameras(60, 50, 1))])
def test_any_number_of_threads_gives_the_same_bits(scene, threads):
    results = []
    for count in (1, 2, 3):
        threads(count)
        drawn, grads = draw(scene(), "cpu")
        results.append([drawn.color, drawn.alpha, drawn.depth, *grads.values()])
    for other in results[1:]:
        for first, second in zip(results[0], other, strict=True):
            assert torch.equal(first, second)


def test_views_together_and_alone_give_the_same_bits():
    gaussians, camera = ordinary()
    together = render(gaussians, camera, backend="cpu")
    for v in range(len(camera)):
        alone = render(gaussians, camera[v], backend="cpu")
        assert torch.equal(together.color[v], alone.color)
        assert torch.equal(together.depth[v], alone.depth)


def _sum_of_picture(queue) -> None:
    torch.set_num_threads(1)
    drawn, grads = draw(ordinary(), "cpu")
    queue.put((float(drawn.color.detach().sum()), float(grads["means"].abs().sum())))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.skipif(sys.platform != "linux", reason="forking is safe on Linux alone")
def test_worker_processes_draw_the_same(method):
    drawn, grads = draw(ordinary(), "cpu")
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    # forked ones side by side; one spawned is enough, it has to import everything
    count = 2 if method == "fork" else 1
    workers = [context.Process(target=_sum_of_picture, args=(queue,)) for _ in range(count)]
    for worker in workers:
        worker.start()
    try:
        for _ in workers:
            color, means = queue.get(timeout=40)
            assert color == pytest.approx(float(drawn.color.detach().sum()), rel=1e-6)
            assert means == pytest.approx(float(grads["means"].abs().sum()), rel=1e-5)
    finally:
        for worker in workers:
            worker.join(10)
            worker.kill()


def test_importing_rendering_does_not_import_numba():
    code = "import sys, pipeline.render; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tensors_elsewhere_are_refused():
    gaussians, camera = ordinary()
    with pytest.raises(BackendError, match=r"Move them with .cpu\(\)"):
        render(gaussians.to("meta"), _unchecked(camera), background=torch.ones(3, device="meta"),
               backend="cpu")  # fmt: skip


def _unchecked(camera):
    moved = object.__new__(type(camera))
    moved.__dict__.update(
        world_to_camera=camera.world_to_camera.to("meta"), K=camera.K.to("meta"),
        width=camera.width, height=camera.height,
    )  # fmt: skip
    return moved


def test_changing_the_scene_before_the_way_back_is_noticed():
    gaussians, camera = ordinary()
    gaussians.colors.requires_grad_()
    drawn = render(gaussians, camera, backend="cpu")
    with torch.no_grad():
        gaussians.colors.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        drawn.color.sum().backward()


def test_only_one_of_colour_alpha_and_depth_may_be_used():
    gaussians, camera = ordinary()
    for part in ("color", "alpha", "depth"):
        grads = []
        for backend in ("cpu", "reference"):
            means = gaussians.means.clone().requires_grad_()
            moved = type(gaussians)(
                means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors
            )
            getattr(render(moved, camera, backend=backend), part).sum().backward()
            grads.append(means.grad)
        assert torch.allclose(*grads, rtol=1e-3, atol=1e-3 * float(grads[1].abs().max()))


def test_not_a_number_hides_only_its_own_gaussian():
    gaussians, camera = ordinary()
    broken = gaussians.means.clone()
    broken[7] = torch.nan
    keep = torch.arange(len(gaussians)) != 7
    shown = type(gaussians)(
        broken, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors
    )
    assert torch.equal(
        render(shown, camera, backend="cpu").color,
        render(gaussians[keep], camera, backend="cpu").color,
    )


def _records(gaussians, camera, antialiased=False):
    """Project with the kernel: records and boxes by index, and the indices of the visible."""
    shapes = rasterize.pack(
        gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, gaussians.colors, 1
    )
    view = projection.camera_numbers(
        camera.world_to_camera.numpy(), camera.K.numpy(), camera.width, camera.height
    )
    N = shapes.size
    records, boxes = np.zeros(N * 16, np.float32), np.zeros(2 * N, np.int64)
    listed, keys = np.zeros(N, np.int32), np.zeros(N, np.uint32)
    tiles = -(-camera.width // 16) * -(-camera.height // 16)
    counts, edges = np.zeros(tiles, np.int32), np.zeros(64, np.float32)
    found = projection.project(
        shapes.planes, shapes.colors, gaussians.colors.shape[1], view, camera.width,
        camera.height, antialiased, records, boxes, listed, keys, counts, edges, 0, N,
    )  # fmt: skip
    return records.reshape(N, 16), boxes.reshape(N, 2), listed[:found], counts


def conics(records):
    """Inverse covariances from the factors that the kernel keeps."""
    p, r, q = (records[:, k] / np.sqrt(0.5 * projection.LOG2_E) for k in (2, 3, 4))
    return np.stack([p * p, p * r, r * r + q * q], -1)


@pytest.mark.parametrize("scene", [ordinary, needles])
def test_projected_centres_and_shapes_are_the_references(scene):
    gaussians, camera = scene()
    records, _, listed, _ = _records(gaussians, camera[0])
    E, K = camera.world_to_camera[0].double(), camera.K[0].double()
    centers, z, covariance = project_gaussians(
        gaussians.to(torch.float64), E, K, camera.width, camera.height
    )
    wanted = torch.linalg.inv(covariance + 0.3 * torch.eye(2).double())
    assert len(listed) > 0.8 * len(gaussians)
    assert np.allclose(records[listed, :2], centers[listed], atol=1e-4)
    assert np.allclose(records[listed, 6], z[listed], rtol=1e-6)
    got, want = conics(records[listed]), wanted.reshape(-1, 4)[listed][:, [0, 1, 3]].numpy()
    assert (np.abs(got - want) <= 5e-4 * np.abs(want).max(-1, keepdims=True)).all()


@pytest.mark.parametrize("scene", [ordinary, needles, narrow])
def test_no_tile_that_a_gaussian_reaches_is_left_out(scene):
    gaussians, camera = scene()
    records, boxes, listed, counts = _records(gaussians, camera[0])
    across, down = -(-camera.width // 16), -(-camera.height // 16)
    y, x = np.mgrid[: camera.height, : camera.width] + 0.5
    exact = total = 0
    seen = np.zeros(down * across, int)
    for i in range(len(gaussians)):
        taken = np.zeros((down, across), bool)
        if i in listed:
            box, bits = boxes[i]
            x0, x1, y0, y1 = (int(box) >> s & 0xFFFF for s in (0, 16, 32, 48))
            if bits == projection.LARGE:
                taken[y0:y1, x0:x1] = True
            for b in range(16):
                if bits != projection.LARGE and bits >> b & 1:
                    taken[y0 + b // 4, x0 + b % 4] = True
            dx, dy = x - records[i, 0], y - records[i, 1]
            A, B, C = conics(records[i : i + 1])[0]
            sigma = 0.5 * (A * dx * dx + C * dy * dy) + B * dx * dy
            reached = gaussians.opacities[i].item() * np.exp(-sigma) >= 1 / 255
            needed = np.zeros((down, across), bool)
            for ty, tx in zip(*np.nonzero(reached)):
                needed[ty // 16, tx // 16] = True
            assert not (needed & ~taken).any(), i
            exact, total = exact + needed.sum(), total + taken.sum()
        seen += taken.ravel()
    assert (seen == counts).all()
    assert total <= 1.25 * exact + 5


def test_depths_are_sorted_stably():
    rng = np.random.default_rng(0)
    for z in (
        rng.uniform(0.01, 5, 4000).astype(np.float32),
        rng.choice(np.float32([0.5, 1.0, 1e9]), 500),
        np.ones(7, np.float32),
        np.zeros(0, np.float32),
    ):
        indices = np.arange(len(z), dtype=np.int32)
        order = binning.sort_by_depth(z.view(np.uint32).copy(), indices)
        assert (order == np.argsort(z, kind="stable")).all()


@numba.njit
def _vector_maths(a, b, out):
    x, y = simd.load(a, 0), simd.load(b, 0)
    simd.store(out, 0, simd.exp2(x))
    simd.store(out, 16, simd.log2(y))
    simd.store(out, 32, simd.sums((x, y, x + y, x * 2.0, x - y)))
    chosen = simd.where((x < 0.0) & ~(y > 0.5), simd.minimum(x, y), simd.fma(x, y, -y))
    simd.store(out, 48, chosen)
    simd.store(out, 64, simd.maximum(simd.floor(x), simd.sqrt(y)))
    simd.store(out, 80, simd.gather(a, 1, 3))
    return simd.to_bits(x < 0.0)


def test_vectors_compute_what_numpy_does():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 4, 64).astype(np.float32), rng.uniform(0.004, 1, 16).astype(np.float32)
    out = np.zeros(96, np.float32)
    bits = _vector_maths(a, b, out)
    x = a[:16]
    assert bits == sum(1 << i for i in range(16) if x[i] < 0)
    assert np.allclose(out[:16], np.exp2(x.astype(np.float64)), rtol=3e-7)
    assert np.allclose(out[16:32], np.log2(b.astype(np.float64)), rtol=0, atol=3e-7)
    sums = [x.sum(), b.sum(), (x + b).sum(), 2 * x.sum(), (x - b).sum()]
    assert np.allclose(out[32:37], sums, atol=1e-5) and (out[37:48] == 0).all()
    wanted = np.where((x < 0) & ~(b > 0.5), np.minimum(x, b), x * b - b)
    assert np.allclose(out[48:64], wanted, atol=1e-6)
    assert np.allclose(out[64:80], np.maximum(np.floor(x), np.sqrt(b)))
    assert (out[80:96] == a[1::3][:16]).all()


@numba.njit
def _transpose(source, target, vectors, rows):
    simd.transpose_bits(source, 0, target, 1, 3)
    simd.store_rows(
        rows, 0, (simd.load(vectors, 0), simd.load(vectors, 16), simd.load(vectors, 32))
    )


def test_bits_and_rows_are_transposed():
    rng = np.random.default_rng(0)
    source = rng.integers(0, 65536, 16).astype(np.uint16)
    target, rows = np.zeros(48, np.uint16), np.ones(256, np.float32)
    vectors = rng.normal(size=48).astype(np.float32)
    _transpose(source, target, vectors, rows)
    for b in range(16):
        assert target[1 + 3 * b] == sum((int(source[i]) >> b & 1) << i for i in range(16))
    assert (rows.reshape(16, 16)[:, :3] == vectors.reshape(3, 16).T).all()
    assert (rows.reshape(16, 16)[:, 3:] == 0).all()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_work_is_shared_without_gaps_and_faults_come_through(count):
    done: list[tuple[int, int]] = []
    spread(lambda start, stop: done.append((start, stop)), 1000, count, 16)
    done.sort()
    assert done[0][0] == 0 and done[-1][1] == 1000
    assert all(a[1] == b[0] and a[1] % 16 == 0 for a, b in zip(done, done[1:]))

    def fail(job: int) -> None:
        if job == 3:
            raise ValueError("job 3")

    with pytest.raises(ValueError, match="job 3"):
        run(fail, 6, count)


def test_the_benchmark_measures_each_backend_at_each_size():
    rows = bench(("cpu", "reference"), ((64, 16), (32, 24)), repeats=2)
    assert [(r["backend"], r["gaussians"], r["width"]) for r in rows] == [
        ("cpu", 64, 16), ("reference", 64, 16), ("cpu", 32, 24), ("reference", 32, 24),
    ]  # fmt: skip
    assert all(r["forward_ms"] > 0 and r["backward_ms"] > 0 and r["peak_mb"] >= 0 for r in rows)


def test_the_head_scene_fills_the_middle_of_the_picture():
    drawn = render(*head_scene(20_000, 128), backend="cpu")
    assert drawn.alpha[60:68, 60:68].min() > 0.95
    assert drawn.alpha[:4].max() == 0
