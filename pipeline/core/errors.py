"""Errors that a user can cause. Each says what is wrong and what to do about it."""

LONGEST = 900
"""Letters of a problem or a remedy: what a file holds may be quoted in it, however long it is."""


class FastGHAError(Exception):
    """A fault with its remedy; the command line prints both and exits with 1."""

    def __init__(self, problem: str, remedy: str) -> None:
        self.problem = _shorten(problem)
        self.remedy = _shorten(remedy)
        super().__init__(self.problem, self.remedy)

    def __str__(self) -> str:
        return f"{self.problem} {self.remedy}"


class InputError(FastGHAError):
    """A file or folder that was given is missing, empty, or not what it should be."""


class MissingItemError(InputError):
    """One picture, mesh or pose of a capture that is missing or damaged.

    The rest of the capture is of use: a stage leaves the item out and reports it.
    """


class ShapeError(FastGHAError):
    """An array has the wrong shape, type or range."""


class CameraError(FastGHAError):
    """A camera that cannot exist: not a rotation, not finite, or intrinsics not in pixels."""


class LayoutError(FastGHAError):
    """Expression codes of another layout than the one that is needed."""


class FormatError(FastGHAError):
    """A file of ours that is damaged, truncated or of another version."""


class ConfigError(FastGHAError):
    """An unknown preset or setting, or settings that contradict each other."""


class StaleOutputError(FastGHAError):
    """The output folder holds results of other settings or inputs."""


class MissingWeightsError(FastGHAError):
    """Weights that must be there are not; says which file, where it goes, how to get it."""


class MissingPackageError(FastGHAError):
    """An optional package is not installed; says which extra brings it."""


class BackendError(FastGHAError):
    """A render backend cannot run here."""


class TrainingError(FastGHAError):
    """Training cannot go on: not-a-number, or a run that does not fit its checkpoint."""


class WorkerError(FastGHAError):
    """A worker process or machine of a run was lost."""


def _shorten(text: str) -> str:
    """Leave out the middle of a text that nobody would read to its end."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"
