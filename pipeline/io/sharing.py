"""Folders of one model or avatar with its card: here, or a repository of the Hugging Face hub.

The network is asked only here, and only for a name that the user gave.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pipeline.core.errors import InputError, MissingPackageError
from pipeline.system.files import explain, write_text, write_whole

CARD = "README.md"


def find(place: str | Path, name: str, revision: str | None = None) -> Path:
    """Return a file of a folder; of a repository of the hub if there is no such folder.

    What was downloaded is kept in the hub's own cache, and not asked for again.

    Args:
        place: A folder, the file itself, or `owner/name` on the hub.
        name: Of the file in it.
        revision: Branch, tag or commit on the hub.

    Raises:
        InputError: If neither folder nor repository has it.
        MissingPackageError: If it would be on the hub, and huggingface_hub is not installed.
    """
    here = Path(place)
    if here.is_file():
        return here
    if here.is_dir():
        if not (here / name).is_file():
            raise InputError(f"There is no {name} in {here}.", "Give the folder that holds it.")
        return here / name
    hub = _hub()
    try:
        return Path(hub.hf_hub_download(str(place), name, revision=revision))
    except (OSError, ValueError, hub.errors.HTTPError) as error:
        raise InputError(
            f"{place} is no folder here, and its {name} cannot be had from the hub "
            f"({_first_line(error)}).",
            "Give a folder, or the owner/name of a repository that you may read.",
        ) from error


def save(folder: Path, name: str, file: Path, card: str) -> Path:
    """Copy a file into a folder, under a name, with its card beside it; return the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / name, lambda part: shutil.copyfile(file, part))
        write_text(folder / CARD, card)
    except OSError as error:
        raise explain(error, f"Cannot write {folder}") from error
    return folder


def push(repository: str, name: str, file: Path, card: str, *, private: bool = True) -> str:
    """Put a file and its card into a repository of the hub, made if need be; return its address.

    Raises:
        InputError: If the hub refuses, or cannot be reached.
        MissingPackageError: If huggingface_hub is not installed.
    """
    hub = _hub()
    with tempfile.TemporaryDirectory(prefix="fastgha-") as folder:
        save(Path(folder), name, file, card)
        try:
            api = hub.HfApi()
            address = api.create_repo(repository, private=private, exist_ok=True)
            api.upload_folder(
                repo_id=repository, folder_path=folder, commit_message=f"Share {name}"
            )
        except (OSError, ValueError, hub.errors.HTTPError) as error:
            raise InputError(
                f"The hub does not take {repository} ({_first_line(error)}).",
                "Log in with `hf auth login`, and give an owner/name that you may write to.",
            ) from error
    return str(address)


def card(title: str, license: str, paragraphs: Sequence[str]) -> str:
    """Return a card in the hub's form.

    Args:
        title: Its heading.
        license: Identifier of the hub, such as `cc-by-4.0`; empty if none is given.
        paragraphs: Its text, in Markdown.
    """
    head = ["---", "library_name: fastgha", "tags: [gaussian-splatting, head-avatar]"]
    if license:
        head.append(f"license: {license}")
    return "\n".join([*head, "---", "", f"# {title}", "", "\n\n".join(paragraphs), ""])


def _hub() -> Any:
    try:
        hub = import_module("huggingface_hub")
        import_module("huggingface_hub.errors")  # an attribute of the package from here on
    except ImportError as error:
        raise MissingPackageError(
            "The hub needs the package huggingface_hub.", "Install it: pip install 'fastgha[hub]'"
        ) from error
    return hub


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
