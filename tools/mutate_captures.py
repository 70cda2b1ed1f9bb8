"""Damage small captures of every layout in many ways and read them; report what came out.

Run from the repository: python tools/mutate_captures.py --count 1000 --json FILE
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.captures import mutations


def main() -> int:
    """Run; the exit code is 1 if anything but a clear error or a reported skip came out."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        mutations.write_all(Path(folder))
        whole = {
            kind: mutations.read_all(source, Path(folder) / kind)
            for kind, source in mutations.SOURCES.items()
        }
        rows = mutations.run(Path(folder), args.seed, args.count)
    outcome = Counter(_outcome(row, whole[row["layout"]]) for row in rows)
    facts = {
        "count": args.count,
        "seed": args.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "outcome": dict(outcome),
        "by layout": dict(Counter(row["layout"] for row in rows)),
        "failures": [row for row in rows if "error" in row],
    }
    text = json.dumps(facts, indent=1)
    if args.json:
        args.json.write_text(text)
    print(text)
    return 1 if outcome["failed"] else 0


def _outcome(row: dict[str, Any], whole: Counter[str]) -> str:
    """Put a row into words; small captures lack a few things from the start."""
    if "error" in row:
        return "failed"
    if row.get("refused"):
        return "capture refused"
    same = all(row.get(key, 0) == whole[key] for key in ("skipped", "missing", "read"))
    return "read as before" if same else "losses reported"


if __name__ == "__main__":
    sys.exit(main())
