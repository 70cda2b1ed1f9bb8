"""Kill `fastgha prep` and `fastgha vggt-cache` at random times; compare with a run left alone.

Example:  PYTHONPATH=. python tools/kill_prep.py --kills 50 --json kills.json
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.captures import ava
from tests.captures.studio import shoot


def commands(raw: Path, out: Path, topology: Path) -> list[list[str]]:
    """Return the two commands on a folder of results."""
    run = [sys.executable, "-m", "fastgha_cli"]
    prep = [*run, "prep", "ava256", str(raw), "-o", str(out), "--size", "256"]
    prep += ["--detector", "none", "--no-codes", "--workers", "1"]
    cache = [*run, "vggt-cache", str(out), "--backend", "mesh", "--topology", str(topology)]
    return [prep, [*cache, "--device", "cpu", "--workers", "1"]]


def finish(steps: list[list[str]]) -> float:
    """Run the commands to their end; return the seconds they took."""
    start = time.monotonic()
    for step in steps:
        subprocess.run(step, check=True, capture_output=True)
    return time.monotonic() - start


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        raw, topology = Path(folder) / "raw", Path(folder) / "t.obj"
        raw.mkdir()
        ava.write(raw, shoot(width=256, height=393, supersample=2))
        topology.write_text("".join(f"f {i} {i + 1} {i + 2}\n" for i in range(1, 3000, 3)))
        whole = Path(folder) / "whole"
        seconds = finish(commands(raw, whole, topology))
        truth = hashlib.sha256((whole / f"{ava.NAME}.h5").read_bytes()).hexdigest()
        kills = finished = same = rounds = 0
        at: list[float] = []
        while kills < options.kills:
            out = Path(folder) / f"round{rounds}"
            rounds += 1
            # A few kills in each folder, at times spread over both commands, then to the end.
            for step in commands(raw, out, topology):
                for _ in range(rng.randrange(1, 4)):
                    process = subprocess.Popen(
                        step, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                    )
                    wait = rng.uniform(0.2, 1.1) * seconds / 2
                    try:
                        process.wait(wait)
                        finished += 1
                    except subprocess.TimeoutExpired:
                        process.send_signal(signal.SIGKILL)
                        process.wait()
                        kills += 1
                        at.append(round(wait, 3))
                subprocess.run(step, check=True, capture_output=True)
            found = hashlib.sha256((out / f"{ava.NAME}.h5").read_bytes()).hexdigest()
            same += found == truth and not list(out.rglob(".*.part"))
    result = {
        "kills": kills,
        "runs_that_ended_before_their_kill": finished,
        "folders": rounds,
        "folders_identical": same,
        "seconds_of_a_whole_run": round(seconds, 2),
        "killed_after_seconds": at,
    }
    print(json.dumps({k: v for k, v in result.items() if k != "killed_after_seconds"}))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    sys.exit(same != rounds)


if __name__ == "__main__":
    main()
