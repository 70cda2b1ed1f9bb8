from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.avatar import create
from pipeline.core.errors import InputError, MissingPackageError, MissingWeightsError, ShapeError
from pipeline.core.geometry import look_at, project
from pipeline.core.types import Camera
from pipeline.faces.layouts import FLAME2020
from pipeline.faces.makehuman import load_asset, mean_landmarks
from pipeline.model.fastgha import FastGHA
from pipeline.perception.landmarks import Face
from pipeline.perception.points import PointsSeen
from pipeline.prep import photos
from pipeline.prep.stages.crop import Box, cropped, square_at_head
from pipeline.tracking.tracker import HeadTracker
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT, plain

HEAD = mean_landmarks().astype(float)
WHOLE = photos.CropConfig(neck=(5.0, 6.0), shoulders=(5.0, 6.0))
"""Leave the body on."""


def camera(yaw: float = 0.0, width: int = 640, height: int = 700) -> Camera:
    center = torch.tensor([np.sin(yaw), 0.1, np.cos(yaw)]).float()
    f = 1.8 * max(width, height)
    K = torch.tensor([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1]]).float()
    return Camera(look_at(center, torch.zeros(3)), K, width, height)


def seen_by(camera: Camera, points: np.ndarray = HEAD) -> np.ndarray:
    return project(camera, torch.tensor(points).float())[0].double().numpy()


def face(pixels: np.ndarray, score: float = 1.0) -> Face:
    left, top, right, bottom = *pixels.min(0).tolist(), *pixels.max(0).tolist()
    return Face((left, top, right, bottom), pixels, score)


def everything(rgb: np.ndarray) -> np.ndarray:
    return np.ones(rgb.shape[:2], np.float32)


def save(folder: Path, rgb: np.ndarray, name: str = "photo.png", **options: object) -> Path:
    Image.fromarray(rgb).save(folder / name, **options)
    return folder / name


def blob(camera: Camera, point: tuple[float, float, float]) -> np.ndarray:
    """A black picture with a white spot where a point of the head is seen."""
    x, y = seen_by(camera, np.array([point]))[0]
    v, u = np.mgrid[: camera.height, : camera.width] + 0.5
    spot = np.exp(-((u - x) ** 2 + (v - y) ** 2) / (2 * 6**2))
    return np.repeat((255 * spot).round().astype(np.uint8)[..., None], 3, axis=2)


def spot(view: torch.Tensor) -> np.ndarray:
    w = view[0].double().numpy()
    v, u = np.mgrid[: w.shape[0], : w.shape[1]] + 0.5
    return np.array([(w * u).sum(), (w * v).sum()]) / w.sum()


def grey(camera: Camera) -> np.ndarray:
    return np.full((camera.height, camera.width, 3), 90, np.uint8)


class Marks:
    """Sees the landmarks where the detector has them, and no other points."""

    vertices = load_asset().landmarks.astype(np.int64)

    def __call__(self, rgb: np.ndarray, face: Face) -> PointsSeen:
        return PointsSeen(face.landmarks, np.ones(68), np.zeros(107), np.full(107, 0.3))


