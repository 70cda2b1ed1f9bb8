"""What a user can hand over: a small whole one of each kind, and how it is read and used."""

from __future__ import annotations

import functools
import json
import pickle  # noqa: TID251  the tests write what the program must read
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pipeline.avatar.animate import Style, picture
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import cameras_for, orbit, write_path
from pipeline.captures.capture import Timestep
from pipeline.captures.photos import PhotosCapture
from pipeline.captures.video import VideoCapture
from pipeline.core.errors import FastGHAError
from pipeline.core.types import ExpressionCode
from pipeline.evaluate import protocol as protocols
from pipeline.evaluate import results
from pipeline.evaluate.predictions import export_targets, place, read_predictions
from pipeline.evaluate.run import measure, scene
from pipeline.expressions.read import read_expressions
from pipeline.expressions.sequences import Sequence, write_sequence
from pipeline.faces.flame import convert, load_flame
from pipeline.faces.layouts import ARKIT_NAMES, FLAME2020, FLAME2023, MAKEHUMAN, neutral_code
from pipeline.io.images import read_rgb
from pipeline.io.splats import ply_bytes
from pipeline.io.video import write_mp4
from pipeline.model.baked import Baked
from pipeline.model.checkpoint import load_model, resolve
from pipeline.model.fastgha import FastGHA
from pipeline.perception.lpips import HEADS
from pipeline.perception.pretrained import read_state
from pipeline.prep import check
from pipeline.prep.depth.pointmaps import PrecomputedPoints
from pipeline.prep.depth.run import read_obj_faces
from pipeline.prep.items import Item, item_path, load_item, save_item
from pipeline.prep.plan import Plan, PrepConfig, load_plans, save_plan
from pipeline.prep.run import run_stage
from pipeline.shards.reader import Shard, find_shards
from pipeline.shards.writer import write_shard
from pipeline.system.stage import claim
from pipeline.train import folder
from pipeline.train.checkpoint import restore_optimizer, save
from pipeline.train.config import RunConfig
from pipeline.train.log import LOG, Log
from pipeline.train.optimizer import Optimizer
from pipeline.train.presets import train_tiny
from pipeline.train.step import make_model
from tests.captures import mutations
from tests.conftest import blob_views, dome, plain, still_mesh, toy_capture
from tests.evaluate import toys

SIDE = 32
Use = Callable[[Path], object]


@dataclass(frozen=True)
class Target:
    """A kind of file or folder that users hand over."""

    make: Callable[[Path], object]
    """Writes a whole one into a folder."""
    use: Use
    """Reads it from the folder and uses what it read, as commands do. A copy: it may write."""
    share: int = 1
    """How often it is taken."""


def _finite(values: Any) -> None:
    assert bool(torch.isfinite(torch.as_tensor(values)).all()), "numbers that are not finite"


@functools.cache
def _avatar(guided: bool) -> Avatar:
    torch.manual_seed(0)
    config = train_tiny().model if guided else plain()
    model = FastGHA(config, "float32").eval().requires_grad_(False)
    mesh = still_mesh(2) if guided else None
    made = Avatar.create(model, blob_views(2, 32), MAKEHUMAN, {"by": "the tests"}, mesh)
    return replace(made, head=made.head[torch.arange(0, len(made.canonical), 4)])


def _refined() -> Avatar:
    plain_one = _avatar(False)
    everywhere = torch.arange(len(plain_one.canonical))
    return replace(plain_one, refined_gaussians=plain_one.head.gaussians[everywhere])


def _baked() -> Avatar:
    whole = _avatar(False)
    m = len(whole.canonical) // 2
    net = Baked.fit(torch.randn(9, 120), torch.randn(9, 2), 4, 1e-3)
    net = Baked.of(net, torch.randn(2, m, 6) * 1e-3, torch.zeros(m, 6))
    head = replace(whole.head, features=whole.head.features[:, :0])
    return replace(whole, head=head, deformation=net)


