"""Damage small files of every kind that a user can hand over, and read them; tell what came out.

Example:  python tools/fuzz.py --count 2000
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.fuzzing import cases
from tests.fuzzing.targets import TARGETS


def main() -> int:
    """Run; the exit code is 1 if anything but a clear error or a whole result came out."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--count", type=int, default=2000)
    options.add_argument("--first", type=int, default=0, help="of the numbers; goes on with a run")
    options.add_argument("--seed", type=int, help="a fresh one if left out; printed")
    options.add_argument("--target", choices=sorted(TARGETS))
    options.add_argument("--only", type=int, metavar="NUMBER", help="one case of --target again")
    options.add_argument("--json", type=Path)
    args = options.parse_args()
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    chosen = cases.numbered(args.first + args.count, args.target)[args.first :]
    if args.only is not None:
        if args.target is None:
            options.error("--only needs --target")
        chosen = [(args.only, args.target)]
    print(f"{len(chosen)} cases, --seed {seed}", flush=True)
    start = time.perf_counter()
    outcome: Counter[str] = Counter()
    by_target: dict[str, Counter[str]] = {}
    failures: list[dict[str, str]] = []
    facts: dict[str, object] = {"first": args.first, "seed": seed}
    for done, case in enumerate(cases.run(seed, chosen), 1):
        outcome[case.outcome] += 1
        by_target.setdefault(case.target, Counter())[case.outcome] += 1
        if case.failed:
            failures.append({"again": case.line, "what": case.what, "detail": case.detail})
            print(f"{case.outcome}: {case.line}\n  {case.what}\n  {case.detail}", flush=True)
        elif args.only is not None:
            print(f"{case.outcome}: {case.what}")
        if args.json and (done % 500 == 0 or done == len(chosen)):
            facts |= {
                "count": done,
                "seconds": round(time.perf_counter() - start, 1),
                "outcome": dict(outcome),
                "by target": {name: dict(found) for name, found in sorted(by_target.items())},
                "failures": failures,
            }
            args.json.write_text(json.dumps(facts, indent=1))
    print(f"{time.perf_counter() - start:.1f} s: {dict(outcome)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
