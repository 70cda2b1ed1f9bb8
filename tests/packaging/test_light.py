"""The core needs only the packages it declares; what needs more says which extra brings it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement

from pipeline.apps.doctor import OPTIONAL
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import SEQUENCE
from pipeline.train import checkpoint as checkpoints
from pipeline.train.presets import tiny
from tests.conftest import LAYOUT, blob_views, plain

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows seldom allows links")


def brought_by(requirements: list[str]) -> dict[str, Distribution]:
    """The distributions that pip would install for these requirements, by name."""
    found: dict[str, Distribution] = {}
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        marker = requirement.marker
        if marker is not None and not marker.evaluate({"extra": extra}):
            continue
        try:
            one = distribution(requirement.name)
        except PackageNotFoundError:  # a torch without CUDA brings fewer packages than it names
            continue
        if one.name not in found or requirement.extras:
            found[one.name] = one
            needs = [Requirement(line) for line in one.requires or ()]
            waiting += [(n, e) for n in needs for e in ("", *requirement.extras)]
    return found


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages as `pip install fastgha` makes it, of links."""
    folder = tmp_path_factory.mktemp("core")
    for one in brought_by(PROJECT["dependencies"]).values():
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            target = Path(str(one.locate_file(top)))
            if target.exists() and not (folder / top).exists():
                (folder / top).symlink_to(target)
    return folder


def run(core: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """Run Python with these packages alone: -S leaves out those that are installed."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(core)])}
    command = [sys.executable, "-S", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def test_no_extra_is_part_of_the_core(core: Path):
    here = {path.name for path in core.iterdir()}
    assert {"torch", "numpy", "numba", "typer"} <= here
    assert here.isdisjoint({"transformers", "ray", "viser", "matplotlib", "tensorboard", "rembg"})


def test_every_module_imports_with_the_core_alone(core: Path):
    code = (
        "import importlib, pkgutil, fastgha, pipeline, fastgha_cli\n"
        "for package in (pipeline, fastgha_cli):\n"
        "    for m in pkgutil.walk_packages(package.__path__, package.__name__ + '.'):\n"
        "        if not m.name.endswith('__main__'):\n"
        "            importlib.import_module(m.name)\n"
    )
    done = run(core, "-c", code)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tiny model."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "step-00000001.safetensors"
    checkpoints.save(path, FastGHA(tiny(), "float32"), None, {"layout": LAYOUT, "step": 1})
    return path


def test_the_demo_runs_with_the_core_alone(core: Path, checkpoint: Path, tmp_path: Path):
    out = tmp_path / "out"
    done = run(core, "-m", "fastgha_cli", "demo", "-o", out, "--model", checkpoint, "--size", 64)
    assert done.returncode == 0, done.stderr
    assert (out / "head.mp4").stat().st_size > 1000 and "PSNR" in done.stdout


def test_what_needs_an_extra_says_which(core: Path, shards: Path, tmp_path: Path):
    from pipeline.avatar.avatar import Avatar

    avatar = tmp_path / "a.avatar"
    model = FastGHA(plain(), "float32").eval().requires_grad_(False)
    Avatar.create(model, blob_views(2, 64), LAYOUT, {}).save(avatar)
    for extra, words in {
        "train": ("train", shards, "-o", tmp_path / "run", "--preset", "tiny", "--workers", 0),
        "view": ("view", avatar, "--expr", SEQUENCE),
    }.items():
        done = run(core, "-m", "fastgha_cli", *words)
        assert done.returncode == 1, done.stderr
        assert f"pip install 'fastgha[{extra}]'" in done.stderr
        assert "Traceback" not in done.stderr


def test_the_doctor_names_the_extra_that_pyproject_has_a_package_in():
    extras = PROJECT["optional-dependencies"]
    for package, extra in OPTIONAL.items():
        names = {Requirement(line).name for line in extras[extra]}
        assert package in names, f"{package} is not in the extra {extra}"
