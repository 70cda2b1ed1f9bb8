"""Promises of the command line, through the real program."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.faces.layouts import ARKIT_NAMES, MAKEHUMAN

COMMANDS = {
    "app", "avatar", "bake", "bench all", "bench avatar", "bench compare", "bench model",
    "bench motion", "bench prep", "bench refine", "bench render", "bench track", "bench train",
    "demo", "doctor", "eval", "eval export-targets", "eval submit-nersemble", "export splats",
    "export web", "expressions convert", "flame convert", "prep ava256", "prep check",
    "prep crop", "prep folder", "prep landmarks", "prep matte", "prep nersemble", "prep pack",
    "prep photos", "prep synthetic", "prep track", "prep track-video", "prep video", "prune",
    "render", "train", "vggt-cache", "view", "weights fetch",
}  # fmt: skip


def fastgha(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fastgha_cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def found_commands() -> set[str]:
    from typer.main import get_command

    from fastgha_cli.app import app

    names: set[str] = set()
    for name, command in get_command(app).commands.items():  # pyright: ignore
        inner = getattr(command, "commands", {})
        names |= {f"{name} {sub}" for sub in inner}
        if not inner or name == "eval":
            names.add(name)
    return names


def test_the_set_of_commands_changes_only_on_purpose():
    assert found_commands() == COMMANDS


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself_with_an_example(command: str):
    done = fastgha(*command.split(), "--help")
    assert done.returncode == 0
    assert "Example:  fastgha " + command in re.sub(r"\s+\n", "\n", done.stdout)


def test_help_does_not_import_torch():
    code = (
        "import sys, fastgha_cli.app\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'numpy', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_reference_names_every_command():
    page = (Path(__file__).parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [c for c in COMMANDS if f"## fastgha {c}\n" not in page] == []


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A folder full of things that are not what their names say."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "empty").mkdir()
    (folder / "text.jpg").write_text("not a picture")
    whole = Image.new("RGB", (200, 200), "gray")
    whole.save(folder / "gray.png")
    (folder / "cut.png").write_bytes((folder / "gray.png").read_bytes()[:100])
    (folder / "text.avatar").write_text("not an avatar")
    (folder / "cutshards").mkdir()
    data = (shards / "anna.h5").read_bytes()
    (folder / "cutshards" / "anna.h5").write_bytes(data[: len(data) // 2])
    codes = np.zeros((5, 120), np.float32)
    np.savez(folder / "flame.npz", codes=codes, layout="fastgha120/flame2020/rot6d-rows", fps=25)
    np.savez(folder / "shape.npz", codes=codes[:, :100], layout=MAKEHUMAN, fps=25)
    np.savez(folder / "nan.npz", codes=codes * np.nan, layout=MAKEHUMAN, fps=25)
    np.savez(folder / "other.npz", poses=codes)
    np.savez(folder / "names.npz", weights=np.zeros((5, 52)), names=["x"] * 52, fps=25)
    np.savez(folder / "pickle.npz", codes=np.array([object()], object), layout=MAKEHUMAN)
    np.savez(folder / "good.npz", weights=np.zeros((3, 52)), names=list(ARKIT_NAMES), fps=25)
    data = (folder / "good.npz").read_bytes()
    (folder / "cut.npz").write_bytes(data[: len(data) // 2])
    return folder


@pytest.fixture(scope="module")
def avatar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar of an untrained tiny model."""
    import torch

    from pipeline.avatar.avatar import Avatar
    from pipeline.model.fastgha import FastGHA
    from tests.conftest import blob_views, plain

    torch.manual_seed(0)
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    path = tmp_path_factory.mktemp("avatar") / "blob.avatar"
    Avatar.create(model, blob_views(2, 64), MAKEHUMAN, {"by": "the tests"}).save(path)
    return path


