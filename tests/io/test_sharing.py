"""Models and avatars go through folders, and the hub, whose client alone is stood in for."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from fastgha import Avatar, load_pretrained, push_to_hub, save_pretrained
from pipeline.core.errors import FormatError, InputError, MissingPackageError
from pipeline.model.checkpoint import checkpoint_path
from pipeline.model.fastgha import FastGHA
from pipeline.system.assets import CHECKPOINT
from pipeline.train import checkpoint as checkpoints
from pipeline.train.optimizer import Optimizer
from pipeline.train.presets import train_tiny
from tests.conftest import LAYOUT, blob_views, plain


@pytest.fixture(scope="module")
def model() -> FastGHA:
    torch.manual_seed(0)
    made = FastGHA(plain(), "float32").eval().requires_grad_(False)
    torch.nn.init.normal_(made.deformation.out.weight, std=0.005)
    return made


@pytest.fixture(scope="module")
def avatar(model: FastGHA) -> Avatar:
    return Avatar.create(model, blob_views(2, 64), LAYOUT, {"pictures": 2})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose checkpoint can be resumed from."""
    folder = tmp_path_factory.mktemp("run")
    torch.manual_seed(1)
    made = FastGHA(plain(), "float32")
    optimizer = Optimizer(made, train_tiny())
    for parameter in made.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    header = {"layout": LAYOUT, "step": 12, "people": ["anna", "bert"], "held_out": ["bert"]}
    checkpoints.save(folder / "step-00000012.safetensors", made, optimizer, header)
    return folder


class Hub:
    """The hub's client, of a folder: what was uploaded can be downloaded."""

    def __init__(self, root: Path) -> None:
        self.root, self.private = root, dict[str, bool]()

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        path = self.root / repo_id / filename
        if not path.exists() or revision not in (None, "main"):
            raise huggingface_hub.errors.LocalEntryNotFoundError(f"404: {repo_id}\nmore")
        return str(path)

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> str:
        if repo_id.startswith("theirs/"):
            raise OSError("403 Forbidden")
        self.private[repo_id] = private
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        shutil.copytree(folder_path, self.root / repo_id, dirs_exist_ok=True)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.hf_hub_download)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


def test_an_avatar_comes_out_of_its_folder_as_it_went_in(avatar: Avatar, tmp_path: Path):
    folder = avatar.save_pretrained(tmp_path / "me", about="I agreed.", license="cc-by-4.0")
    again = Avatar.from_pretrained(folder)
    assert torch.equal(again.canonical.means, avatar.canonical.means)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: fastgha\n") and "license: cc-by-4.0\n" in card
    assert f"| Gaussians | {len(avatar.canonical):,} |" in card and "I agreed." in card


def test_a_run_is_shared_without_its_optimizer_and_says_whom_it_saw(run: Path, tmp_path: Path):
    folder = save_pretrained(run, tmp_path / "shared")
    _, checkpoint = load_pretrained(folder)
    assert all(name.startswith("model.") for name in checkpoint.tensors)
    assert checkpoint.header["step"] == 12 and checkpoint.held_out == {"bert"}
    card = (folder / "README.md").read_text()
    assert "| people it saw | 2, 1 of them held out |" in card and "license:" not in card
    assert checkpoint_path(folder) == folder / "model.safetensors"


def test_what_is_pushed_is_private_and_comes_back(avatar: Avatar, run: Path, hub: Hub):
    assert avatar.push_to_hub("me/head").endswith("/me/head")
    push_to_hub(run, "me/model", private=False)
    assert hub.private == {"me/head": True, "me/model": False}
    assert len(Avatar.from_pretrained("me/head").canonical) == len(avatar.canonical)
    assert load_pretrained("me/model", revision="main")[1].header["step"] == 12
    assert checkpoint_path(Path("hf:me/model")) == hub.root / "me" / "model" / "model.safetensors"


def test_what_is_not_there_is_two_lines(hub: Hub, avatar: Avatar, tmp_path: Path):
    with pytest.raises(InputError, match=r"me/none is no folder here, .*\(404: me/none\)"):
        Avatar.from_pretrained("me/none")
    with pytest.raises(InputError, match="no head.avatar in"):
        Avatar.from_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"does not take theirs/x \(403 Forbidden\)"):
        avatar.push_to_hub("theirs/x")


def test_what_comes_from_the_hub_is_read_as_strictly_as_any_file(hub: Hub):
    (hub.root / "me" / "bad").mkdir(parents=True)
    (hub.root / "me" / "bad" / "head.avatar").write_bytes(b"no avatar")
    with pytest.raises(FormatError):
        Avatar.from_pretrained("me/bad")


def test_folders_need_no_hub(avatar: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    folder = avatar.save_pretrained(tmp_path / "me")
    assert Avatar.from_pretrained(folder).layout == LAYOUT
    with pytest.raises(MissingPackageError, match=r"pip install 'fastgha\[hub\]'"):
        Avatar.from_pretrained("me/head")


def test_the_shipped_model_makes_its_card():
    from pipeline.model.checkpoint import load
    from pipeline.model.pretrained import model_card

    card = model_card(load(CHECKPOINT), "Trained on drawn people.", "apache-2.0")
    assert "| pictures | 256 px |" in card and "| guide | mesh |" in card


def test_the_real_hub_is_asked_for_by_the_names_that_it_has():
    """The stand-in takes what the client takes."""
    import inspect

    api: Any = huggingface_hub.HfApi
    for real, ours in (
        (huggingface_hub.hf_hub_download, Hub.hf_hub_download),
        (api.create_repo, Hub.create_repo),
        (api.upload_folder, Hub.upload_folder),
    ):
        wanted = set(inspect.signature(ours).parameters) - {"self"}
        assert wanted <= set(inspect.signature(real).parameters)
