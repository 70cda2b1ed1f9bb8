"""A newcomer's walk through each guide: its blocks run, in their order, in one folder.

A shell block runs unless the comment before it says `not run: ...`. `tested with: `a` -> `b`; ...`
makes it small enough for a test. Data sets are drawn, as their owners lay them out; models are tiny
and untrained.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from fastgha_cli.app import app
from pipeline.avatar import create
from pipeline.avatar.avatar import Avatar
from pipeline.avatar.camera_path import write_path
from pipeline.avatar.fit import FitConfig
from pipeline.avatar.video import Footage
from pipeline.bench.record import Figure, new_record
from pipeline.captures.splits import held_out_ava256, held_out_nersemble
from pipeline.core.errors import MissingWeightsError
from pipeline.core.types import Camera
from pipeline.expressions.sequences import Sequence, read_sequence, write_sequence
from pipeline.model.fastgha import FastGHA
from pipeline.prep.synthetic import SyntheticConfig, person
from pipeline.shards.writer import write_shard
from pipeline.system import weights
from pipeline.system.assets import CHECKPOINT, SEQUENCE
from pipeline.train import checkpoint as checkpoints
from pipeline.train.presets import tiny
from tests.avatar.conftest import footage  # noqa: F401
from tests.captures import ava, nersemble
from tests.captures.studio import AVA, NERSEMBLE, ONE_PERSON, shoot
from tests.conftest import LAYOUT, blob_views, plain, toy_capture
from tests.docs.pages import GUIDES, INSTALLS, blocks
from tests.prep import toys
from tools.draw_photo_examples import camera_at, photograph

WALKED = {
    "README.md", "ava256.md", "formats.md", "hub.md", "model_card.md", "nersemble.md",
    "performance.md", "photographs.md", "start.md", "training.md",
}  # fmt: skip
"""The pages that tests below walk through."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: an untrained tiny model, a sequence of three frames, a protocol."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = FastGHA(tiny(), "float32")
    torch.nn.init.normal_(model.deformation.out.weight, std=0.005)
    header = {"layout": LAYOUT, "step": 1}
    (tmp_path / "run").mkdir()
    checkpoints.save(tmp_path / "run" / "step-00000001.safetensors", model, None, header)
    (tmp_path / "demo_out").mkdir()
    codes = read_sequence(SEQUENCE, LAYOUT).codes[:3]
    write_sequence(tmp_path / "demo_out" / "talk.npz", Sequence(codes, 25.0))
    write_sequence(tmp_path / "track.npz", Sequence(codes, 25.0))
    (tmp_path / "one.toml").write_text(ONE_PERSON)
    return tmp_path


def walk(page: str, before: dict[str, Callable[[], object]] | None = None) -> int:
    """Run the blocks of a page in their order; return how many commands ran.

    Args:
        page: Its name.
        before: What the reader does by hand before the first command that has a word.
    """
    hands, done = dict(before or {}), 0
    for block in blocks(page):
        if not block.runs:
            continue
        if block.kind == "python":
            exec(compile(block.text, page, "exec"), {"__name__": "page"})
            continue
        for line in block.lines():
            if line.startswith(INSTALLS):
                continue
            for word in [w for w in hands if w in line]:
                hands.pop(word)()
            result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
            if result.exception is not None and not isinstance(result.exception, SystemExit):
                raise result.exception
            assert result.exit_code == 0, f"{line}\n{result.output}"
            done += 1
    assert not hands, f"no command has {list(hands)}"
    return done


def have(*names: str) -> None:
    """Skip where weights are not on this machine."""
    try:
        for name in names:
            weights.find(name)
    except MissingWeightsError as missing:
        pytest.skip(missing.problem)


def test_every_page_with_blocks_that_run_is_walked_through():
    assert {page for page in GUIDES if any(b.runs for b in blocks(page))} == WALKED


def test_the_first_steps_run(folder: Path):
    assert walk("start.md") == 6
    assert (folder / "site" / "index.html").exists() and (folder / "talk.mp4").exists()


def test_training_without_data_runs(folder: Path):
    assert walk("training.md") == 5
    assert (folder / "report" / "report.html").exists()


def test_the_training_of_the_shipped_model_runs(folder: Path):
    have("mobilenet_v2")
    assert walk("model_card.md") == 3