def _use_avatar(root: Path) -> None:
    avatar = Avatar.load(root / "a.avatar")
    moved = avatar.animate(neutral_code(avatar.layout))
    drawn = picture(moved, orbit(1, SIDE)[0], Style())
    assert drawn.shape == (SIDE, SIDE, 3)
    for values in vars(moved).values():
        _finite(values)
    ply_bytes(avatar.canonical)
    avatar.save(root / "again.avatar")


def _make_run(root: Path) -> None:
    shards = root / "shards"
    shards.mkdir()
    write_shard(shards / "anna.h5", toy_capture("anna", 32, 3, 4), {"by": "the tests"})
    config = replace(train_tiny(), model=plain())
    found = folder.find(shards, config)
    run = root / "run"
    run.mkdir()
    folder.claim(run, config, found, None, 1)
    model, optimizer = _model(config, found.layout)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    header = {"layout": found.layout, "train": {}, "step": 3}
    save(run / "step-00000003.safetensors", model, optimizer, header)
    (run / LOG).write_text("".join(f'{{"step": {i}, "color": 0.5}}\n' for i in range(1, 5)))


def _model(config: Any, layout: str) -> tuple[FastGHA, Optimizer]:
    model = make_model(config, RunConfig(), torch.device("cpu"), layout)
    return model, Optimizer(model, config)


def _use_run(root: Path) -> None:
    run = root / "run"
    config = replace(train_tiny(), model=plain())
    known = folder.find(root / "shards", config)
    folder.claim(run, config, known, None, 1)
    path = resolve(run)
    _, found = load_model(path)
    model, optimizer = _model(config, known.layout)
    restore_optimizer(optimizer, model, found, path)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with Log(run, found.header["step"]):
        pass


def _use_checkpoint(root: Path) -> None:
    net, found = load_model(root / "c.safetensors")
    made = Avatar.create(net, blob_views(1, 32), found.header["layout"], {})
    _finite(made.animate(neutral_code(made.layout)).means)


def _make_checkpoint(root: Path) -> None:
    torch.manual_seed(0)
    save(
        root / "c.safetensors", FastGHA(plain(), "float32"), None, {"layout": MAKEHUMAN, "step": 1}
    )


def _make_shards(root: Path, people: tuple[str, ...] = ("anna", "bert")) -> None:
    shards = root / "shards"
    shards.mkdir()
    for name in people:
        write_shard(shards / f"{name}.h5", toy_capture(name, 32, 3, 4), {"by": "the tests"})


def _use_shard(root: Path) -> None:
    for path in find_shards(root / "shards"):
        with Shard(path) as shard:
            shard.header()
            pairs = [(int(t), int(v)) for t, v in np.argwhere(shard.valid)][:3]
            if pairs:
                _finite(shard.read(pairs, shard.width).image)
                _finite(shard.depth(pairs, shard.width))
            for t in range(min(shard.timesteps, 2)):
                shard.landmarks(t), shard.vertices(t), shard.depth_error(t), shard.read_timestep(t)
                if shard.coded[t]:
                    _finite(shard.code(t).values)
            shard.mesh([0])
            shard.verify()


def _use_shards_evaluated(root: Path) -> None:
    chosen = protocols.tasks(toys.TOY, root / "shards", MAKEHUMAN)
    for task in chosen:
        scene(task, toys.TOY)
    check.run(root / "shards")


def _make_sequence(root: Path) -> None:
    codes = ExpressionCode(neutral_code(MAKEHUMAN).values.repeat(4, 1), MAKEHUMAN)
    write_sequence(root / "s.npz", Sequence(codes, 25.0))
    camera = dome(4, SIDE)
    with np.load(root / "s.npz") as file:
        arrays = dict(file)
    arrays |= {"world_to_camera": camera.world_to_camera.numpy(), "K": camera.K.numpy()}
    np.savez(root / "s.npz", **arrays, size=np.array([SIDE, SIDE]))


def _make_weights(root: Path) -> None:
    np.savez(root / "s.npz", weights=np.zeros((4, 52)), names=list(ARKIT_NAMES), fps=25)


