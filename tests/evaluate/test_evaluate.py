"""Protocols, figures and tables."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.core.errors import ConfigError, FormatError, InputError, StaleOutputError
from pipeline.evaluate import figures, results, tables
from pipeline.evaluate.baselines import mean_head, nearest_input, white_image
from pipeline.evaluate.metrics import METRICS, Metrics, prepare, psnr, ssim
from pipeline.evaluate.predictions import export_targets, place, read_predictions
from pipeline.evaluate.protocol import Protocol, names, read, selection_hash, tasks
from pipeline.evaluate.report import Sheet, error_map, page
from pipeline.evaluate.results import Figure, Result, interval
from pipeline.evaluate.run import measure, ours, scene
from pipeline.evaluate.speed import Speed, speed
from pipeline.model.fastgha import FastGHA
from pipeline.shards.reader import Shard
from tests.conftest import LAYOUT, blob_views, plain

TOY = Protocol(
    "toy", "toy", "", (), inputs=2, same_expression=False, avatars=1, targets=6, size=32, seed=0,
    lpips="alex", csim="fr_feature", akd="face_mesh",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTGHA_WEIGHTS", "TORCH_HOME", "UNIFACE_CACHE_DIR", "HOME"):
        monkeypatch.setenv(name, str(tmp_path / "nothing"))


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    return FastGHA(plain(), "float32").eval().requires_grad_(False)


def plain_metrics() -> Metrics:
    return Metrics({"PSNR": "PSNR, dB", "SSIM": "SSIM"}, {}, {}, {"PSNR": psnr, "SSIM": ssim})


def white(seen):
    return white_image(seen.camera)


@pytest.mark.parametrize("name", names())
def test_every_protocol_is_whole_and_of_the_papers_size(name: str):
    protocol = read(name)
    assert protocol.name == name and protocol.note
    if protocol.dataset == "Ava-256":
        assert (len(protocol.subjects), protocol.targets, protocol.size) == (12, 1000, 512)
        assert (protocol.csim, protocol.akd) == ("arcface", "pipnet_98")
    if protocol.dataset == "NeRSemble":
        from pipeline.captures.splits import held_out_nersemble

        assert (len(protocol.subjects), protocol.targets) == (4, 600)
        assert all(held_out_nersemble(subject) for subject in protocol.subjects)


def test_the_papers_figures_are_in_the_protocols():
    assert tables.paper_rows(read("ava256-same"), 1)["FastGHA (both)"].PSNR == 22.5
    assert tables.paper_rows(read("ava256-mixed"), 3)["full"].AKD == 4.996
    assert tables.paper_rows(read("synthetic-mixed"), 5)["features-64"].SSIM == 0.755
    assert tables.paper_rows(read("nersemble-one"), 6)["one, fine-tuned"].CSIM == 0.730


def test_the_hash_is_of_what_decides_and_of_nothing_else():
    assert TOY.hash == replace(TOY, name="other", note="words").hash
    for change in ({"seed": 1}, {"inputs": 3}, {"csim": "arcface"}, {"subjects": ("a",)}):
        assert TOY.hash != replace(TOY, **change).hash
    # Frozen: whoever changes what a published protocol measures must change these lines too.
    assert {name: read(name).hash for name in names()} == {
        "ava256-mixed": "106e0dfa5dca", "ava256-same": "6c36b53bd496",
        "nersemble-one": "df09b5acfc7c", "nersemble-same": "9eeefeb71dc7",
        "synthetic-mixed": "c119aec5d1e5", "synthetic-one": "ca1da8fe644a",
        "synthetic-same": "0fcd315d756a",
    }  # fmt: skip
    assert TOY.hash != replace(TOY, metrics=("PSNR",)).hash


@pytest.mark.parametrize("same", [False, True])
def test_targets_show_neither_a_camera_nor_an_expression_of_the_inputs(shards: Path, same: bool):
    protocol = replace(TOY, same_expression=same, avatars=2, targets=10)
    chosen = tasks(protocol, shards, LAYOUT)
    assert [(t.subject, t.avatar) for t in chosen] == [
        ("anna", 0), ("anna", 1), ("bert", 0), ("bert", 1)
    ]  # fmt: skip
    assert [len(t.targets) for t in chosen] == [3, 3, 2, 2]
    for task in chosen:
        times, views = map(set, zip(*task.inputs))
        assert len(times) == (1 if same else 2) and len(views) == 2
        for t, v in task.targets:
            assert t not in times and v not in views
    assert chosen == tasks(protocol, shards, None)
    other = tasks(replace(protocol, seed=1), shards, None)
    assert selection_hash(chosen) != selection_hash(other)


def test_the_first_input_is_the_most_frontal_camera(shards: Path):
    task = tasks(TOY, shards, None)[0]
    with Shard(task.shard) as shard:
        centers = shard.cameras(task.inputs[0][0]).centers
    ahead = centers[:, 2] / centers.norm(dim=-1)
    assert int(ahead.argmax()) == task.inputs[0][1]


def test_people_that_are_missing_are_all_named(shards: Path):
    with pytest.raises(InputError, match=r"lacks 2 of the 3 people .*carl, dora"):
        tasks(replace(TOY, subjects=("anna", "carl", "dora")), shards, None)
    with pytest.raises(ConfigError, match="has codes of"):
        tasks(TOY, shards, "another layout")
    with pytest.raises(ConfigError, match="pictures of 64 pixels, toy wants 48"):
        tasks(replace(TOY, size=48), shards, None)
    with pytest.raises(InputError, match="needs 5"):
        tasks(replace(TOY, inputs=4), shards, None)
    with pytest.raises(ConfigError, match=r"no protocol ava.*ava256-same"):
        read("ava")


def test_psnr_and_ssim_are_those_of_scikit_image():
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 3, 64, 64)
    b = 0.5 * (a + b)
    for i in range(3):
        x, y = (p[i].permute(1, 2, 0).numpy() for p in (a, b))
        assert psnr(a, b)[i] == pytest.approx(peak_signal_noise_ratio(y, x, data_range=1), abs=1e-4)
        want = structural_similarity(
            x, y, data_range=1, channel_axis=2, gaussian_weights=True, sigma=1.5,
            use_sample_covariance=False, win_size=11,
        )  # fmt: skip
        assert ssim(a, b)[i] == pytest.approx(want, abs=5e-3)


def test_networks_that_are_missing_leave_a_column_with_a_reason():
    metrics = prepare(TOY)
    assert set(metrics.run) == {"PSNR", "SSIM"}
    assert set(metrics.missing) == {"LPIPS", "CSIM", "AKD"}
    assert "alexnet-owt-7be5be79.pth" in metrics.missing["LPIPS"]
    assert metrics.heads["CSIM"] == "CSIM (faceplugin fr_feature)"
    with pytest.raises(ConfigError, match="names a network 'alexx'"):
        prepare(replace(TOY, lpips="alexx"))


def test_the_interval_is_over_people_and_missing_faces_are_counted():
    same = interval([[1.0, 1.0], [1.0, 1.0]], 0)
    assert (same.mean, same.low, same.high, same.count) == (1, 1, 1, 4)
    # Two people who differ: drawn again, both may be the one or the other.
    wide = interval([[0.0] * 100, [1.0] * 100], 0)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    lost = interval([[2.0, float("nan")], [4.0]], 0)
    assert (lost.mean, lost.count, lost.failed) == (3.0, 2, 1)
    nobody = interval([[float("nan")]], 0)
    assert nobody.count == 0 and nobody.failed == 1 and np.isnan(nobody.mean)


def test_a_perfect_method_is_perfect_and_a_stopped_evaluation_goes_on(shards: Path, tmp_path: Path):
    chosen = tasks(TOY, shards, None)
    calls: list[str] = []

    def truth(seen):
        calls.append(seen.task.subject)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return scene(seen.task, TOY)[1]

    with pytest.raises(KeyboardInterrupt):
        measure(truth, "truth", TOY, chosen, out=tmp_path, metrics=plain_metrics())
    found = measure(truth, "truth", TOY, chosen, out=tmp_path, metrics=plain_metrics())
    assert calls == ["anna", "bert", "bert"]
    assert found.figures["SSIM"].mean == pytest.approx(1, abs=1e-3)
    assert found.figures["PSNR"].mean > 60 and found.figures["PSNR"].count == 6
    with pytest.raises(StaleOutputError, match="another method"):
        measure(white, "white", TOY, chosen, out=tmp_path, metrics=plain_metrics())


def test_a_model_is_measured_and_noise_on_its_cameras_changes_it(shards: Path, model: FastGHA):
    chosen = tasks(TOY, shards, None)
    found = [
        measure(ours(model, noise), "m", TOY, chosen, metrics=plain_metrics()).figures["PSNR"].mean
        for noise in ((0.0, 0.0), (0.0, 0.0), (8.0, 0.0), (0.0, 80.0))
    ]
    assert found[0] == found[1] and len(set(found)) == 3


def test_baselines(shards: Path):
    chosen = tasks(TOY, shards, None)
    seen, _ = scene(chosen[0], TOY)
    drawn = nearest_input(seen.inputs, seen.camera)
    for i, center in enumerate(seen.camera.centers):
        cosines = torch.nn.functional.cosine_similarity(
            center[None], seen.inputs.camera.centers, dim=1
        )
        assert torch.equal(drawn[i], seen.inputs.image[int(cosines.argmax())])
    with Shard(shards / "anna.h5") as anna, Shard(shards / "bert.h5") as bert:
        one = mean_head(seen.camera, [bert])
        assert torch.equal(one, mean_head(seen.camera, [bert, bert]))
        assert not torch.equal(one, mean_head(seen.camera, [anna]))
    assert one.shape == drawn.shape and float(white_image(seen.camera).min()) == 1


def test_other_methods_get_what_they_need_and_are_measured_alike(shards: Path, tmp_path: Path):
    chosen = tasks(TOY, shards, None)
    listing = json.loads(export_targets(TOY, chosen, tmp_path / "t").read_text())
    assert listing["protocol_hash"] == TOY.hash and len(listing["avatars"]) == 2
    first = listing["avatars"][0]
    seen, truth = scene(chosen[0], TOY)
    assert np.allclose(first["targets"][1]["K"], seen.camera.K[1])
    assert len(first["inputs"][0]["code"]) == 120 and first["layout"] == LAYOUT
    with Image.open(tmp_path / "t" / first["inputs"][0]["picture"]) as picture:
        assert picture.size == (32, 32)
    for task in chosen:
        for i, image in enumerate(scene(task, TOY)[1]):
            path = tmp_path / "drawn" / place(task) / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            Image.fromarray(pixels).save(path)
    method = read_predictions(tmp_path / "drawn", TOY, chosen)
    assert measure(method, "theirs", TOY, chosen, metrics=plain_metrics()).figures["PSNR"].mean > 50
    Image.new("RGB", (16, 32)).save(path)
    with pytest.raises(InputError, match=rf"{path.name} \(16x32\)"):
        read_predictions(tmp_path / "drawn", TOY, chosen)
    path.unlink()
    with pytest.raises(InputError, match="lacks 1 of 6 pictures"):
        read_predictions(tmp_path / "drawn", TOY, chosen)
    assert truth.shape[0] == 3


def result(method: str, psnr_mean: float, **changes: object) -> Result:
    values = {"PSNR": Figure(psnr_mean, psnr_mean - 1, psnr_mean + 1, 6, 0)}
    made = Result(
        method, "toy", TOY.hash, "s", "", 2, values, {"PSNR": "PSNR, dB", "LPIPS": "LPIPS (x)"},
        {"LPIPS": "no file"}, {"net": "1"}, {},
    )  # fmt: skip
    return replace(made, **changes)


def test_results_of_other_pictures_or_networks_never_share_a_table(tmp_path: Path):
    for change in ({"protocol_hash": "x"}, {"selection": "x"}, {"nets": {"net": "2"}}):
        with pytest.raises(ConfigError):
            tables.comparison([result("a", 20), result("b", 21, **change)], TOY, None)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result("a", 20).to_json()))
    assert results.read(path) == result("a", 20)
    path.write_text("{}")
    with pytest.raises(FormatError, match=r"r\.json is not a result"):
        results.read(path)


def test_a_table_has_measured_and_paper_columns_and_prints_everywhere():
    protocol = read("synthetic-mixed")
    mine = [result("full", 20), result("full", 22), result("no-geo", 20.5)]
    table = tables.comparison(mine, protocol, 3)
    rows = {row[0]: row for row in table.rows}
    assert rows["full"][1] == "21.00 ±1.00" and rows["full"][2] == "-"
    assert "PSNR (paper)" in table.columns and rows["sapiens"][1] == ""
    assert rows["no-geo"][table.columns.index("PSNR (paper)")] == "21.132"
    assert any("no file" in note for note in table.notes)
    assert table.csv().splitlines()[0].startswith(',"PSNR, dB"')
    assert r"\begin{tabular}" in table.latex() and "no-geo & 20.50" in table.latex()
    measured, paper = table.parts()
    assert len(measured.rows) == 2 and len(paper.rows) == 5


def test_orderings_tell_whether_the_papers_direction_came_out():
    mine = [result("full", 20), result("full", 22), result("no-geo", 19), result("no-geo", 22.5)]
    row = tables.orderings(mine, 3).rows[0]
    assert row[0] == "no-geo" and row[1] == "yes (1/2)"
    assert len(row) == 1 + len(METRICS) and row[3] == "-"


def test_speed_is_measured_for_each_number_of_inputs(model: FastGHA):
    rows = speed(model, blob_views(3, 64), LAYOUT, inputs=(2, 3), repeats=2, frames=2)
    assert [row.inputs for row in rows] == [2, 3]
    assert all(row.reconstruct_s > 0 and row.animate_fps > 0 for row in rows)
    table = tables.speeds([Speed(2, 0.5, (0.4, 0.6), 30.0, (29, 31), 1000)], "this")
    assert table.rows[0] == ("2", "0.50 [0.40, 0.60]", "30.0 [29.0, 31.0]", "1,000", "0.68", "128")


def test_a_figure_is_drawn_with_its_numbers(shards: Path, model: FastGHA, tmp_path: Path):
    curves = figures.against_noise(model, TOY, shards, LAYOUT, "")
    assert [len(curve.results) for curve in curves] == [5, 5]
    numbers = figures.table(14, curves)
    assert len(numbers.rows) == 10 and numbers.columns[2:5] == ("PSNR", "PSNR low", "PSNR high")
    figures.plot(14, curves, tmp_path / "f.png")
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width > 300


def test_the_sheet_shows_inputs_head_drawing_error_and_truth(
    shards: Path, model: FastGHA, tmp_path: Path
):
    chosen, sheet = tasks(TOY, shards, None), Sheet()
    for name in ("one", "two"):
        measure(
            ours(model), name, TOY, chosen, metrics=plain_metrics(),
            show=lambda *a, name=name: sheet.show(name, model, *a),
        )  # fmt: skip
    sheet.write(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.size == (8 * 32, 2 * 32)
    assert sheet.legend == "inputs, canonical head, one and its error, two and its error, truth"
    page(
        tmp_path / "r.html", "T & U", [tables.orderings([], 3)], [("A picture", tmp_path / "s.png")]
    )
    text = (tmp_path / "r.html").read_text()
    assert "T &amp; U" in text and "data:image/png;base64," in text and "http" not in text


def test_error_maps_are_dark_where_right_and_bright_where_wrong():
    truth = torch.zeros(1, 3, 2, 2)
    drawn = truth.clone()
    drawn[..., 1] = 0.3
    found = error_map(drawn, truth)
    assert float(found[..., 0].max()) < 0.05 and float(found[..., 1].mean()) > 0.6


def cli(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgha_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_table_of_variants_is_trained_and_measured(shards: Path, tmp_path: Path, monkeypatch):
    from pipeline.train import variants
    from pipeline.train.config import RunConfig

    short = variants.Scale("tiny", (32,), (2,), 2)
    monkeypatch.setitem(variants.SCALES, "tiny", short)
    said: list[str] = []
    for table in (5, 6):
        variants.train_table(
            table, shards, tmp_path / "runs", "tiny", 1, RunConfig(workers=0), announce=said.append
        )
    assert [s for s in said if "left out" in s] and said.count("full, seed 0") == 2
    few = ["--shards", shards, "--runs", tmp_path / "runs", "--size", 32, "--inputs", 2]
    few += ["--targets", 6]
    done = cli("eval", "--table", 5, *few, "-o", tmp_path / "out", "--json", tmp_path / "x.json")
    assert done.returncode == 0, done.stderr
    assert "features-64" in done.stdout and "not measured: no-dino" in done.stderr
    found = json.loads((tmp_path / "x.json").read_text())
    assert [row["method"] for row in found["results"]] == ["full", "features-16", "features-64"]
    assert {"table.csv", "table.tex", "report.html", "sheet.png"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    pair = cli("eval", "--figure", 11, *few)
    assert pair.returncode == 0 and "not measured: no-colour-offsets" in pair.stderr
    nothing = cli("eval", "--table", 3, "--shards", shards, "--runs", tmp_path)
    assert nothing.returncode == 1 and "fastgha train SHARDS" in nothing.stderr
    unclear = cli("eval", "--table", 4, "--shards", shards)
    assert unclear.returncode == 1 and "no table 4" in unclear.stderr


def test_a_face_is_turned_onto_arcfaces_points():
    from pipeline.perception.identity import ARCFACE_POINTS, EYES, MOUTH, NOSE, aligned
    from pipeline.perception.landmarks import Face

    angle, scale = 0.4, 1.7
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    five = ARCFACE_POINTS @ turn.T + [70, 10]
    landmarks = np.zeros((68, 2))
    for eye, point in zip(EYES, five[:2]):
        landmarks[list(eye)] = point
    for i, point in zip((NOSE, *MOUTH), five[2:]):
        landmarks[i] = point
    y, x = np.mgrid[:320, :320] + 0.5
    picture = np.zeros((320, 320, 3), np.uint8)
    for point in five:
        picture[np.hypot(x - point[0], y - point[1]) < 4] = 255
    found = aligned(picture, Face((0, 0, 1, 1), landmarks, 1.0))[..., 0].astype(float)
    assert found.shape == (112, 112)
    y, x = np.mgrid[:112, :112] + 0.5
    for point in ARCFACE_POINTS:
        near = found * (np.hypot(x - point[0], y - point[1]) < 6)
        centre = np.array([(near * x).sum(), (near * y).sum()]) / near.sum()
        assert np.abs(centre - point).max() < 0.3


def test_likeness_and_keypoints_of_real_networks_where_they_are(monkeypatch):
    from pipeline.core.errors import MissingPackageError, MissingWeightsError
    from pipeline.evaluate.metrics import METRICS
    from pipeline.system import weights

    monkeypatch.undo()  # the real places of weights
    try:
        csim, akd = METRICS["CSIM"].make("fr_feature"), METRICS["AKD"].make("face_mesh")
    except (MissingWeightsError, MissingPackageError) as error:
        pytest.skip(str(error))
    from skimage.data import astronaut

    rgb = torch.from_numpy(astronaut()[:256, 100:356].copy()).permute(2, 0, 1)[None] / 255
    moved = torch.roll(rgb, 4, dims=3)
    assert float(csim(rgb, rgb)) == pytest.approx(1, abs=1e-4) and float(akd(rgb, rgb)) == 0
    assert float(akd(moved, rgb)) == pytest.approx(4, abs=1)
    assert float(csim(moved, rgb)) > 0.9
    assert torch.isnan(csim(torch.ones_like(rgb), rgb)).all()
    assert weights.find("fr_feature").is_file()


def test_a_submission_has_the_benchmarks_names_and_is_whole(tmp_path: Path, monkeypatch):
    import zipfile

    import av

    from pipeline.evaluate import nersemble_benchmark as benchmark

    assert len(benchmark.members()) == 80
    monkeypatch.setattr(benchmark, "PEOPLE", (393,))
    monkeypatch.setattr(benchmark, "SEQUENCES", ("FREE",))
    drawn, out = tmp_path / "drawn", tmp_path / "s.zip"
    with pytest.raises(InputError, match=r"lacks 4 of 4 videos: 393/FREE/cam_222200037"):
        benchmark.write_submission(drawn, out)
    for name in benchmark.members():
        for i in range(3):
            path = drawn / name / f"{i:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (512, 512), (80 * i, 10, 10)).save(path)
    benchmark.write_submission(drawn, out)
    with zipfile.ZipFile(out) as file:
        assert sorted(file.namelist()) == sorted(f"{n}.mp4" for n in benchmark.members())
        with file.open("393/FREE/cam_222200037.mp4") as video, av.open(video) as found:
            stream = found.streams.video[0]
            assert (stream.width, stream.height) == (512, 512)
            assert float(stream.average_rate) == pytest.approx(24.3, abs=0.01)
            assert sum(1 for _ in found.decode(video=0)) == 3
    out.unlink()
    Image.new("RGB", (512, 500)).save(path)
    with pytest.raises(InputError, match="512x500"):
        benchmark.write_submission(drawn, out)
    assert not out.exists()
