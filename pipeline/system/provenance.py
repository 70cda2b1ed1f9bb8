"""What every picture, video and file of a head says about itself."""

from importlib.metadata import PackageNotFoundError, version


def program() -> str:
    """Return the name and version of this program."""
    try:
        return f"fastgha {version('fastgha')}"
    except PackageNotFoundError:
        return "fastgha"


def statement() -> str:
    """Return the sentence that pictures carry in their metadata."""
    return f"Synthetic picture of a head, drawn by {program()}; not a recording of a person."