def _use_sequence(root: Path) -> None:
    found = read_expressions(root / "s.npz", MAKEHUMAN)
    _finite(found.codes.values)
    assert 0 < found.fps < 1000
    _avatar(False).animate(found.codes[0])
    cameras_for("original", root / "s.npz", len(found), SIDE, 40)


def _make_csv(root: Path) -> None:
    names = ["Timecode", "BlendshapeCount", *(n[0].upper() + n[1:] for n in ARKIT_NAMES)]
    rows = [["00:00:01:00", "52", *["0.1"] * 52] for _ in range(3)]
    (root / "l.csv").write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")


def _expressions(name: str, layout: str) -> Use:
    def use(root: Path) -> None:
        _finite(read_expressions(root / name, layout).codes.values)

    return use


def _make_vhap(root: Path) -> None:
    zeros = np.zeros((3, 3))
    np.savez(
        root / "tracked_flame_params_9.npz", rotation=zeros, neck_pose=zeros, jaw_pose=zeros,
        eyes_pose=np.zeros((3, 6)), translation=zeros, shape=np.zeros(300), expr=np.ones((3, 100)),
    )  # fmt: skip


def _make_frames(root: Path, torch_zip: bool) -> None:
    six = np.array([[1.0, 0, 0, 0, 1, 0]], np.float32)
    K = np.array([[[60.0, 0, 16], [0, 60, 16], [0, 0, 1]]])
    for i in range(2):
        flame = {"exp": np.ones((1, 100), np.float32), "shape": np.ones((1, 300), np.float32),
                 "jaw": six, "eyes": np.tile(six, 2), "eyelids": np.zeros((1, 2))}  # fmt: skip
        opencv = {"R": np.eye(3)[None], "t": np.array([[0, 0, 1.0]]), "K": K}
        one = {"flame": flame, "opencv": opencv, "img_size": np.array([32, 32]), "frame_id": "0"}
        path = root / f"{i:05d}.frame"
        if torch_zip:
            torch.save(one, path)
        else:
            path.write_bytes(pickle.dumps(one))


def _make_gagavatar(root: Path) -> None:
    one = {"shapecode": np.zeros(300), "expcode": np.zeros(100), "posecode": np.zeros(6),
           "eyecode": np.zeros(6)}  # fmt: skip
    (root / "smoothed.pkl").write_bytes(pickle.dumps({"a_1": one, "a_2": dict(one)}))


def _make_flame(root: Path) -> None:
    model = {
        "v_template": np.zeros((9, 3)), "f": np.zeros((4, 3), np.uint32),
        "shapedirs": np.zeros((9, 3, 4)), "posedirs": np.zeros((9, 3, 36)),
        "J_regressor": np.zeros((5, 9)), "weights": np.zeros((9, 5)),
        "kintree_table": np.zeros((2, 5), np.uint32),
    }  # fmt: skip
    (root / "flame.pkl").write_bytes(pickle.dumps(model, 2))
    np.savez(root / "flame.npz", version="2023", faces=np.zeros((4, 3), np.int64))
    np.save(root / "lid.npy", np.zeros((9, 3)))


def _use_flame(root: Path) -> None:
    """Small arrays are never FLAME's: each use ends in an error, which must be ours."""
    for use in (
        lambda: convert(root / "flame.pkl", root / "o.npz", "2023", (root / "lid.npy",) * 2),
        lambda: load_flame(root / "flame.npz"),
    ):
        try:
            use()
        except FastGHAError as error:
            last = error
    raise last


def _use_cameras(root: Path) -> None:
    found = cameras_for(str(root / "p.json"), Path(), 5, SIDE, 40)
    _finite(found.K)
    assert len(found) == 5


def _make_protocol(root: Path) -> None:
    whole = (protocols.FOLDER / "nersemble-one.toml").read_text()
    (root / "p.toml").write_text(whole)


def _use_protocol(root: Path) -> None:
    found = protocols.read(str(root / "p.toml"))
    assert len(found.hash) == 12 and found.nets and 0 < found.inputs < 7
    try:
        protocols.tasks(replace(found, subjects=(), size=32), _toys(), None)
    except FastGHAError:
        return


