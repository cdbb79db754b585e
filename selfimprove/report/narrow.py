"""Tables for terminals of any width."""

from __future__ import annotations

import copy
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text


class NarrowTable(Table):
    """A table that gives up its last columns where the terminal is too narrow for them, and becomes a list of lines
    where even its first `keep` do not fit: a number is never cut."""

    def __init__(self, *headers: Any, keep: int = 3, **options: Any) -> None:
        super().__init__(*headers, **options)
        self.keep = keep

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fitting = copy.copy(self)
        fitting.columns = [copy.copy(column) for column in self.columns]
        for column in fitting.columns:  # columns go before the first ones are wrapped
            column.min_width = min(_needed(column, whole=True), column.max_width or 10**6)
        while len(fitting.columns) > self.keep and _least(fitting, console, options) > options.max_width:
            fitting.columns.pop()
        for column in fitting.columns:
            column.min_width = min(_needed(column, whole=column.no_wrap), column.max_width or 10**6)
        if _least(fitting, console, options) <= options.max_width:
            yield from Table.__rich_console__(fitting, console, options)
            if left_out := len(self.columns) - len(fitting.columns):
                more = "column" if left_out == 1 else "columns"
                yield Text(f"{left_out} more {more} in a wider terminal.", style="dim")
        else:
            yield from self._as_lines()

    def _as_lines(self) -> RenderResult:
        rows = list(zip(*(list(column.cells) for column in self.columns), strict=True))
        if self.title:
            yield Text.from_markup(str(self.title))
        for row in rows:
            for place, (column, cell) in enumerate(zip(self.columns, row, strict=True)):
                name, value = (" ".join(_plain(one).split()) for one in (column.header, cell))
                yield Text(f"{'  ' * bool(place)}{name}: {value}")
        if self.caption:
            yield Text.from_markup(str(self.caption))


def _plain(cell: Any) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)


def _needed(column: Column, whole: bool) -> int:
    """Width (cells) of the column's longest line, or (not `whole`) of its longest word, below which it would be cut."""
    lines = [line for cell in (column.header, *column.cells) for line in _plain(cell).splitlines()]
    return max((Text(part).cell_len for line in lines for part in ([line] if whole else line.split())), default=0)


def _least(table: Table, console: Console, options: ConsoleOptions) -> int:
    return table.__rich_measure__(console, options.update(max_width=10**6)).minimum
