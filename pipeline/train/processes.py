"""Several processes that train one model: who does what, and what they tell each other.

Processes are started by torchrun, one for each device, on one machine or several; each runs the
same program. Without it there is one process, and nothing here costs anything.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta

import torch
from torch import Tensor, nn

from pipeline.core.errors import ConfigError, MissingPackageError, TrainingError

RANK = "RANK"
"""Variable in which torchrun says which process this is; not set if it started none."""
LOST = ("closed by peer", "timed out", "Connection reset", "NCCL", "gloo", "Broken pipe")


class ProcessGroup:
    """The processes of a run, as one of them sees them."""

    def __init__(self, device: str, patience: int, timeout: int) -> None:
        """Meet the others.

        Args:
            device: `cpu` or `cuda`; with several processes each takes the GPU of its number.
            patience: Seconds to wait for them to come.
            timeout: Seconds to wait for an answer of one that came, before the run ends with an
                error.

        Raises:
            MissingPackageError: If accelerate is not installed.
        """
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            raise MissingPackageError(
                "Training needs the package accelerate.", "Install it: pip install 'fastgha[train]'"
            ) from error
        from torch.distributed import distributed_c10d

        wait = InitProcessGroupKwargs(timeout=timedelta(seconds=patience))
        self._all = Accelerator(cpu=device == "cpu", kwargs_handlers=[wait])
        self.rank: int = self._all.process_index
        self.size: int = self._all.num_processes
        self.device = torch.device(device) if self.size == 1 else self._all.device
        if self.size > 1:
            self._all.wait_for_everyone()
            distributed_c10d._set_pg_timeout(timedelta(seconds=timeout))  # pyright: ignore[reportPrivateUsage]

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def data_parallel(self, model: nn.Module) -> nn.Module:
        """Return the model in a form whose gradients are averaged over all processes."""
        return model if self.size == 1 else self._all.prepare_model(model)

    def no_sync(self, shared: nn.Module, more: bool) -> AbstractContextManager[object]:
        """Return the context of one of several backward passes; all but the last stay here."""
        return self._all.no_sync(shared) if more and self.size > 1 else nullcontext()

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, to each of them."""
        if self.size == 1:
            return values
        found = self._all.reduce(values, "sum")
        assert isinstance(found, Tensor)
        return found

    def barrier(self) -> None:
        """Wait until all processes are here."""
        if self.size > 1:
            self._all.wait_for_everyone()

    @contextmanager
    def main_process_first(self) -> Generator[None]:
        """Let the first process do something, then the others."""
        if self.size == 1:
            yield
            return
        with self._all.main_process_first():
            yield

    @contextmanager
    def explain_failures(self) -> Generator[None]:
        """Turn the loss of another process, or of memory, into an error that says what to do.

        Raises:
            TrainingError: If another process ended, was silent for too long, or memory ran out.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise _out_of_memory(error) from error
        except RuntimeError as error:
            said = str(error)
            if "can't allocate memory" in said or "DefaultCPUAllocator" in said:
                raise _out_of_memory(error) from error
            if self.size > 1 and any(word in said for word in LOST):
                raise TrainingError(
                    f"Process {self.rank} lost another process of the run: "
                    f"{said.strip().splitlines()[0][:120]}",
                    "See what that one said; the same command goes on from the last checkpoint.",
                ) from error
            raise

    def local_samples(self, samples: int) -> range:
        """Return which samples of a step are this process's.

        Raises:
            ConfigError: If there are fewer samples than processes.
        """
        if samples < self.size:
            raise ConfigError(
                f"{self.size} processes cannot share {samples} samples a step.",
                f"Start at most {samples} processes, or another run.",
            )
        return range(self.rank, samples, self.size)


def _out_of_memory(error: Exception) -> TrainingError:
    return TrainingError(
        f"Memory ran out: {str(error).strip().splitlines()[0][:160]}",
        "Lower what takes it, the most effective first: --set run.gradient_checkpointing=true, "
        "--precision bfloat16, --set sampling.targets=4, --inputs 2, smaller --set sizes.",
    )


def speaks() -> bool:
    """Return whether this process is the one of a run that talks to the user."""
    return os.environ.get(RANK, "0") == "0"


def idle_gpus(device: str, arguments: Sequence[str]) -> str:
    """Return how to use all GPUs if one process uses one of several; nothing otherwise.

    Args:
        device: Where the run computes.
        arguments: Words of the command line that started it.
    """
    count = torch.cuda.device_count()
    if count < 2 or device != "cuda" or RANK in os.environ:
        return ""
    return f"One of {count} GPUs is used. All of them: {launch_line(count, arguments)}"


def launch_line(processes: int, arguments: Sequence[str]) -> str:
    """Return the command that starts a training in several processes of this machine.

    For several machines, add `--nnodes N --rdzv-backend c10d --rdzv-endpoint HOST:29500` to
    torchrun and run the line on each.

    Args:
        processes: How many.
        arguments: Words of a `fastgha` command line; `--processes` is left out.
    """
    words = _without("--processes", arguments)
    return shlex.join(["torchrun", "--nproc-per-node", str(processes), "-m", "fastgha_cli", *words])


def _without(option: str, words: Sequence[str]) -> list[str]:
    kept = [word for word in words if not word.startswith(f"{option}=")]
    while option in kept:
        at = kept.index(option)
        del kept[at : at + 2]
    return kept