def run(paths: list[Path], faces: list[Face], **options: object) -> photos.Photos:
    tracker = HeadTracker(Marks())  # pyright: ignore[reportArgumentType]
    return photos.estimate_views(
        paths,
        128,
        **{"matting": everything, "detector": lambda rgb: faces, "tracker": tracker, **options},
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_point_is_seen_at_the_same_place_before_and_after_the_crop(seed: int):
    rng = np.random.default_rng(seed)
    whole = camera(rng.uniform(-0.8, 0.8), *rng.integers(300, 2000, 2).tolist()).to(torch.float64)
    corner, side = rng.uniform(-200, 200, 2), rng.uniform(100, 900)
    part = cropped(whole, Box(*corner.tolist(), side), 256)
    points = torch.tensor(rng.uniform(-0.1, 0.1, (20, 3)))
    before, after = project(whole, points)[0].numpy(), project(part, points)[0].numpy()
    np.testing.assert_allclose((before - corner) * 256 / side, after, atol=1e-3)


@pytest.mark.parametrize("point", [(0.0, 0.02, 0.1), (0.06, 0.06, 0.03), (-0.05, -0.04, 0.07)])
def test_the_pixels_of_the_crop_are_where_its_camera_says(
    tmp_path: Path, point: tuple[float, float, float]
):
    truth = camera(0.2)
    found = run([save(tmp_path, blob(truth, point))], [face(seen_by(truth))], config=WHOLE)
    drawn = seen_by(found.view.camera[0], np.array([point]))[0]
    assert np.abs(spot(found.view.image[0]) - drawn).max() < 0.5


def test_landmarks_move_with_the_crop(tmp_path: Path):
    truth = camera(-0.3)
    pixels = seen_by(truth)
    rgb = blob(truth, tuple(HEAD[30]))
    found = run([save(tmp_path, rgb)], [face(pixels)], config=WHOLE)
    assert np.abs(found.landmarks[0, 30] - spot(found.view.image[0])).max() < 0.1


def test_the_crop_shows_forty_centimetres_of_the_head(tmp_path: Path):
    found = run([save(tmp_path, grey(camera()))], [face(seen_by(camera()))])
    c = found.view.camera[0]
    depth = float(project(c, torch.zeros(1, 3))[1])
    assert 128 / float(c.K[0, 0]) * depth == pytest.approx(0.40, abs=1e-3)


def test_a_photograph_on_its_side_is_set_upright_by_its_exif_tag(tmp_path: Path):
    truth = camera(0.2)
    upright = np.repeat(np.linspace(0, 255, 700).astype(np.uint8)[:, None, None], 640, 1)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    path = save(
        tmp_path, np.rot90(np.repeat(upright, 3, 2)).copy(), "side.jpg", exif=exif, quality=95
    )
    shapes: list[tuple[int, ...]] = []

    def detector(rgb: np.ndarray) -> list[Face]:
        shapes.append(rgb.shape)
        assert rgb[-1].mean() > 240 and rgb[0].mean() < 15
        return [face(seen_by(truth))]

    run([path], [], detector=detector)
    assert shapes == [(700, 640, 3)]


def test_a_focal_length_in_the_exif_data_is_believed(tmp_path: Path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA405] = 26
    f = float(np.hypot(600, 800)) * 26 / 43.27
    K = torch.tensor([[f, 0, 300], [0, f, 400], [0, 0, 1]])
    phone = Camera(look_at(torch.tensor([0.05, 0.0, 0.4]), torch.zeros(3)), K, 600, 800)
    faces = [face(seen_by(phone))]
    told = run([save(tmp_path, grey(phone), "told.jpg", exif=exif)], faces)
    untold = run([save(tmp_path, grey(phone), "untold.jpg")], faces)
    assert float(told.view.camera.centers[0].norm()) == pytest.approx(0.4, rel=0.05)
    assert float(untold.view.camera.centers[0].norm()) > 0.46
    cut = run([save(tmp_path, grey(phone)[:700], "cut.jpg", exif=exif)], faces)
    assert float(cut.view.camera.centers[0].norm()) > 0.46


def test_outside_of_the_photograph_the_view_is_white_and_empty(tmp_path: Path):
    truth = camera(width=260, height=700)  # so narrow that the crop is wider
    view = run([save(tmp_path, grey(truth))], [face(seen_by(truth))]).view
    assert view.alpha[0, 0, 64, 64] == 1 and view.image[0, :, 64, 64].max() < 0.4
    assert view.alpha[0, 0, :, 1].max() == 0 and view.image[0, :, :, 1].min() == 1
    assert view.alpha[0, 0, :, -2].max() == 0 and view.image[0, :, :, -2].min() == 1


def test_the_background_becomes_white(tmp_path: Path):
    truth = camera()
    x, y = seen_by(truth).mean(0)
    v, u = np.mgrid[:700, :640] + 0.5
    rgb = grey(truth)
    rgb[(u - x) ** 2 + (v - y) ** 2 > 120**2] = 200

    def dark(rgb: np.ndarray) -> np.ndarray:
        return (rgb[..., 0] < 150).astype(np.float32)

    view = run([save(tmp_path, rgb)], [face(seen_by(truth))], matting=dark).view
    assert view.image[0, :, 4, 4].min() == 1 and view.alpha[0, 0, 4, 4] == 0
    assert view.image[0, 0, 64, 64] == pytest.approx(90 / 255, abs=0.01)
    composite = 90 / 255 * view.alpha + (1 - view.alpha)
    torch.testing.assert_close(view.image, composite.expand_as(view.image), atol=0.02, rtol=0)


def test_people_in_the_background_are_left_out(tmp_path: Path):
    truth = camera()

    def two(rgb: np.ndarray) -> np.ndarray:
        alpha = np.ones(rgb.shape[:2], np.float32)
        alpha[:, 40:44] = 0  # a gap between a neighbour at the left and the rest
        return alpha

    narrow = camera(width=300, height=700)
    view = run([save(tmp_path, grey(narrow))], [face(seen_by(truth) - [170, 0])], matting=two).view
    box = square_at_head(narrow, 0.40)
    corner, side = np.array([box.left, box.top]), box.side
    column = int((20 - corner[0]) * 128 / side)
    assert view.alpha[0, 0, 40, 64] == 1
    assert view.alpha[0, 0, :, column].max() == 0


def test_the_body_below_the_neck_fades_out(tmp_path: Path):
    short = photos.CropConfig(neck=(0.03, 0.06))
    found = run([save(tmp_path, grey(camera()))], [face(seen_by(camera()))], config=short)
    chin = found.tracked.landmarks[8]
    below = [chin + [0, dy, -0.07] for dy in (-0.02, -0.07)]
    (x, y0), (_, y1) = seen_by(found.view.camera[0], np.array(below)).round().astype(int)
    assert found.view.alpha[0, 0, y0, x] == 1
    assert found.view.alpha[0, 0, y1, x] == 0


def test_several_photographs_come_stacked_in_their_order(tmp_path: Path):
    cameras = [camera(-0.5), camera(0.1), camera(0.6)]
    paths = [save(tmp_path, grey(c) + 30 * i, f"{i}.png") for i, c in enumerate(cameras)]
    by_shade = {90 + 30 * i: face(seen_by(c)) for i, c in enumerate(cameras)}
    ticks: list[tuple[int, int]] = []
    found = run(
        paths,
        [],
        detector=lambda rgb: [by_shade[int(rgb[0, 0, 0])]],
        progress=lambda done, total: ticks.append((done, total)),
    )
    assert found.view.image.shape == (3, 3, 128, 128) and found.names == ("0.png", "1.png", "2.png")
    yaw = torch.atan2(found.view.camera.centers[:, 0], found.view.camera.centers[:, 2])
    assert np.abs(yaw.numpy() - [-0.5, 0.1, 0.6]).max() < 0.05
    assert ticks[-1] == (6, 6)
    assert photos.sheet(found).size == (3 * 384, 3 * 384)


def test_the_largest_face_near_the_middle_is_taken(tmp_path: Path):
    truth = camera()
    here = face(seen_by(truth))
    small = face(seen_by(truth) * 0.3)
    corner = face(seen_by(truth) * 1.1 + [200, 250])
    found = run([save(tmp_path, grey(truth))], [small, corner, here])
    scale = square_at_head(truth, 0.40).side / 128
    assert np.ptp(found.landmarks[0], axis=0)[1] * scale == pytest.approx(
        np.ptp(here.landmarks, axis=0)[1], rel=0.05
    )


def test_no_photograph_is_an_error():
    with pytest.raises(InputError, match="There is no photograph"):
        run([], [])


def test_a_missing_photograph_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"gone\.jpg does not exist"):
        run([tmp_path / "gone.jpg"], [])