BAD = {
    "no photograph": (["avatar", "{b}/none.jpg", "-o", "{o}"], "none.jpg does not exist"),
    "not a picture": (["avatar", "{b}/text.jpg", "-o", "{o}"], "text.jpg"),
    "a truncated picture": (["avatar", "{b}/cut.png", "-o", "{o}"], "cut.png"),
    "too many photographs": (["avatar", *["{b}/gray.png"] * 7, "-o", "{o}"], "7 photographs"),
    "no avatar": (["render", "{b}/none", "--expr", "{b}/good.npz", "-o", "{o}.mp4"], "none"),
    "not an avatar": (
        ["render", "{b}/text.avatar", "--expr", "{b}/good.npz", "-o", "{o}.mp4"],
        "text.avatar is not a whole safetensors",
    ),
    "a checkpoint for an avatar": (
        ["render", "{checkpoint}", "--expr", "{b}/good.npz", "-o", "{o}.mp4"],
        "is not a fastgha-avatar",
    ),
    "an avatar for a checkpoint": (
        ["eval", "--shards", "{s}", "--model", "{a}"],
        "is not a fastgha-checkpoint",
    ),
    "no sequence": (["render", "{a}", "--expr", "{b}/none.npz", "-o", "{o}.mp4"], "none.npz"),
    "a truncated sequence": (
        ["render", "{a}", "--expr", "{b}/cut.npz", "-o", "{o}.mp4"],
        "cut.npz",
    ),
    "a pickle in a sequence": (
        ["render", "{a}", "--expr", "{b}/pickle.npz", "-o", "{o}.mp4"],
        "pickle.npz is not an npz of plain arrays",
    ),
    "a sequence of another layout": (
        ["render", "{a}", "--expr", "{b}/flame.npz", "-o", "{o}.mp4"],
        "flame2020",
    ),
    "a sequence of another shape": (
        ["render", "{a}", "--expr", "{b}/shape.npz", "-o", "{o}.mp4"],
        "codes is float32",
    ),
    "a sequence with nan": (["render", "{a}", "--expr", "{b}/nan.npz", "-o", "{o}.mp4"], "nan"),
    "a sequence of something else": (
        ["render", "{a}", "--expr", "{b}/other.npz", "-o", "{o}.mp4"],
        "it has: poses",
    ),
    "unknown names of weights": (
        ["render", "{a}", "--expr", "{b}/names.npz", "-o", "{o}.mp4"],
        "not the 52 of ARKit",
    ),
    "a video of another kind": (
        ["render", "{a}", "--expr", "{b}/good.npz", "-o", "{o}.gif"],
        ".gif",
    ),
    "no shards": (["train", "{b}/none", "-o", "{o}"], "There is no folder"),
    "an empty folder": (["train", "{b}/empty", "-o", "{o}"], "There is no shard"),
    "a truncated shard": (["train", "{b}/cutshards", "-o", "{o}"], "anna.h5 is not a whole HDF5"),
    "an unknown preset": (["train", "{s}", "-o", "{o}", "--preset", "smal"], "no preset 'smal'"),
    "an unknown setting": (
        ["train", "{s}", "-o", "{o}", "--set", "loss.dpeth=1"],
        "Did you mean depth",
    ),
    "a device that is not here": (["train", "{s}", "-o", "{o}", "--device", "tpu"], "no device"),
    "a net that is none": (
        ["train", "{s}", "-o", "{o}", "--perceptual", "{b}/gray.png"],
        "does not hold",
    ),
    "no checkpoint": (["eval", "--shards", "{s}", "--model", "{b}/none"], "none does not exist"),
    "no checkpoint in a run": (
        ["eval", "--shards", "{s}", "--model", "{b}/empty"],
        "no checkpoint in",
    ),
    "a truncated checkpoint": (["eval", "--shards", "{s}", "--model", "{b}/text.jpg"], "text.jpg"),
    "an unknown split": (["prep", "synthetic", "{o}", "--split", "val"], "split cannot be 'val'"),
    "unknown weights": (["weights", "fetch", "vgg99"], "vgg99"),
}


def in_process(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int | str | None:
    """Run the program without a new interpreter, which would import torch each time."""
    from fastgha_cli.app import main

    monkeypatch.setattr(sys, "argv", ["fastgha", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_two_lines_and_leaves_nothing(
    case: str,
    broken: Path,
    avatar: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):
    words, message = BAD[case]
    places = {
        "b": broken,
        "a": avatar,
        "s": shards,
        "o": tmp_path / "out",
        "checkpoint": Path(__file__).parents[2] / "pipeline" / "assets" / "small.safetensors",
    }
    monkeypatch.chdir(tmp_path)
    code = in_process([word.format(**places) for word in words], monkeypatch)
    said = capfd.readouterr().err
    assert code in (1, 2), said
    assert message in said.replace("\n", " ")
    assert "try:" in said
    assert list(tmp_path.iterdir()) == []


def test_a_real_process_prints_two_lines_and_ends_with_1(tmp_path: Path):
    done = fastgha("train", tmp_path / "none", "-o", tmp_path / "run")
    assert done.returncode == 1 and done.stdout == ""
    problem, remedy = done.stderr.splitlines()[-2:]
    assert problem.startswith("error: There is no folder") and remedy.startswith("  try: ")


FULL = {
    "shards": ["prep", "synthetic", "{o}/x", "--identities", "1", "--expressions", "2", "--size",
               "64", "--workers", "1"],
    "a checkpoint": ["train", "{s}", "-o", "{o}/x", "--preset", "tiny", "--workers", "0", "--set",
                     "sizes=[32]", "--set", "steps=[1]"],
    "a video": ["render", "{a}", "--expr", "{b}/good.npz", "-o", "{o}/x.mp4", "--size", "256"],
}  # fmt: skip


@pytest.mark.parametrize("case", FULL)
def test_a_full_disk_is_two_lines_and_leaves_nothing_half_written(
    case: str, broken: Path, avatar: Path, shards: Path, tmp_path: Path
):
    # No file may grow beyond this: to the program, a disk that runs full.
    limit = 500 if case == "a video" else 8000
    limited = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "from fastgha_cli.app import main\n"
        "main()"
    )
    words = [w.format(o=tmp_path, s=shards, a=avatar, b=broken) for w in FULL[case]]
    command = [sys.executable, "-c", limited, *words]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "Cannot write" in done.stderr and "try:" in done.stderr
    written = [p.name for p in tmp_path.rglob("*") if p.suffix in (".h5", ".safetensors", ".mp4")]
    assert written == [] and not list(tmp_path.rglob("*.part"))


def test_an_avatar_renders_arkit_weights_to_a_video(avatar: Path, broken: Path, tmp_path: Path):
    out = tmp_path / "x.mp4"
    done = fastgha("render", avatar, "--expr", broken / "good.npz", "-o", out, "--size", 64)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(out)
    import av

    with av.open(str(out)) as video:
        assert sum(1 for _ in video.decode(video=0)) == 3
        assert float(video.streams.video[0].average_rate) == 25


def test_a_figure_that_cannot_be_written_is_an_error(shards: Path, tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = fastgha("doctor", "--json", blocked / "x.json")
    assert done.returncode == 1 and "Cannot write" in done.stderr
