"""What a run tells: JSON lines, TensorBoard, and pictures to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from pipeline.core.errors import MissingPackageError
from pipeline.io.images import write_rgb
from pipeline.io.sheets import grid
from pipeline.shards.sampling import Sample
from pipeline.system.files import require_file, write_text

LOG = "log.jsonl"


class Log:
    """One JSON line a step in `log.jsonl`, and the same numbers for TensorBoard.

    Lines of steps after `start`, which a stopped run wrote after its last checkpoint, go.

    Raises:
        MissingPackageError: If tensorboard is not installed.
    """

    def __init__(self, out: Path, start: int) -> None:
        try:
            # Slow to import, and only training needs it.
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError as error:
            raise MissingPackageError(
                "Training needs the package tensorboard.",
                "Install it: pip install 'fastgha[train]'",
            ) from error

        path = out / LOG
        if path.exists():
            # Of a month's run it may be large.
            text = require_file(path, "a log").read_text(encoding="utf-8", errors="replace")
            lines = [line for line in text.splitlines() if _step_of(line) <= start]
            write_text(path, "".join(f"{x}\n" for x in lines))
        self._file = path.open("a", buffering=1, encoding="utf-8", newline="\n")
        self._board = SummaryWriter(str(out / "tensorboard"), purge_step=start + 1)

    def write(
        self,
        step: int,
        terms: Mapping[str, float],
        seconds: Mapping[str, float],
        facts: Mapping[str, float],
    ) -> None:
        """Log a step: its loss terms, the seconds of its parts, and other facts."""
        rounded = {name: round(s, 4) for name, s in seconds.items()}
        self._file.write(json.dumps({"step": step, **terms, **facts, "seconds": rounded}) + "\n")
        for name, value in terms.items():
            self._board.add_scalar(f"loss/{name}", value, step)
        self._board.add_scalar("seconds", sum(seconds.values()), step)

    def __enter__(self) -> Log:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._board.close()


def picture(path: Path, inputs: Tensor, drawn: Tensor, sample: Sample) -> None:
    """Write a sheet: the inputs, what was drawn, and the truth, a row each."""
    write_rgb(path, grid([inputs, drawn, sample.targets.image]))


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        # The last line of a run that was killed, or of a machine that lost power.
        return 2**62
