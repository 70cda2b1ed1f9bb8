"""How long work tells how far it is."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with how many items are done and how many there are."""


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""