def test_a_text_file_is_no_photograph(tmp_path: Path):
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(InputError, match=r"notes\.jpg is not a whole picture"):
        run([tmp_path / "notes.jpg"], [])


def test_a_heic_picture_is_refused_with_the_way_out(tmp_path: Path):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(InputError, match=r"IMG_1\.HEIC is a HEIC picture.*JPEG"):
        run([tmp_path / "IMG_1.HEIC"], [])


def test_a_photograph_without_a_face_is_named(tmp_path: Path):
    with pytest.raises(InputError, match=r"No face was found in .*wall\.png"):
        run([save(tmp_path, grey(camera()), "wall.png")], [])


def test_a_tiny_face_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match=r"The face in .*far\.png is only 40 pixels large"):
        tiny = face(seen_by(camera()) * 0.22)
        run([save(tmp_path, grey(camera()), "far.png")], [tiny])


def test_a_matte_of_another_size_is_refused(tmp_path: Path):
    with pytest.raises(ShapeError, match="The matte is"):
        run(
            [save(tmp_path, grey(camera()))],
            [face(seen_by(camera()))],
            matting=lambda rgb: np.ones((5, 5), np.float32),
        )


def test_an_astronaut_is_cut_out_and_looks_at_the_camera(tmp_path: Path):
    data = pytest.importorskip("skimage.data")
    try:
        from pipeline.perception.landmarks import MeshDetector
        from pipeline.perception.matting import ModNet

        networks = {"detector": MeshDetector(), "matting": ModNet(), "tracker": HeadTracker()}
    except (MissingPackageError, MissingWeightsError) as missing:
        pytest.skip(missing.problem)
    found = run([save(tmp_path, data.astronaut())], [], **networks)
    center = found.view.camera.centers[0]
    assert abs(float(torch.atan2(center[0], center[2]))) < 0.15
    assert found.errors[0] < 0.03
    alpha = found.view.alpha[0, 0]
    assert alpha[50:80, 55:75].min() > 0.95 and alpha[:5].max() < 0.05


