"""Put the record docs/performance.json into the page docs/performance.md.

python -m fastgha_cli bench all -o docs/performance.json
python tools/performance_page.py
"""

from __future__ import annotations

from pathlib import Path

from pipeline.bench.record import Record, page, read_record

DOCS = Path(__file__).parents[1] / "docs"
RECORD, PAGE = DOCS / "performance.json", DOCS / "performance.md"
BEGIN, END = (
    "<!-- figures: made by tools/performance_page.py -->\n",
    "<!-- end of the figures -->\n",
)
NONE = "No record has been made of this version yet: `make bench`.\n"


def main() -> None:
    """Replace the figures of the page."""
    text = with_figures(PAGE.read_text(encoding="utf-8"), kept())
    PAGE.write_text(text, encoding="utf-8", newline="\n")


def kept() -> Record | None:
    """Return the record beside the page, if one has been made of this version."""
    return read_record(RECORD) if RECORD.exists() else None


def with_figures(text: str, record: Record | None) -> str:
    """Return the page with a record's figures in place of those it has."""
    before, rest = text.split(BEGIN)
    figures = NONE if record is None else f"Of [this record]({RECORD.name}).\n\n{page(record)}"
    return before + BEGIN + "\n" + figures + "\n" + rest[rest.index(END) :]


if __name__ == "__main__":
    main()
