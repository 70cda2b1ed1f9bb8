"""Put a record of `fastgha bench all` into docs/performance.md.

python tools/performance_page.py bench.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.bench.record import Record, page, read_record

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
BEGIN, END = (
    "<!-- figures: made by tools/performance_page.py -->\n",
    "<!-- end of the figures -->\n",
)


def main() -> None:
    """Replace the figures of the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path)
    record = read_record(parser.parse_args().record)
    PAGE.write_text(with_figures(PAGE.read_text(encoding="utf-8"), record), encoding="utf-8")


def with_figures(text: str, record: Record) -> str:
    """Return the page with a record's figures in place of those it has."""
    before, rest = text.split(BEGIN)
    return before + BEGIN + "\n" + page(record) + "\n" + rest[rest.index(END) :]


if __name__ == "__main__":
    main()
