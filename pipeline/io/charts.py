"""Charts: figures of lines against axes, by matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches; ask for it before work that takes long.

    Raises:
        MissingPackageError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "Charts need the package matplotlib.", "Install it: pip install 'fastgha[eval]'"
        ) from error
    return Figure(figsize=(width, height), layout="constrained")
