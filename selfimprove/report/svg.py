"""How a chart becomes SVG: by Altair and vl-convert, without a script, the same bytes every time."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from markupsafe import Markup, escape

from selfimprove.report.charts import COLOURS, GREY, INK, WIDTH, Chart
from selfimprove.report.text import visible


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
    return Markup(drawn.replace(INK, "currentColor"))


def spec(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite."""
    import altair as alt

    from selfimprove.report.drawing import panel

    chart = replace(chart, x=visible(chart.x), y=visible(chart.y))
    drawn = [panel(chart, name) for name in chart.panels]
    whole = drawn[0] if len(drawn) == 1 else alt.vconcat(*drawn, spacing=14)
    return dict(whole.configure(**_LOOK).to_dict())


_AXIS = {
    "labelColor": INK, "titleColor": INK, "domainColor": GREY, "tickColor": GREY, "gridColor": GREY,
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
        "labelColor": INK,
        "labelFontSize": 12,
        "labelLimit": 170,
        "columns": 3,
        "columnPadding": 20,
    },
    "title": {"color": INK, "anchor": "start", "fontWeight": "normal", "fontSize": 12},
    "range": {"category": list(COLOURS)},
}
