"""Tables on terminals of any width: columns go, numbers stay whole."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from selfimprove.report.narrow import NarrowTable

_NUMBER = re.compile(r"[+-]?\d+\.\d+")
_ROWS = [
    ("M0", "16.25 [12.10, 21.40]", "-", "0.0763", "1234.5"),
    ("a-long-name-of-a-policy", "14.20 [10.30, 19.10]", "-2.15 [-4.20, -0.40]", "0.0701", "28.0"),
]
_ALL = {number for row in _ROWS for cell in row for number in _NUMBER.findall(cell)}
_FIRST = {number for row in _ROWS for cell in row[:3] for number in _NUMBER.findall(cell)}


def printed(width: int) -> str:
    table = NarrowTable(title="accuracy in %", caption="change: paired", box=None)
    table.add_column("policy", overflow="ellipsis", no_wrap=True, max_width=8)
    for header in ("accuracy", "change"):
        table.add_column(header, justify="right")
    for header in ("|h|", "length\ntokens"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in _ROWS:
        table.add_row(*row)
    file = io.StringIO()
    Console(file=file, width=width).print(table)
    return file.getvalue()


@pytest.mark.parametrize("width", range(12, 101))
def test_a_number_is_whole_or_not_there(width: int) -> None:
    text = printed(width)
    found = set(_NUMBER.findall(text))
    assert _FIRST <= found <= _ALL
    assert all(len(line) <= width for line in text.splitlines())
    left_out = re.search(r"(\d) more column", text)
    assert (found == _ALL) != bool(left_out), "columns that went are counted"


def test_columns_go_before_intervals_wrap() -> None:
    assert "-2.15 [-4.20, -0.40]" in printed(58) and "0.0763" not in printed(58)
    assert "policy: M0" in printed(14)
