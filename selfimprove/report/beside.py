"""Tables in terminals of any width: as they are where they fit, otherwise with their rows side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table as Grid
from rich.text import Text

from selfimprove.report.table import Table
from selfimprove.report.text import visible

_MOST = 3  # rows side by side
_BOX = box.Box("    \n    \n    \n    \n ── \n    \n    \n    \n")  # a line below what names the columns


@dataclass(frozen=True)
class Beside:
    """A table for a console. A number is never cut: intervals stand below their values where there is no room beside
    them, and where nothing fits, every cell has a line of its own."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if not self.table:
            return
        upright = [self.table.columns, *self.table.cells]
        turned = [list(line) for line in zip(*upright, strict=True)]
        names, width = self.table.names, len(upright[0])
        layouts = [(_Layout(upright, 1, names), width - names)]
        layouts += [
            (_Layout(turned, names, 1), together) for together in range(min(_MOST, len(self.table.rows)), 0, -1)
        ]
        for layout, together in layouts:
            for below in (False, True):
                grids = layout.grids(together, below)
                if all(
                    console.measure(grid, options=options.update(max_width=10**6)).maximum <= options.max_width
                    for grid in grids
                ):
                    for place, grid in enumerate(grids):
                        yield from [Text("")] * bool(place)
                        yield grid
                    return
        yield from self._listed()

    def _listed(self) -> Iterator[Text]:
        for row in self.table.cells:
            for place, (name, cell) in enumerate(zip(self.table.columns, row, strict=True)):
                yield Text(f"{'  ' * bool(place)}{_line(name)}: {_line(cell) or '-'}")


@dataclass(frozen=True)
class _Layout:
    """Lines of cells: the first `heads` lines and the first `names` cells of each say what the others are."""

    lines: list[list[str]]
    heads: int
    names: int

    def grids(self, together: int, below: bool) -> list[Grid]:
        """So many columns at a time, beside the names."""
        return [self._grid(start, together, below) for start in range(self.names, len(self.lines[0]), together)]

    def _grid(self, start: int, together: int, below: bool) -> Grid:
        grid = Grid(box=_BOX, show_edge=False, show_header=False, padding=(0, 1), collapse_padding=True, pad_edge=False)
        places = [*range(self.names), *range(start, min(start + together, len(self.lines[0])))]
        for place in places:
            grid.add_column(no_wrap=True, justify="left" if place < self.names else "right", vertical="top")
        for number, line in enumerate(self.lines):
            head = number < self.heads
            cells = [
                _folded(line[place], 34 if place < self.names and not head else 22 if head else 26, below and not head)
                for place in places
            ]
            grid.add_row(*cells, style="bold" if head else "", end_section=number == self.heads - 1)
        return grid


def _folded(cell: str, width: int, below: bool) -> Text:
    """A cell in lines of so many places; `below`: its first interval begins one."""
    shown = _line(cell) or "-"
    whole = Text(shown.replace(" [", "\n[", 1) if below else shown)
    return Text("\n").join(whole.wrap(_PLAIN, width, overflow="fold"))


def _line(cell: str) -> str:
    return " ".join(visible(cell).split())


_PLAIN = Console(width=1000)
