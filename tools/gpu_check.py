"""Try everything that needs a GPU on a bare CUDA machine, within ten minutes and without a network.

    pip download -d wheels gsplat av diffusers ...           # where there is a network
    python tools/gpu_check.py --wheels wheels -o check.json  # there
    python tools/gpu_check.py --tiny --device cpu -o x.json  # a dry run of the same code

Says as JSON, check by check: gsplat against the reference (the golden scene and the package's own
tests), a training step of `paper` with random weights at 512 pixels (bfloat16, with and without
gradient checkpointing: seconds, peak memory, waiting for data), Table 2's times for 2 to 6 inputs
beside the paper's, and steps a second of `small` by samples a step. A check that fails says why,
and the others go on; those that would begin after the time is over are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NEEDED = ("av", "jaxtyping", "h5py", "numba", "accelerate", "diffusers", "transformers", "gsplat")
TESTS_S = 150.0
"""Seconds that the package's own tests may take of the time."""
LOG_TAIL = 1500
"""Characters of a failed command's output that are kept."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    preset: str
    size: int
    inputs: tuple[int, ...]
    batch_preset: str
    batch_size: int
    batches: tuple[int, ...]
    steps: int
    repeats: int
    identities: int = 2


FULL = Scale("paper", 512, (2, 3, 4, 5, 6), "small", 256, (1, 2, 4, 8), 24, 3)
TINY = Scale("tiny", 64, (2, 3), "tiny", 64, (1, 2), 2, 1)


class Checks:
    """Runs checks one after the other, and keeps what they said."""

    def __init__(self, out: Path, seconds: float) -> None:
        self._out, self._end = out, time.monotonic() + seconds
        self.found: dict[str, Any] = {}

    @property
    def left(self) -> float:
        """Seconds until the time is over."""
        return self._end - time.monotonic()

    def run(self, name: str, check: Callable[[], Any]) -> None:
        """Carry out a check, and write everything so far."""
        start = time.monotonic()
        if self.left <= 0:
            self.found[name] = {"skipped": "the time was over"}
        else:
            try:
                self.found[name] = {"ok": True, "found": check()}
            except Exception as error:  # noqa: BLE001  whatever it is, the others shall go on
                last = traceback.format_exc().splitlines()[-6:]
                self.found[name] = {"ok": False, "error": str(error)[:LOG_TAIL], "where": last}
        self.found[name]["seconds"] = round(time.monotonic() - start, 1)
        print(name, json.dumps(self.found[name])[:400], flush=True)
        self._out.write_text(json.dumps(self.found, indent=1))


def install(wheels: Path | None) -> dict[str, Any]:
    """Install what is missing from a folder of wheels, without a network."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing or wheels is None:
        return {"missing": missing}
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index"]
    done = _command([*command, "--find-links", str(wheels), *missing], 300)
    importlib.invalidate_caches()
    return {"installed": missing, **done}


def environment(device: str) -> dict[str, Any]:
    """Name the machine, and what can draw on it."""
    import torch

    from pipeline.render import available_backends
    from pipeline.system.machine import machine

    found = {**machine(), "backends": available_backends(), "cuda": torch.version.cuda or ""}
    if device == "cuda":
        facts = torch.cuda.get_device_properties(0)
        found |= {"memory_gb": facts.total_memory / 1e9, "bf16": torch.cuda.is_bf16_supported()}
    return found


def golden(device: str) -> dict[str, Any]:
    """Draw the golden scene; the first drawing with gsplat compiles it."""
    from pipeline.apps.doctor import TOLERANCE
    from pipeline.render.golden import check_backend

    start = time.monotonic()
    difference = check_backend("gsplat" if device == "cuda" else "cpu")
    if difference > TOLERANCE:
        raise RuntimeError(f"the golden scene differs by {difference:.2e}")
    return {"difference": difference, "first_s": round(time.monotonic() - start, 1)}


