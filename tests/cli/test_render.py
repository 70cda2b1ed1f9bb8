"""Promises of `fastgha render` and `fastgha export splats`: cameras, styles, files."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.avatar import animate
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import cameras_for, orbit, read_path, spread, write_path
from pipeline.core.errors import FormatError, InputError, LayoutError
from pipeline.core.types import Gaussians
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence, write_sequence
from pipeline.faces.layouts import ARKIT_NAMES, MAKEHUMAN, arkit_to_code, code_to_arkit
from pipeline.io.splats import covariances, ply_bytes, write_splats
from pipeline.model.fastgha import FastGHA
from pipeline.tracking.importers import read_tracking
from tests.conftest import blob_views, plain
from tests.io.splat_files import read_ply, read_spz


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    torch.manual_seed(0)
    net = FastGHA(plain(), "float32").eval().requires_grad_(False)
    return Avatar.create(net, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"})


@pytest.fixture(scope="module")
def folder(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("render")
    avatar.save(folder / "me.avatar")
    write_sequence(folder / "seq.npz", talking(3))
    return folder


def talking(frames: int) -> Sequence:
    weights = np.zeros((frames, 52), np.float32)
    weights[:, ARKIT_NAMES.index("jawOpen")] = np.linspace(0, 0.5, frames)
    return Sequence(arkit_to_code(weights), 25.0)


def run(folder: Path, *words: object) -> str:
    done = CliRunner().invoke(app, [str(w) for w in words])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def render(folder: Path, *words: object) -> str:
    return run(folder, "render", folder / "me.avatar", "--expr", folder / "seq.npz", *words)


def test_an_mp4_names_the_tool_and_asks_for_consent_once(folder: Path, tmp_path: Path):
    said = render(folder, "--size", 32, "--fps", 10, "-o", tmp_path / "a.mp4")
    assert said.count("agreed") == 1
    with av.open(str(tmp_path / "a.mp4")) as film:
        assert (
            "fastgha" in film.metadata["comment"] and "not a recording" in film.metadata["comment"]
        )
        assert film.streams.video[0].average_rate == 10
        assert sum(1 for _ in film.decode(video=0)) == 3


def test_a_webm_is_transparent_around_the_head(folder: Path, tmp_path: Path):
    render(folder, "--size", 64, "--alpha", "-o", tmp_path / "a.webm")
    with av.open(str(tmp_path / "a.webm")) as film:
        assert "fastgha" in film.metadata["COMMENT"]
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        packet = next(film.demux(video=0))
        frame = [*decoder.decode(packet), *decoder.decode(None)][0]
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]
    assert alpha[:4].max() < 8
    assert alpha.max() > 30


def test_transparent_pngs_over_white_are_the_opaque_ones(folder: Path, tmp_path: Path):
    render(folder, "--size", 48, "--alpha", "-o", tmp_path / "clear")
    render(folder, "--size", 48, "-o", tmp_path / "white")
    names = sorted(p.name for p in (tmp_path / "clear").iterdir())
    assert names == [f"frame_{i:05d}.png" for i in range(3)]
    clear = Image.open(tmp_path / "clear" / names[1])
    assert clear.mode == "RGBA" and "fastgha" in clear.info["Software"]
    pixels = np.asarray(clear).astype(float)
    over = pixels[..., :3] * pixels[..., 3:] / 255 + 255 - pixels[..., 3:]
    white = np.asarray(Image.open(tmp_path / "white" / names[1])).astype(float)
    assert np.abs(over - white).max() <= 2
    with pytest.raises(InputError, match="not an empty folder"):
        render(folder, "--size", 48, "-o", tmp_path / "white")


def test_the_background_shows_where_no_head_is(folder: Path, tmp_path: Path):
    render(folder, "--size", 32, "--background", "#00ff00", "-o", tmp_path / "green")
    pixels = np.asarray(Image.open(tmp_path / "green" / "frame_00000.png"))
    assert pixels[0, 0].tolist() == [0, 255, 0]
    with pytest.raises(InputError, match="not a colour"):
        animate.Style("grassy")


def test_mp4_and_alpha_do_not_go_together(folder: Path, tmp_path: Path):
    with pytest.raises(InputError, match="no transparency"):
        render(folder, "--alpha", "-o", tmp_path / "a.mp4")
    with pytest.raises(InputError, match="not the name of a video"):
        render(folder, "-o", tmp_path / "a.gif")


def test_several_avatars_stand_side_by_side(folder: Path, avatar: Avatar, tmp_path: Path):
    me = folder / "me.avatar"
    run(
        folder, "render", me, me, "--expr", folder / "seq.npz", "--size", 32, "-o", tmp_path / "two"
    )
    pixels = np.asarray(Image.open(tmp_path / "two" / "frame_00001.png"))
    assert pixels.shape == (32, 64, 3)
    assert np.array_equal(pixels[:, :32], pixels[:, 32:])


def test_an_orbit_of_90_degrees_sees_both_profiles_and_a_head_in_each():
    x = orbit(101, 64, degrees=90).centers[:, 0]
    assert float(x.max()) > 0.99 and float(x.min()) < -0.99


def test_exaggerated_codes_are_so_many_times_as_strong():
    strong = animate.exaggerate(talking(3), 1.8)
    jaw = code_to_arkit(strong.codes)[:, ARKIT_NAMES.index("jawOpen")]
    torch.testing.assert_close(jaw, torch.tensor([0.0, 0.45, 0.9]), atol=1e-3, rtol=0)
    same = animate.exaggerate(talking(3), 1.0)
    torch.testing.assert_close(same.codes.values, talking(3).codes.values, atol=1e-5, rtol=0)


def test_a_path_file_comes_back_and_passes_its_cameras(folder: Path, tmp_path: Path):
    stops = orbit(9, 64)[[0, 2, 6]]
    write_path(tmp_path / "path.json", stops)
    back = read_path(tmp_path / "path.json")
    torch.testing.assert_close(back.world_to_camera, stops.world_to_camera)
    along = spread(back, 5)
    torch.testing.assert_close(along[[0, 2, 4]].world_to_camera, stops.world_to_camera)
    path = str(tmp_path / "path.json")
    resized = cameras_for(path, folder / "seq.npz", 5, 128, 0)
    assert (resized.width, float(resized.K[0, 0, 0])) == (128, 2 * float(stops.K[0, 0, 0]))
    (tmp_path / "bad.json").write_text('{"width": 3}')
    with pytest.raises(FormatError, match="camera path"):
        cameras_for(str(tmp_path / "bad.json"), folder / "seq.npz", 5, 128, 0)
    with pytest.raises(InputError, match="no cameras of its own"):
        cameras_for("original", folder / "seq.npz", 3, 128, 0)


def test_original_takes_the_cameras_of_the_sequence(tmp_path: Path):
    filmed = orbit(3, 64)
    np.savez(
        tmp_path / "seq.npz",
        codes=talking(3).codes.values.numpy(),
        layout=MAKEHUMAN,
        world_to_camera=filmed.world_to_camera.numpy(),
        K=filmed.K.numpy(),
        size=[64, 64],
    )
    given = cameras_for("original", tmp_path / "seq.npz", 3, 64, 0)
    torch.testing.assert_close(given.world_to_camera, filmed.world_to_camera)


def some_gaussians(n: int = 200) -> Gaussians:
    rng = torch.Generator().manual_seed(0)
    return Gaussians(
        means=0.1 * torch.randn(n, 3, generator=rng),
        quats=torch.nn.functional.normalize(torch.randn(n, 4, generator=rng), dim=1),
        scales=torch.exp(torch.randn(n, 3, generator=rng) - 6),
        opacities=torch.rand(n, generator=rng),
        colors=torch.rand(n, 3, generator=rng),
    )


def test_a_ply_comes_back_as_it_was(tmp_path: Path):
    there = some_gaussians()
    write_splats(tmp_path / "a.ply", there)
    back = read_ply(tmp_path / "a.ply")
    for name, value in vars(there).items():
        torch.testing.assert_close(getattr(back, name), value, atol=2e-6, rtol=1e-4)


def test_a_ply_holds_the_numbers_that_gsplat_writes():
    exporter = pytest.importorskip("gsplat.exporter", reason="gsplat is not installed")
    g = some_gaussians()
    theirs = exporter.splat2ply_bytes(
        g.means, g.scales.log(), g.quats, g.opacities.logit(),
        (g.colors - 0.5) / 0.28209479177387814, torch.zeros(len(g), 0),
    )  # fmt: skip
    head, body = theirs.split(b"end_header\n", 1)
    names = [x.split()[-1].decode() for x in head.splitlines() if x.startswith(b"property")]
    table = np.frombuffer(body, "<f4").reshape(len(g), len(names))
    own_head, own_body = ply_bytes(g).split(b"end_header\n", 1)
    own_names = [x.split()[-1].decode() for x in own_head.splitlines() if x.startswith(b"prop")]
    own = np.frombuffer(own_body, "<f4").reshape(len(g), len(own_names))
    shared = [n for n in own_names if n in names]
    assert len(shared) >= 14
    for name in shared:
        a, b = own[:, own_names.index(name)], table[:, names.index(name)]
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)


def test_an_spz_comes_back_within_its_steps(tmp_path: Path):
    there = some_gaussians()
    write_splats(tmp_path / "a.spz", there)
    back = read_spz(tmp_path / "a.spz")
    torch.testing.assert_close(back.means, there.means, atol=1e-5, rtol=0)
    torch.testing.assert_close(back.opacities, there.opacities, atol=0.5 / 255 + 1e-6, rtol=0)
    torch.testing.assert_close(back.colors, there.colors, atol=0.5 / 255 * 2, rtol=0)
    torch.testing.assert_close(back.scales.log(), there.scales.log(), atol=0.04, rtol=0)
    turned = [Rotation.from_quat(g.quats.numpy(), scalar_first=True) for g in (back, there)]
    assert np.rad2deg((turned[0] * turned[1].inv()).magnitude()).max() < 8
    assert np.rad2deg(np.median((turned[0] * turned[1].inv()).magnitude())) < 1.5


def test_covariances_are_those_of_the_axes():
    g = Gaussians(
        torch.zeros(1, 3), torch.tensor([[0.5**0.5, 0, 0, 0.5**0.5]]),
        torch.tensor([[1.0, 2.0, 3.0]]), torch.ones(1), torch.ones(1, 3),
    )  # fmt: skip
    np.testing.assert_allclose(covariances(g)[0], np.diag([4.0, 1.0, 9.0]), atol=1e-6)


def test_splats_are_written_canonical_or_for_each_frame(
    folder: Path, avatar: Avatar, tmp_path: Path
):
    me, seq = folder / "me.avatar", folder / "seq.npz"
    run(folder, "export", "splats", me, "-o", tmp_path / "c.ply")
    torch.testing.assert_close(read_ply(tmp_path / "c.ply").means, avatar.canonical.means)
    run(folder, "export", "splats", me, "--expr", seq, "-o", tmp_path / "f.spz")
    assert sorted(p.name for p in tmp_path.glob("f_*.spz")) == [f"f_0000{i}.spz" for i in range(3)]
    with pytest.raises(InputError, match="3 frames; 9"):
        run(folder, "export", "splats", me, "--expr", seq, "--frame", 9, "-o", tmp_path / "f.ply")
    with pytest.raises(InputError, match="not the name of a splat file"):
        run(folder, "export", "splats", me, "-o", tmp_path / "c.obj")


def test_a_csv_of_live_link_face_is_read(tmp_path: Path):
    names = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
    path = tmp_path / "take.csv"
    values = ["0.6" if name == "JawOpen" else "0" for name in names]
    head = ",".join(["Timecode", "BlendShapeCount", *names, "HeadYaw"])
    path.write_text(
        "\ufeff" + head + "\n" + ",".join(["00:00:01:00.1", "61", *values, "0.1"]) + "\n"
    )
    found = read_expressions(path, MAKEHUMAN)
    assert found.fps == 60 and len(found) == 1
    assert float(code_to_arkit(found.codes)[0, ARKIT_NAMES.index("jawOpen")]) == pytest.approx(0.6)
    path.write_text("Timecode,JawOpen\n1,0.5\n")
    with pytest.raises(FormatError, match=r"take\.csv is not a CSV of Live Link Face"):
        read_expressions(path, MAKEHUMAN)


def test_flame_tracks_are_read_for_flame_avatars_and_refused_for_others(tmp_path: Path):
    track = tmp_path / "tracked_flame_params_30.npz"
    np.savez(
        track, expr=np.ones((2, 100), np.float32), jaw_pose=np.zeros((2, 3), np.float32),
        eyes_pose=np.zeros((2, 6), np.float32), neck_pose=np.zeros((2, 3), np.float32),
        rotation=np.zeros((2, 3), np.float32), translation=np.zeros((2, 3), np.float32),
        shape=np.zeros(300, np.float32),
    )  # fmt: skip
    layout = read_tracking(track).codes().layout
    found = read_expressions(track, layout)
    assert len(found) == 2 and float(found.codes.values[0, 5]) == 1
    with pytest.raises(LayoutError, match="flame"):
        read_expressions(track, MAKEHUMAN)
