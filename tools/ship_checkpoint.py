"""Put a run's newest checkpoint into the package. For developers.

    python tools/ship_checkpoint.py runs/small --trained "fastgha train ..."

Writes pipeline/assets/small.safetensors (float16 weights, no optimizer), small.json (the run's
settings and how it was made) and small.log.jsonl (every tenth line of the run's log).
"""

import argparse
import json
from pathlib import Path

import torch

from pipeline.model.checkpoint import load_model, resolve
from pipeline.system.assets import CHECKPOINT
from pipeline.system.files import write_whole
from pipeline.train import checkpoint as checkpoints

THINNED = 10


def main() -> None:
    """Read the run and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trained", required=True, help="the commands that made it")
    arguments = parser.parse_args()

    path = resolve(arguments.run)
    model, loaded = load_model(path, "float32")
    header = {k: v for k, v in loaded.header.items() if k not in ("format", "version", "model")}
    checkpoints.save(CHECKPOINT, model, None, header, dtype=torch.float16)

    run = json.loads((arguments.run / "run.json").read_text())
    facts = {
        "trained_by": arguments.trained,
        "step": header["step"],
        "subjects": len(run["shards"]),
        "settings": run["settings"],
        "torch": torch.__version__,
    }
    settings = CHECKPOINT.with_suffix(".json")
    write_whole(settings, lambda p: p.write_text(json.dumps(facts, indent=1) + "\n"))
    lines = (arguments.run / "log.jsonl").read_text().splitlines()[THINNED - 1 :: THINNED]
    log = CHECKPOINT.with_suffix(".log.jsonl")
    write_whole(log, lambda p: p.write_text("\n".join(lines) + "\n"))


if __name__ == "__main__":
    main()
