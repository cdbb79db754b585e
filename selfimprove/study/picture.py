"""The picture of a study: start and rounds of each arm with their intervals, as SVG and PNG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from selfimprove.report.summary import metric_of
from selfimprove.report.text import visible

Row = dict[str, Any]
Spec = dict[str, Any]
# Contrast of 4.5 to white and 4.1 to #121212: a file by itself has no page whose colour it takes.
INK = "#767676"
COLOURS = ("#2f7fd0", "#d9662b", "#1f9a6d", "#b565c9", "#a5841f", "#7a8794")
BLUE, GREY = COLOURS[0], COLOURS[-1]


def bars(rows: Sequence[Row], arms: Sequence[str], steps: Sequence[str]) -> Any:
    """A chart of rows with `arm`, `step`, `value`, `low` and `high`, all of one suite; later steps stand out more."""
    import altair as alt

    metric = metric_of(rows[0])
    title = f"{visible(rows[0]['suite'])}: {visible(metric.name)}{' (%)' if metric.unit else ''}"
    keys = ("value", "low", "high")
    data = [
        {"arm": visible(row["arm"]), "step": visible(row["step"]), **{key: metric.scale * row[key] for key in keys}}
        for row in rows
    ]
    alpha = [0.6, *(0.4 + 0.6 * place / max(len(steps) - 1, 1) for place in range(1, len(steps)))]
    order = [visible(step) for step in steps]
    colours = [GREY if step == "start" else BLUE for step in steps]
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("arm:N", sort=[visible(arm) for arm in arms], title=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("step:N", sort=order),
    )
    bar = base.mark_bar().encode(
        y=alt.Y("value:Q", title=title),
        color=alt.Color("step:N", scale=alt.Scale(domain=order, range=colours), title=None, sort=order),
        opacity=alt.Opacity(
            "step:N", scale=alt.Scale(type="ordinal", domain=order, range=alpha), title=None, sort=order
        ),
    )
    interval = base.mark_rule(color=INK, strokeWidth=1.2).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    width = max(360, 60 * len(arms) + 14 * len(arms) * len(steps))
    return (bar + interval).properties(width=width, height=220)


def styled(chart: Any) -> Spec:
    """The chart's specification, transparent, its text readable on light and dark."""
    axis: Spec = {"labelColor": INK, "titleColor": INK, "domainColor": INK, "tickColor": INK, "gridColor": INK}
    axis |= {"gridOpacity": 0.25, "titleFontWeight": "normal", "labelLimit": 0, "titleLimit": 0}
    legend: Spec = {"labelColor": INK, "titleColor": INK, "orient": "top", "labelLimit": 0}
    header: Spec = {"labelColor": INK, "titleColor": INK, "labelFontWeight": "normal"}
    chart = chart.configure(background="transparent", font="sans-serif").configure_view(stroke=None)
    chart = chart.configure_axis(**axis, labelFontSize=11, titleFontSize=11).configure_legend(**legend)
    chart = chart.configure_title(color=INK, fontWeight="normal", anchor="end").configure_header(**header)
    return dict(json.loads(chart.to_json()))


def svg(chart: Any, title: str = "") -> str:
    """The same chart gives the same bytes. `title`: for those who cannot see it, plain text."""
    import vl_convert
    from markupsafe import escape

    drawn: str = vl_convert.vegalite_to_svg(json.dumps(styled(chart)))
    label = escape(visible(title))
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1) if title else drawn


def png(chart: Any) -> bytes:
    """On white, at twice the screen's resolution."""
    import vl_convert

    white = {**styled(chart), "config": {**styled(chart)["config"], "background": "white"}}
    return bytes(vl_convert.vegalite_to_png(json.dumps(white), scale=2))