@functools.cache
def _toys() -> Path:
    import tempfile

    root = Path(tempfile.mkdtemp(prefix="fastgha-fuzz-"))
    _make_shards(root)
    return root / "shards"


@functools.cache
def _chosen() -> list[protocols.Task]:
    return protocols.tasks(toys.TOY, _toys(), MAKEHUMAN)


def _make_result(root: Path) -> None:
    whole = measure(toys.white, "white", toys.TOY, _chosen(), metrics=toys.plain())
    (root / "r.json").write_text(json.dumps(whole.to_json() | {"baselines": []}))


def _use_result(root: Path) -> None:
    from pipeline.evaluate.tables import comparison

    found = results.read(root / "r.json")
    table = comparison([found], toys.TOY, None)
    table.csv(), table.latex()


def _make_kept(root: Path) -> None:
    measure(toys.white, "white", toys.TOY, _chosen(), metrics=toys.plain(), out=root / "k")


def _use_kept(root: Path) -> None:
    found = measure(toys.white, "white", toys.TOY, _chosen(), metrics=toys.plain(), out=root / "k")
    assert set(found.figures) == {"PSNR", "SSIM"}


def _make_predictions(root: Path) -> None:
    export_targets(toys.TOY, _chosen(), root / "out")
    for task in _chosen():
        (root / "drawn" / place(task)).mkdir(parents=True)
        for i in range(len(task.targets)):
            Image.new("RGB", (SIDE, SIDE)).save(root / "drawn" / place(task) / f"{i:05d}.png")


def _use_predictions(root: Path) -> None:
    draw = read_predictions(root / "drawn", toys.TOY, _chosen())
    for task in _chosen():
        drawn = draw(scene(task, toys.TOY)[0])
        assert drawn.shape[1:] == (3, SIDE, SIDE)


def _make_pictures(root: Path) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (24, 18, 3), np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    for name in ("a.jpg", "b.png", "c.webp", "d.tif", "e.gif", "f.bmp", "g.avif"):
        image.save(root / name, **({"exif": exif} if name[2:] in ("jpg", "webp", "tif") else {}))
    image.convert("RGBA").save(root / "h.png")
    image.convert("P").save(root / "i.png")


def _use_pictures(root: Path) -> None:
    last: FastGHAError | None = None
    for path in sorted(root.iterdir()):
        try:
            assert read_rgb(path).shape[2] == 3
        except FastGHAError as error:
            last = error
    capture = PhotosCapture(root)
    for timestep in capture.timesteps:
        try:
            assert capture.view(timestep, "photo").image.dtype == np.uint8
        except FastGHAError as error:
            last = error
    if last:
        raise last


def _make_video(root: Path) -> None:
    frames = [np.full((48, 48, 3), 40 * i, np.uint8) for i in range(6)]
    write_mp4(root / "v.mp4", frames, 30)


def _use_video(root: Path) -> None:
    capture = VideoCapture(root / "v.mp4")
    try:
        for timestep in capture.timesteps[:6]:
            assert capture.view(timestep, "video").image.dtype == np.uint8
    finally:
        capture.close()


def _make_network(root: Path) -> None:
    torch.save({f"lin{i}.model.1.weight": torch.ones(1, 4, 1, 1) for i in range(5)},
               root / "heads.pth")  # fmt: skip


def _use_network(root: Path) -> None:
    from pipeline.perception.pretrained import fill

    state = read_state(root / "heads.pth", HEADS)
    heads = torch.nn.ModuleDict(
        {f"lin{i}": torch.nn.ModuleDict({"model": torch.nn.ModuleList(
            [torch.nn.Identity(), torch.nn.Conv2d(4, 1, 1, bias=False)])}) for i in range(5)}
    )  # fmt: skip
    fill(heads, state, root / "heads.pth", HEADS)


def _make_points(root: Path) -> None:
    (root / "anna").mkdir()
    np.savez(root / "anna" / "000000.npz", points=np.zeros((4, 8, 8, 3), np.float32),
             confidence=np.ones((4, 8, 8), np.float32))  # fmt: skip
    (root / "t.obj").write_text("v 0 0 0\n" * 4 + "f 1 2 3\nf 1/1 2/2 3/3 4/4\n")