def own_tests(seconds: float) -> dict[str, Any]:
    """Run the package's tests of gsplat."""
    tests = str(ROOT / "tests" / "render" / "test_render_gsplat.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "0"]
    return _command(command, seconds)


def people(folder: Path, scale: Scale) -> Path:
    """Draw the people that the steps are made on."""
    from pipeline.prep.synthetic import SyntheticConfig, run

    size = max(scale.size, scale.batch_size)
    config = SyntheticConfig(scale.identities, expressions=6, views=8, size=size)
    run(folder, config, workers=min(scale.identities, os.cpu_count() or 1))
    return folder


def step(device: str, scale: Scale, shards: Path) -> list[dict[str, Any]]:
    """Time a training step with random weights, and its memory, in bfloat16 if there is any."""
    from pipeline.bench.train import bench
    from pipeline.train.config import RunConfig
    from pipeline.train.device import loader_workers
    from pipeline.train.presets import recipe

    run = RunConfig(device=device, workers=loader_workers(device), timing=True)
    rows = bench(
        recipe(scale.preset), run, sizes=(scale.size,), shards=shards, source="random",
        variants=("plain", "bfloat16", "gradient_checkpointing"), repeats=scale.repeats,
    )  # fmt: skip
    return [dict(row) for row in rows]


def table_2(device: str, scale: Scale) -> dict[str, Any]:
    """Time making and animating avatars, beside the paper's H800."""
    from pipeline.evaluate.inputs import some_views
    from pipeline.evaluate.speed import PAPER, speed
    from pipeline.faces.layouts import MAKEHUMAN
    from pipeline.model.fastgha import FastGHA
    from pipeline.train.presets import recipe

    config = replace(recipe(scale.preset).model, image_size=scale.size)
    model = FastGHA(config, source="random").eval().requires_grad_(False).to(device)
    model.deformation.set_layout(MAKEHUMAN)
    guided = config.guide == "mesh"
    views, mesh = some_views(None, max(scale.inputs), scale.size, guided=guided)
    rows = speed(model, views, MAKEHUMAN, mesh, inputs=scale.inputs, repeats=scale.repeats)
    return {"rows": [asdict(row) for row in rows], "paper_h800": PAPER}


def batches(
    device: str, scale: Scale, shards: Path, folder: Path, checks: Checks
) -> list[dict[str, Any]]:
    """Time the loop by samples a step, as `fastgha train` runs it: nothing waits but for data."""
    from pipeline.train.config import RunConfig
    from pipeline.train.device import loader_workers
    from pipeline.train.loop import train
    from pipeline.train.presets import recipe

    rows: list[dict[str, Any]] = []
    for batch in scale.batches:
        if checks.left < 30:
            break
        config = replace(
            recipe(scale.batch_preset),
            sizes=(scale.batch_size,), steps=(scale.steps,), peaks=(), batch=batch,
        )  # fmt: skip
        run = RunConfig(device=device, workers=loader_workers(device), picture_every=10**6)
        moments: list[float] = []
        train(
            shards, folder / f"batch-{batch}", config, run,
            progress=lambda *_, at=moments: at.append(time.perf_counter()),
        )  # fmt: skip
        warm = len(moments) // 2
        seconds = (moments[-1] - moments[warm - 1]) / (len(moments) - warm)
        rows.append({"batch": batch, "steps_a_s": 1 / seconds, "samples_a_s": batch / seconds})
    if not rows:
        raise RuntimeError("there was no time for it")
    return rows


def _command(command: list[str], seconds: float) -> dict[str, Any]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=max(seconds, 1), env=environment, cwd=ROOT
    )
    said = (done.stdout + done.stderr).strip()
    if done.returncode:
        raise RuntimeError(said[-LOG_TAIL:])
    return {"said": said.splitlines()[-1] if said else ""}


def main() -> None:
    """Run all checks and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--out", type=Path, default=Path("gpu_check.json"))
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install from")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small models and pictures")
    parser.add_argument("--seconds", type=float, default=570.0, help="no check begins later")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    scale = TINY if asked.tiny else FULL
    checks = Checks(asked.out, asked.seconds)
    checks.run("install", lambda: install(asked.wheels))
    checks.run("environment", lambda: environment(asked.device))
    checks.run("golden scene", lambda: golden(asked.device))
    checks.run("own tests", lambda: own_tests(min(checks.left, TESTS_S)))
    with tempfile.TemporaryDirectory(prefix="fastgha-") as place:
        folder = Path(place)
        checks.run("people", lambda: len([*people(folder / "shards", scale).glob("*.h5")]))
        shards = folder / "shards"
        checks.run("table 2", lambda: table_2(asked.device, scale))
        checks.run("training step", lambda: step(asked.device, scale, shards))
        checks.run("batches", lambda: batches(asked.device, scale, shards, folder, checks))
    if not all(one.get("ok") for one in checks.found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
