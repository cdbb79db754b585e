"""Recorded events of every method and kind of suites, and the cells that their report has always shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfimprove.report.events import read_events
from selfimprove.report.general import GENERAL
from selfimprove.report.part import Part, parts_of

GOLDEN = Path(__file__).parent / "golden" / "report"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.jsonl"))


def shown(part: Part) -> dict[str, Any]:
    return {
        "text": part.text,
        "charts": [chart.title for chart in part.charts],
        "tables": {table.title: [table.columns, table.cells] for table in part.tables},
        "examples": [group.title for group in part.examples],
    }


@pytest.mark.parametrize("name", NAMES)
def test_recorded_events_give_the_same_cells(name: str) -> None:
    parts = {part.title: shown(part) for part in parts_of(read_events(GOLDEN / f"{name}.jsonl"), GENERAL)}
    wanted = json.loads((GOLDEN / f"{name}.json").read_text())["parts"]
    assert list(parts) == sorted(wanted, key=list(parts).index) and parts == wanted