def test_a_transparent_photograph_is_cut_out_by_its_own_matte(tmp_path: Path):
    truth = camera()
    x, y = seen_by(truth).mean(0)
    v, u = np.mgrid[:700, :640] + 0.5
    cover = np.where((u - x) ** 2 + (v - y) ** 2 < 100**2, 255, 0).astype(np.uint8)
    path = save(tmp_path, np.dstack([grey(truth), cover]))
    view = run([path], [face(seen_by(truth))]).view
    assert view.alpha[0, 0, 64, 64] == 1 and view.image[0, 0, 64, 64] == pytest.approx(90 / 255)
    assert 0.05 < view.alpha.mean() < 0.25 and view.image[0, :, 4, 4].min() == 1


def test_an_avatar_of_a_guided_model_takes_the_mesh_that_was_tracked(tmp_path: Path):
    truth = camera()
    found = run([save(tmp_path, grey(truth))], [face(seen_by(truth))])
    torch.manual_seed(0)
    net = FastGHA(tiny(), "float32").eval().requires_grad_(False)
    made = create.reconstruct(net, found, LAYOUT, {"pictures": 1})
    assert made.head.rig is not None and made.image_size == 128
    torch.testing.assert_close(
        made.head.rig.neutral, torch.from_numpy(found.tracked.mesh.neutral), rtol=0, atol=0
    )
    with pytest.raises(InputError, match="tracked with the MakeHuman head"):
        create.reconstruct(net, found, FLAME2020)
    bare = FastGHA(plain(), "float32").eval().requires_grad_(False)
    assert create.reconstruct(bare, found, FLAME2020).head.rig is None
