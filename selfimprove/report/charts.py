"""Charts as data; `drawing.py` draws them.

A row is a mapping with `x` and `y`, and what else the preset reads: `low` and `high` (an interval), `series` (its
colour), `hue` (what decides it instead, for series that belong together), `grey` (something to compare with), `line`
(of a series, what no line joins to the rest), `panel` (charts one below the other), `ring` (drawn hollow), `size` (the
area of a dot, which no line joins), `name` (written beside it), `tip` (what a pointer is told).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# Each has a contrast of at least 3.5 to white and to the page's dark background.
COLOURS = ("#2f7fd0", "#d9662b", "#1f9a6d", "#b565c9", "#a5841f", "#7a8794")
BLUE, ORANGE, *_, GREY = COLOURS
INK = "#010203"  # replaced by currentColor, so that the page decides
WIDTH = 380
Row = Mapping[str, Any]
Kind = Literal["dots", "lines", "bars", "histogram", "heat", "spread", "areas"]


@dataclass(frozen=True)
class Chart:
    """One figure; made by a preset below.

    Attributes:
        x, y: what the axes say, with their units.
        joined: a line through the dots of a series.
        across: categories stand on the vertical axis, and values run from left to right.
        stairs: each value of a line holds up to the next one.
        at: dashed lines across the values; at_x: across the other axis, with what each is, if it is said.
        diagonal: a dashed line where both axes say the same, from and to.
        values: what the axis of values shows at least: (low, high), None for what the data say.
        bins: of a histogram: (low, high, how many).
        height: pixels of a panel, None for what the preset takes.
    """

    kind: Kind
    title: str
    rows: Sequence[Row]
    x: str
    y: str
    note: str = ""
    joined: bool = False
    across: bool = False
    stairs: bool = False
    at: Sequence[float] = ()
    at_x: Sequence[float] | Mapping[float, str] = ()
    diagonal: tuple[float, float] | None = None
    values: tuple[float | None, float | None] = (None, None)
    bins: tuple[float, float, int] | None = None
    height: int | None = None

    @property
    def panels(self) -> list[str]:
        return list(dict.fromkeys(str(row.get("panel", "")) for row in self.rows))


def dots(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """Values with their intervals. `x` of a row is a category (text) or a number."""
    return Chart("dots", title, rows, x, y, note, **more)


def lines(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """A line for each series over a numeric x; a row with `pale` belongs to a thin line behind it."""
    return Chart("lines", title, rows, x, y, note, **more)


def bars(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """A bar for each category, its series stacked; `tick` of a row: a mark across the bar."""
    return Chart("bars", title, rows, x, y, note, **more)


def histogram(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """How many rows have an `x` in each of `bins`; a row with `mean` alone draws its panel's mean."""
    return Chart("histogram", title, rows, x, y, note, **more)


def heat(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """A cell for each pair of categories `x` and `y`, as dark as its `value`, which stands in it."""
    return Chart("heat", title, rows, x, y, note, **more)


def spread(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """Where a distribution lies: a line from `low` to `high`, a thick one from `first` to `third`, a dot at `y`."""
    return Chart("spread", title, rows, x, y, note, **more)


def areas(title: str, rows: Sequence[Row], x: str, y: str, note: str = "", **more: Any) -> Chart:
    """Series stacked over a numeric x."""
    return Chart("areas", title, rows, x, y, note, **more)
