"""Trained models as folders with a card, here or on the hub."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.io import sharing
from pipeline.io.tensors import write_tensors
from pipeline.model.checkpoint import SHARED, Checkpoint, load, load_model, resolve
from pipeline.model.fastgha import FastGHA, Precision


def load_pretrained(
    place: str | Path, revision: str | None = None, precision: Precision = "auto"
) -> tuple[FastGHA, Checkpoint]:
    """Return a model that was shared, ready for use, with its checkpoint.

    Args:
        place: A folder with `model.safetensors`, a checkpoint, or `owner/name` on the hub.
        revision: Branch, tag or commit on the hub.
        precision: Of its arithmetic.

    Raises:
        InputError: If it is not there.
        FormatError: If it is not a whole checkpoint.
    """
    return load_model(sharing.find(place, SHARED, revision), precision)


def save_pretrained(checkpoint: Path, folder: Path, *, about: str = "", license: str = "") -> Path:
    """Write the weights of a checkpoint or run, and a card about them, into a folder."""
    with _weights(checkpoint) as (path, found):
        return sharing.save(folder, SHARED, path, model_card(found, about, license))


def push_to_hub(
    checkpoint: Path, repository: str, *, about: str = "", license: str = "", private: bool = True
) -> str:
    """Put the weights of a checkpoint or run, with a card, onto the hub; return the address."""
    with _weights(checkpoint) as (path, found):
        card = model_card(found, about, license)
        return sharing.push(repository, SHARED, path, card, private=private)


@contextmanager
def _weights(checkpoint: Path) -> Generator[tuple[Path, Checkpoint]]:
    """Give a checkpoint without its optimizer, as a file that goes afterwards."""
    found = load(resolve(checkpoint))
    weights = {k: v for k, v in found.tensors.items() if k.startswith("model.")}
    with TemporaryDirectory(prefix="fastgha-") as folder:
        path = Path(folder) / SHARED
        write_tensors(path, weights, found.header)
        yield path, found


def model_card(checkpoint: Checkpoint, about: str = "", license: str = "") -> str:
    """Return what a checkpoint says of itself, as a card.

    Args:
        checkpoint: The model.
        about: What else there is to say: data, figures, limits. Markdown.
        license: Identifier of the hub; empty if none is given.
    """
    header = checkpoint.header
    model, seen = header["model"], len(checkpoint.people)
    count = sum(v.numel() for k, v in checkpoint.tensors.items() if k.startswith("model."))
    held = f", {len(checkpoint.held_out)} of them held out" if checkpoint.held_out else ""
    rows = {
        "parameters": f"{count:,}",
        "pictures": f"{model.get('image_size')} px",
        "guide": str(model.get("guide", "none")),
        "features": str(model.get("features", {}).get("kind")),
        "expression codes": f"`{header['layout']}`",
        "step": f"{header['step']:,}",
        "people it saw": f"{seen:,}{held}" if seen else "not said",
    }
    table = "\n".join(["| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])
    use = (
        "```python\nfrom fastgha import load_pretrained\n\n"
        'model, checkpoint = load_pretrained("owner/name")\n```'
    )
    return sharing.card(
        "A FastGHA model",
        license,
        [
            "From one to six pictures of a head to an avatar that animates, by `fastgha`.",
            *([about] if about else []),
            table,
            use,
            "On the command line: `fastgha avatar front.jpg -o me.avatar --model hf:owner/name`.",
            "Make avatars only of people who agreed to it.",
        ],
    )
