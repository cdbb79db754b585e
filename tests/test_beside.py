"""Tables in terminals: as they are, with their rows side by side, or as a list; numbers stay whole, none is lost."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from selfimprove.report.beside import Beside
from selfimprove.report.evaluation_tables import evaluation_views
from selfimprove.report.events import read_events
from selfimprove.report.part import parts_of
from selfimprove.report.table import Col, Table, count, interval, rate

GOLDEN = Path(__file__).parent / "golden" / "report"
_NUMBER = re.compile(r"[+-]?\d+\.\d+")


def measured(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.0625, "high": value + 0.0625}


def table(policies: int, figures: int = 4) -> Table:
    rows = [
        {"suite": "words", "policy": f"policy {place}", "n": 100 + place}
        | {f"f{one}": measured(place / 10 + one / 7) for one in range(figures)}
        for place in range(policies)
    ]
    cols = [Col(f"figure {one} [95%]", f"f{one}", rate if one % 2 else interval(digits=3)) for one in range(figures)]
    return Table("figures", rows, [Col("suite"), Col("policy"), *cols, Col("n", show=count)])


def printed(what: Any, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(what)
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.mark.parametrize("width", [*range(14, 60, 3), 80, 100, 160])
@pytest.mark.parametrize("policies", [1, 2, 3, 5])
def test_every_number_is_there_and_whole(width: int, policies: int) -> None:
    found = table(policies)
    lines = printed(Beside(found), width)
    wanted = sorted(number for row in found.cells for cell in row for number in _NUMBER.findall(cell))
    assert sorted(_NUMBER.findall("\n".join(lines))) == wanted
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)


def test_a_table_stands_as_it_is_where_it_fits_and_else_with_its_rows_side_by_side() -> None:
    assert printed(Beside(table(2, figures=1)), 80)[0].split("  ")[0] == "suite"
    wide = [re.split(r"  +", line) for line in printed(Beside(table(2)), 80)]
    assert wide[:2] == [["suite", "words", "words"], ["policy", "policy 0", "policy 1"]]
    assert wide[3] == ["figure 0 [95%]", "0.000 [-0.062, 0.062]", "0.100 [0.038, 0.163]"] and wide[-1] == [
        "n",
        "100",
        "101",
    ]


def test_intervals_go_below_their_values_before_a_table_is_divided() -> None:
    lines = printed(Beside(table(3)), 64)
    assert [line.split() for line in lines[3:5]] == [
        ["figure", "0", "0.000", "0.100", "0.200"],
        ["[95%]", "[-0.062,", "0.062]", "[0.038,", "0.163]", "[0.138,", "0.263]"],
    ]
    assert "" not in lines and "" in printed(Beside(table(5)), 80), "at most three side by side"


def test_where_nothing_fits_every_cell_has_a_line() -> None:
    assert printed(Beside(table(1, figures=1)), 20)[:2] == ["suite: words", "  policy: policy 0"]
    assert printed(Beside(Table()), 80) == []


def test_names_are_data() -> None:
    evil = "[red]x[/red] \x1b[31m \u202e " + "y" * 90
    found = Table("t", [{"policy": evil, "a": 1.5}, {"policy": "M1", "a": 2}], [Col("policy"), Col("a [b]", "a")])
    lines = printed(Beside(found), 80)
    assert "[red]x[/red]" in "".join(lines) and not re.search("[\x00-\x1f\u202e]", "".join(lines))
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.jsonl")), ids=lambda path: path.stem)
def test_recorded_evaluations_fit_any_terminal(path: Path, width: int) -> None:
    events = read_events(path)
    lines = [line for view in evaluation_views(events) for line in printed(view, width)]
    assert max(map(len, lines), default=0) <= width
    tables = [found for part in parts_of(events) for found in part.tables if found.printed]
    cells = "\n".join(cell for found in tables for row in found.cells for cell in row)
    assert set(_NUMBER.findall(cells)) <= set(_NUMBER.findall("\n".join(lines)))