def test_the_format_of_a_sequence_is_read(folder: Path):
    walk("formats.md")
    sequence = read_sequence(folder / "smile.npz", LAYOUT)
    assert len(sequence) == 25 and sequence.fps == 25
    rotations = sequence.codes.values[0, 100:118].reshape(3, 2, 3)
    assert np.allclose(rotations, np.eye(3)[:2])


@pytest.fixture
def head(folder: Path) -> Path:
    """The avatar that the demo leaves."""
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    path = folder / "demo_out" / "head.avatar"
    Avatar.create(model, blob_views(2, 64), LAYOUT, {}).save(path)
    return path


def test_sharing_runs(folder: Path, head: Path):
    walk("hub.md")
    assert (folder / "shared" / "model" / "README.md").exists()


def test_the_python_of_the_readme_runs(head: Path):
    assert walk("README.md") == 0


def test_two_records_are_compared(folder: Path):
    record = new_record(CHECKPOINT, quick=False)
    record.with_bench({"model/x": Figure(2.0, "ms")}, {}, free=1).save(folder / "before.json")
    record.with_bench({"model/x": Figure(2.1, "ms")}, {}, free=1).save(folder / "after.json")
    assert walk("performance.md") == 1


def test_photographs_and_a_video_become_avatars(
    folder: Path,
    footage: Footage,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
):
    have(*weights.SETS["photos"])
    subject, _ = person(SyntheticConfig(split="test"), 11)
    still = np.zeros(52, np.float32)
    shots = {"front": (0, 0), "left": (-40, 0), "right": (40, 0), "above": (12, 18)}
    drawn = {name: photograph(subject, still, *angles, 0.4) for name, angles in shots.items()}
    for name, picture in drawn.items():
        picture.save(folder / f"{name}.jpg", quality=95)
    group = Image.new("RGB", (512, 256))
    group.paste(drawn["front"], (0, 0))
    group.paste(drawn["above"], (256, 0))
    group.save(folder / "group.jpg", quality=95)
    drawn["front"].save(folder / "a.jpg", quality=95)
    drawn["left"].save(folder / "b.jpg", quality=95)

    def film() -> None:
        """From here on there is the video; its frames are tracked already."""
        (folder / "frames").mkdir()
        monkeypatch.setattr(create, "read_footage", lambda *args, **how: footage)
        small = partial(FitConfig, sizes=(64,), shares=(1.0,))
        monkeypatch.setattr(create, "FitConfig", small)

    two = [camera_at(*shots[name], 0.4) for name in ("front", "left")]
    E, K = (torch.stack([getattr(c, f) for c in two]) for f in ("world_to_camera", "K"))
    known = Camera(E, K, two[0].width, two[0].height)
    cameras = partial(write_path, folder / "cameras.json", known)
    assert walk("photographs.md", {"--cameras": cameras, "me.mp4 --refine": film}) == 8
    assert (folder / "sheet.png").exists() and (folder / "me.mp4").exists()


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that need no weights, under names of their own: `wall`, `ava`, `nersemble`."""
    toys.register_studio(monkeypatch)


def draw_targets(folder: Path) -> None:
    """Draw white pictures, as a method would that learnt nothing."""
    listing = json.loads((folder / "targets" / "targets.json").read_text())
    for avatar in listing["avatars"]:
        for target in avatar["targets"]:
            path = folder / "drawn" / target["picture"]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (listing["size"], listing["size"]), "white").save(path)


def test_ava_256_is_prepared_trained_on_and_measured(folder: Path, networks: None):
    for name in ("20230309--1352--ABC123", ava.NAME):
        ava.write(folder / "ava-256", shoot(**AVA), name)
    assert not held_out_ava256("ABC123") and held_out_ava256(ava.NAME[-6:])
    assert walk("ava256.md", {"--predictions": partial(draw_targets, folder)}) == 11
    assert (folder / "table1" / "report.html").exists()


def test_nersemble_is_prepared_trained_on_and_measured(folder: Path, networks: None):
    found = {held_out_nersemble(f"{n:03d}"): f"{n:03d}" for n in range(1, 60)}
    for number in found.values():
        nersemble.write_v2(folder / "nersemble", shoot(**NERSEMBLE), number)
    write_shard(
        folder / "shards" / "ava" / "anna.h5", toy_capture("anna"), {"made by": "the tests"}
    )
    assert walk("nersemble.md") == 7
    assert (folder / "report" / "report.html").exists()
