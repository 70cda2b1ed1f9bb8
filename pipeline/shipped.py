"""What comes with the package: the default checkpoint and an expression sequence."""

from pathlib import Path

from pipeline.train.checkpoint import resolve

ASSETS = Path(__file__).parent / "assets"
CHECKPOINT = ASSETS / "small.safetensors"
SEQUENCE = ASSETS / "demo_sequence.npz"


def checkpoint_path(chosen: Path | None) -> Path:
    """Give the checkpoint that the user chose (a file or a run's folder), or the shipped one.

    Raises:
        InputError: If there is none.
    """
    return resolve(chosen or CHECKPOINT)
