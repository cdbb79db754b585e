"""Charts as data, and how they become SVG: by Altair and vl-convert, without a script, the same bytes every time.

A row is a mapping with `x` and `y`, and what else the preset reads: `low` and `high` (an interval), `series` (its
colour), `hue` (what decides it instead, for series that belong together), `grey` (something to compare with), `line`
(of a series, what no line joins to the rest), `panel` (charts one below the other), `ring` (drawn hollow), `size` (the
area of a dot, which no line joins), `name` (written beside it), `tip` (what a pointer is told).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from markupsafe import Markup, escape

from selfimprove.report.text import visible

# Each has a contrast of at least 3.5 to white and to the page's dark background.
COLOURS = ("#2f7fd0", "#d9662b", "#1f9a6d", "#b565c9", "#a5841f", "#7a8794")
BLUE, ORANGE, GREEN, *_, GREY = COLOURS
_INK = "#010203"  # replaced by currentColor, so that the page decides
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


def svg(chart: Chart, name: str) -> Markup:
    """The chart as an element of a page. `name` begins its ids, which differ on a page."""
    import vl_convert

    drawn: str = vl_convert.vegalite_to_svg(spec(chart), show_warnings=False)
    drawn = re.sub(r'(\bid="|url\(#)', rf"\g<1>{name}-", drawn[drawn.index("<svg") :])
    # what a mark says of itself to a screen reader is told to a pointer too
    drawn = re.sub(
        r'<path aria-label="([^"]*)"([^>]*?)(/>|></path>)', r'<path aria-label="\1"\2><title>\1</title></path>', drawn
    )
    label = escape(visible(chart.title))
    drawn = re.sub(
        r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{label}" id="{name}">', drawn
    )
    return Markup(drawn.replace(_INK, "currentColor"))


def spec(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite."""
    import altair as alt

    from selfimprove.report.drawing import panel

    chart = replace(chart, x=visible(chart.x), y=visible(chart.y))
    drawn = [panel(chart, name) for name in chart.panels]
    whole = drawn[0] if len(drawn) == 1 else alt.vconcat(*drawn, spacing=14)
    return dict(whole.configure(**_LOOK).to_dict())


_AXIS = {
    "labelColor": _INK, "titleColor": _INK, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
    "gridOpacity": 0.25, "titleFontWeight": "normal", "labelFontSize": 12, "titleFontSize": 12, "labelLimit": 190,
    "titleLimit": WIDTH,
}  # fmt: skip
_LOOK: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    # a browser's letters are up to an eighth wider than those that the places were measured with
    "padding": {"left": 16, "right": 16, "top": 4, "bottom": 4},
    "view": {"stroke": None, "continuousWidth": WIDTH, "discreteWidth": WIDTH},
    "axis": _AXIS,
    "legend": {
        "orient": "top",
        "title": None,
        "labelColor": _INK,
        "labelFontSize": 12,
        "labelLimit": 170,
        "columns": 3,
        "columnPadding": 20,
    },
    "title": {"color": _INK, "anchor": "start", "fontWeight": "normal", "fontSize": 12},
    "range": {"category": list(COLOURS)},
}