def _use_points(root: Path) -> None:
    views = blob_views(2, 32)
    maps = PrecomputedPoints(root)(views, "anna", 0, [0, 2])
    assert maps.points.shape[0] == 2
    assert read_obj_faces(root / "t.obj").shape[1] == 3


def _make_work(root: Path) -> None:
    config = PrepConfig("photos")
    claim(root, config, made="*.h5", overwrite=False)
    steps = (Timestep("photos", 0), Timestep("photos", 1))
    save_plan(root, Plan("anna", "/x", "anna", "as-is", ("photo",), steps, {}, {}))
    for stage in ("landmarks", "track", "crop", "matte"):
        for step in steps:
            one = Item({"K": np.eye(3)}, {"rgb": (b"x", b"")}, {"photo": "no head"}, {})
            save_item(item_path(root, "anna", stage, step.name), one)


def _use_work(root: Path) -> None:
    for plan in load_plans(root).values():
        for stage in ("landmarks", "track", "crop", "matte"):
            for step in plan.timesteps:
                path = item_path(root, plan.capture, stage, step.name)
                if path.exists():
                    load_item(path)
                    load_item(path, pictures=())
    run_stage(root, "landmarks")


def _captures() -> dict[str, Target]:
    @functools.cache
    def whole() -> Path:
        import tempfile

        root = Path(tempfile.mkdtemp(prefix="fastgha-fuzz-"))
        mutations.write_all(root)
        return root

    def one(kind: str, source: str) -> Target:
        def make(root: Path) -> None:
            import shutil

            shutil.copytree(whole() / kind, root, dirs_exist_ok=True)

        return Target(make, lambda root: mutations.read_all(source, root))

    return {f"capture-{k}": one(k, source) for k, source in mutations.SOURCES.items()}


TARGETS: dict[str, Target] = {
    "avatar": Target(lambda r: _avatar(False).save(r / "a.avatar"), _use_avatar, 3),
    "avatar-guided": Target(lambda r: _avatar(True).save(r / "a.avatar"), _use_avatar, 3),
    "avatar-baked": Target(lambda r: _baked().save(r / "a.avatar"), _use_avatar, 3),
    "avatar-refined": Target(lambda r: _refined().save(r / "a.avatar"), _use_avatar, 2),
    "checkpoint": Target(_make_checkpoint, _use_checkpoint, 3),
    "run": Target(_make_run, _use_run, 3),
    "shard": Target(_make_shards, _use_shard, 4),
    "shards-evaluated": Target(lambda r: _make_shards(r, ("anna",)), _use_shards_evaluated),
    "sequence": Target(_make_sequence, _use_sequence, 4),
    "sequence-arkit": Target(_make_weights, _expressions("s.npz", MAKEHUMAN), 4),
    "live-link": Target(_make_csv, _expressions("l.csv", MAKEHUMAN), 4),
    "vhap": Target(_make_vhap, _expressions("", FLAME2023), 4),
    "frames": Target(lambda r: _make_frames(r, False), _expressions("", FLAME2020), 4),
    "frames-torch": Target(lambda r: _make_frames(r, True), _expressions("", FLAME2020), 4),
    "gagavatar": Target(_make_gagavatar, _expressions("", FLAME2020), 4),
    "flame": Target(_make_flame, _use_flame, 4),
    "cameras": Target(lambda r: write_path(r / "p.json", dome(3, SIDE)), _use_cameras, 4),
    "protocol": Target(_make_protocol, _use_protocol, 4),
    "result": Target(_make_result, _use_result, 4),
    "kept-figures": Target(_make_kept, _use_kept),
    "predictions": Target(_make_predictions, _use_predictions),
    "pictures": Target(_make_pictures, _use_pictures, 3),
    "video": Target(_make_video, _use_video),
    "network": Target(_make_network, _use_network, 4),
    "points": Target(_make_points, _use_points),
    "work": Target(_make_work, _use_work, 2),
    **_captures(),
}
