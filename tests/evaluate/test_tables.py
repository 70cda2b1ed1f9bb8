"""Results, and the tables made of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import ConfigError, FormatError
from pipeline.evaluate import results, tables
from pipeline.evaluate.metrics import METRICS
from pipeline.evaluate.protocol import read
from pipeline.evaluate.results import Figure, Result, interval
from tests.evaluate.toys import TOY


def test_the_papers_figures_are_in_the_protocols():
    assert tables.paper_rows(read("ava256-same"), 1)["FastGHA (both)"].PSNR == 22.5
    assert tables.paper_rows(read("ava256-mixed"), 3)["full"].AKD == 4.996
    assert tables.paper_rows(read("synthetic-mixed"), 5)["features-64"].SSIM == 0.755
    assert tables.paper_rows(read("nersemble-one"), 6)["one, fine-tuned"].CSIM == 0.730


def test_the_interval_is_over_people_and_missing_faces_are_counted():
    same = interval([[1.0, 1.0], [1.0, 1.0]], 0)
    assert (same.mean, same.low, same.high, same.count) == (1, 1, 1, 4)
    # Two people who differ: drawn again, both may be the one or the other.
    wide = interval([[0.0] * 100, [1.0] * 100], 0)
    assert (wide.mean, wide.low, wide.high) == (0.5, 0.0, 1.0)
    lost = interval([[2.0, float("nan")], [4.0]], 0)
    assert (lost.mean, lost.count, lost.failed) == (3.0, 2, 1)
    nobody = interval([[float("nan")]], 0)
    assert nobody.count == 0 and nobody.failed == 1 and np.isnan(nobody.mean)


def result(method: str, psnr_mean: float, **changes: object) -> Result:
    values = {"PSNR": Figure(psnr_mean, psnr_mean - 1, psnr_mean + 1, 6, 0)}
    made = Result(
        method, "toy", TOY.hash, "s", "", 2, values, {"PSNR": "PSNR, dB", "LPIPS": "LPIPS (x)"},
        {"LPIPS": "no file"}, {"net": "1"}, {},
    )  # fmt: skip
    return replace(made, **changes)


def test_results_of_other_pictures_or_networks_never_share_a_table(tmp_path: Path):
    for change in ({"protocol_hash": "x"}, {"selection": "x"}, {"nets": {"net": "2"}}):
        with pytest.raises(ConfigError):
            tables.comparison([result("a", 20), result("b", 21, **change)], TOY, None)
    path = tmp_path / "r.json"
    path.write_text(json.dumps(result("a", 20).to_json()))
    assert results.read(path) == result("a", 20)
    path.write_text("{}")
    with pytest.raises(FormatError, match=r"r\.json is not a result"):
        results.read(path)


def test_a_table_has_measured_and_paper_columns_and_prints_everywhere():
    protocol = read("synthetic-mixed")
    mine = [result("full", 20), result("full", 22), result("no-geo", 20.5)]
    table = tables.comparison(mine, protocol, 3)
    rows = {row[0]: row for row in table.rows}
    assert rows["full"][1] == "21.00 ±1.00" and rows["full"][2] == "-"
    assert "PSNR (paper)" in table.columns and rows["sapiens"][1] == ""
    assert rows["no-geo"][table.columns.index("PSNR (paper)")] == "21.132"
    assert any("no file" in note for note in table.notes)
    assert table.csv().splitlines()[0].startswith(',"PSNR, dB"')
    assert r"\begin{tabular}" in table.latex() and "no-geo & 20.50" in table.latex()
    measured, paper = table.parts()
    assert len(measured.rows) == 2 and len(paper.rows) == 5


@pytest.mark.parametrize("name", ["=1+1", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", " =1"])
def test_no_name_is_a_formula_in_a_spreadsheet(name: str):
    table = tables.Table("t", ("", name), ((name, "1"),))
    for row in csv.reader(io.StringIO(table.csv())):
        assert not any(cell.lstrip().startswith(("=", "+", "-", "@")) for cell in row)
        assert f"'{name}" in row


def test_numbers_stay_numbers_in_a_spreadsheet():
    row = ("full", "-1.25", "-1.2e-05", "-1.20 ±0.30", "-", "")
    text = tables.Table("t", ("",) * len(row), (row,)).csv()
    assert next(reversed(list(csv.reader(io.StringIO(text))))) == list(row)


def test_no_name_is_a_command_in_latex():
    names = {
        r"\input{/etc/passwd}": r"\textbackslash{}input\{/etc/passwd\}",
        r"\write18{ls}": r"\textbackslash{}write18\{ls\}",
        "a&b%c#d_e$f": r"a\&b\%c\#d\_e\$f",
        "~^": r"\textasciitilde{}\textasciicircum{}",
        "[5pt]": "{[}5pt]",
        "*": "{*}",
        "a\n\\b\r\u2028c": r"a \textbackslash{}b  c",
    }
    for name, printed in names.items():
        lines = tables.Table(name, ("", name), ((name, "1"),), (name,)).latex().splitlines()
        assert lines[:2] == [f"% {printed}"] * 2 and len(lines) == 9
        assert lines[4] == rf" & {printed} \\" and lines[5:7] == [r"\hline", rf"{printed} & 1 \\"]


def test_orderings_tell_whether_the_papers_direction_came_out():
    mine = [result("full", 20), result("full", 22), result("no-geo", 19), result("no-geo", 22.5)]
    row = tables.orderings(mine, 3).rows[0]
    assert row[0] == "no-geo" and row[1] == "yes (1/2)"
    assert len(row) == 1 + len(METRICS) and row[3] == "-"


def test_differences_are_taken_person_by_person():
    people = {"a": 10.0, "b": 30.0, "c": 20.0}
    better = {"a": 10.5, "b": 30.5, "c": 20.5}
    mine = [
        replace(result(name, 20), people={who: {"PSNR": psnr} for who, psnr in values.items()})
        for name, values in (("full", people), ("full", better), ("no-geo", better))
    ]
    row = tables.paired(mine, "full").rows[0]
    assert row[:2] == ("no-geo", "0.50 ±0.00")  # what people differ by is in neither
    mine.append(replace(mine[0], method="no-geo"))
    assert tables.paired(mine, "full").rows[0][1] == "0.00 ±0.00"  # of two seeds
    assert tables.paired([result("full", 20), result("no-geo", 21)], "full").rows[0][1] == "-"
