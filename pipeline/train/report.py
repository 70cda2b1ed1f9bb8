"""How a training run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.system.host import exit_code


@dataclass(frozen=True)
class TrainReport:
    """How a run ended."""

    out: Path
    step: int
    stopped_by: str
    """Name of the signal that stopped it; empty if it reached its last step."""
    checkpoint: Path
    steps: int
    """That were made this time."""
    samples_a_step: int
    processes: int
    seconds: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    """Of this process in each part of the steps, all together."""

    @property
    def exit_code(self) -> int:
        """What the program ends with: 0, or as a shell says which signal stopped it."""
        return exit_code(self.stopped_by) if self.stopped_by else 0

    def remarks(self, batch: int) -> list[str]:
        """Return what a user would want to know: speed, and what differs from the wish.

        Args:
            batch: Samples that each process was asked to take a step.
        """
        said: list[str] = []
        if self.samples_a_step != batch * self.processes:
            said.append(
                f"This run has {self.samples_a_step} samples a step, as it began; "
                f"{self.processes} processes shared them."
            )
        if self.steps:
            total = sum(self.seconds.values())
            parts = ", ".join(f"{name} {s / total:.0%}" for name, s in self.seconds.items())
            rate = self.steps * self.samples_a_step / total
            ms = 1e3 * total / self.steps
            said.append(f"{self.steps} steps of {ms:.0f} ms, {rate:.2f} samples/s: {parts}")
        if self.stopped_by:
            said.append(
                f"Stopped by {self.stopped_by} at step {self.step}; the same command goes on."
            )
        return said
