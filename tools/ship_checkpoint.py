"""Put a run's newest checkpoint into the package. For developers.

    python tools/ship_checkpoint.py runs/small --trained "fastgha train ..."

Writes pipeline/assets/small.safetensors (float16 weights, no optimizer), small.json (the run's
settings and how it was made) and small.log.jsonl (every tenth line of the run's log). With --start,
the weights are means of the run's and of those that it began with: what a run forgets of real
pictures while it learns drawn ones comes back (docs/experiments.md).

Source of the means: Wortsman et al., Robust Fine-Tuning of Zero-Shot Models, CVPR 2022.
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


@torch.no_grad()
def average(model: torch.nn.Module, start: torch.nn.Module, share: float) -> None:
    """Draw the weights that a model has in common with another towards it."""
    begun = start.state_dict()
    for name, value in model.state_dict().items():
        if name in begun and value.is_floating_point() and begun[name].shape == value.shape:
            value.lerp_(begun[name], 1 - share)


def main() -> None:
    """Read the run and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trained", required=True, help="the commands that made it")
    parser.add_argument("--start", type=Path, help="checkpoint that the run began with")
    parser.add_argument("--share", type=float, default=0.5, help="of the run in the mean")
    arguments = parser.parse_args()

    path = resolve(arguments.run)
    model, loaded = load_model(path, "float32")
    if arguments.start is not None:
        average(model, load_model(arguments.start, "float32")[0], arguments.share)
    header = {k: v for k, v in loaded.header.items() if k not in ("format", "version", "model")}
    checkpoints.save(CHECKPOINT, model, None, header, dtype=torch.float16)

    run = json.loads((arguments.run / "run.json").read_text())
    facts = {
        "trained_by": arguments.trained,
        "step": header["step"],
        "subjects": sum(len(group) for group in run["shards"]),
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
