"""How long work tells how far it is."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

Progress = Callable[[int, int], None]
"""Called with how many items are done and how many there are."""
Bars = Callable[[str], AbstractContextManager[Progress]]
"""Called with the title of a piece of work; gives the progress of that piece while it lasts."""


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


def no_bars(title: str) -> AbstractContextManager[Progress]:
    """Return the progress of a piece of work that is reported to nobody."""
    return nullcontext(silent)
