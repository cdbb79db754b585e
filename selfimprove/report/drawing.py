"""How each preset of `charts.py` is drawn, by Altair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from selfimprove.report.charts import COLOURS, GREY, INK, ORANGE, WIDTH, Chart, Row
from selfimprove.report.text import visible

_HEIGHT = {"histogram": 80, "heat": 150}
_QUIET: dict[str, Any] = {"aria": False}  # no mark of its own for a pointer or a screen reader
_WORDS: dict[str, Any] = {"color": INK, "fontSize": 11, "limit": 150, **_QUIET}
# of a long name the middle goes: policies of one run differ at the end, those of two runs at the start
_SQUEEZED = "length(datum.label) > 30 ? slice(datum.label, 0, 14) + '…' + slice(datum.label, -15) : datum.label"


def panel(chart: Chart, name: str) -> alt.LayerChart:
    """The rows of one panel, above its reference lines."""
    rows = [_clean(chart, row) for row in chart.rows if str(row.get("panel", "")) == name]
    layers = {
        "dots": _dots, "lines": _lines, "bars": _bars, "histogram": _histogram, "heat": _heat, "spread": _spread,
        "areas": _areas,
    }[chart.kind](chart, rows)  # fmt: skip
    drawn = alt.layer(*_references(chart), *layers)
    categories = len(dict.fromkeys(row.get("x") for row in rows))
    tall = chart.height or (30 * categories + 12 if chart.across else _HEIGHT.get(chart.kind, 190))
    drawn = drawn.properties(height=tall, width=WIDTH)
    return drawn.properties(title=visible(name)) if name else drawn


def _clean(chart: Chart, row: Row) -> dict[str, Any]:
    shown = {key: visible(value) if isinstance(value, str) else value for key, value in row.items()}
    return shown | {"tip": shown.get("tip") or _tip(shown)}


def _tip(row: Row) -> str:
    """What a mark says of itself."""
    said = [str(row["series"])] if "series" in row else []
    said += [f"{row['x']:.4g}" if isinstance(row.get("x"), float) else str(row.get("x", ""))]
    value = row.get("value", row.get("y"))
    interval = f" [{row['low']:.4g}, {row['high']:.4g}]" if None not in (row.get("low"), row.get("high")) else ""
    return " ".join(filter(None, said)) + (f": {value:.4g}{interval}" if isinstance(value, int | float) else "")


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(alt.Data(values=list(rows)))


def _references(chart: Chart) -> list[alt.Chart]:
    """Dashed lines at values, and across the other axis."""
    up = chart.across or chart.kind == "histogram"
    found = []
    for places, axis in ((chart.at, "x" if up else "y"), (chart.at_x, "y" if up else "x")):
        if places:
            channel = alt.X("at:Q") if axis == "x" else alt.Y("at:Q")
            mark = _chart([{"at": one} for one in places]).mark_rule(strokeDash=[5, 3], color=GREY, **_QUIET)
            found.append(mark.encode(channel))
    if isinstance(chart.at_x, Mapping) and not up:
        for row, (place, said) in enumerate(chart.at_x.items()):
            mark = _chart([{"at": place, "name": visible(said)}]).mark_text(align="left", dx=4, **_WORDS)
            found.append(mark.encode(alt.X("at:Q"), alt.YValue(8 + 13 * row), alt.Text("name:N")))
    if chart.diagonal:
        ends = [{"x": end, "y": end} for end in chart.diagonal]
        mark = _chart(ends).mark_line(strokeDash=[5, 3], strokeWidth=1, color=GREY, **_QUIET)
        found.append(mark.encode(alt.X("x:Q"), alt.Y("y:Q")))
    return found


def _numeric(rows: Sequence[Row]) -> bool:
    return all(isinstance(row.get("x"), int | float) for row in rows)


def _place(chart: Chart, rows: Sequence[Row], **scale: Any) -> Any:
    """The axis of `x`: numbers as they are, categories in the order of their first row."""
    make = alt.Y if chart.across else alt.X
    if _numeric(rows):
        return make("x:Q").title(chart.x).scale(zero=False, nice=False, padding=6).axis(**_ticks(rows, "x"))
    names = list(dict.fromkeys(row["x"] for row in rows))
    slanted = not chart.across and sum(map(len, names)) > 50
    squeezed = _SQUEEZED.replace("30", "20").replace("14", "9").replace("15", "10") if slanted else _SQUEEZED
    axis = alt.Axis(labelAngle=-30 if slanted else 0, labelExpr=squeezed, labelLimit=220, grid=False)
    return make("x:N").title(None if chart.across else chart.x).sort(names).axis(axis).scale(**scale)


def _ticks(rows: Sequence[Row], key: str, most: int = 10) -> dict[str, Any]:
    """Whole numbers where the values are: each, if there are few; `tickMinStep` alone leaves halves between two."""
    values = [float(row[key]) for row in rows]
    if not all(map(float.is_integer, values)):
        return {}
    low, high = int(min(values)), int(max(values))
    return {"values": list(range(low, high + 1)), "format": "d"} if high - low < most else {"tickMinStep": 1}


def _value(chart: Chart, key: str = "y") -> Any:
    low, high = chart.values
    # a scale with a least value of its own has no round end; zero is asked for in another way
    bounds = {name: one for name, one in (("domainMin", low or None), ("domainMax", high)) if one is not None}
    axis = alt.X if chart.across else alt.Y
    return axis(f"{key}:Q").title(chart.y).scale(zero=low == 0 or chart.kind in ("bars", "areas"), **bounds)


def _colour(rows: Sequence[Row]) -> Any:
    """The colour of each series, or of its `hue`; grey for what is there to compare with."""
    series = {row["series"]: row for row in reversed(rows) if "series" in row}
    names = list(dict.fromkeys(row["series"] for row in rows if "series" in row))
    hues = list(dict.fromkeys(series[name].get("hue", name) for name in names if not series[name].get("grey")))
    shades = [
        GREY if one.get("grey") else COLOURS[hues.index(one.get("hue", name)) % len(COLOURS)]
        for name in names
        for one in [series[name]]
    ]
    if not names:
        return alt.ColorValue(COLOURS[0])
    legend = alt.Legend(symbolOpacity=1) if len(names) > 1 else None
    return alt.Color("series:N").scale(alt.Scale(domain=names, range=shades)).legend(legend)


def _end(chart: Chart, key: str) -> Any:
    return (alt.X2 if chart.across else alt.Y2)(f"{key}:Q")


def _dots(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    base, beside = _chart(rows), []
    if len({row.get("series") for row in rows}) > 1 and not _numeric(rows):
        beside = [alt.YOffset("series:N").sort(None) if chart.across else alt.XOffset("series:N").sort(None)]
    place = _place(chart, rows, paddingInner=0.5, paddingOuter=0.25)
    common = [place, _colour(rows), *beside]
    layers = []
    if chart.joined:
        line = base.transform_filter("!isValid(datum.size)").mark_line(opacity=0.4, strokeWidth=1.6, **_QUIET)
        layers.append(line.encode(*common, _value(chart)))
    bounded = base.transform_filter("isValid(datum.low) && isValid(datum.high)")
    layers.append(
        bounded.mark_rule(strokeWidth=1.8, **_QUIET).encode(*common, _value(chart, "low"), _end(chart, "high"))
    )
    told = alt.Description("tip:N")
    for ring, sized in sorted({(bool(row.get("ring")), "size" in row) for row in rows}):
        own = f"{'' if ring else '!'}datum.ring && {'' if sized else '!'}isValid(datum.size)"
        area = [alt.Size("size:Q").scale(range=[0, 160], zero=True).legend(None)] if sized else []
        mark = base.transform_filter(own).mark_point(
            filled=not ring, size=50 if len(rows) < 200 else 14, strokeWidth=1.8, opacity=0.55 if sized else 0.95
        )
        layers.append(mark.encode(*common, _value(chart), told, *area))
    if named := [row for row in rows if "name" in row]:
        mark = _chart(named).mark_text(align="left", dx=8, dy=-6, **_WORDS)
        layers.append(mark.encode(place, _value(chart), alt.Text("name:N")))
    return layers


def _lines(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    layers = []
    for pale in (True, False):
        some = [row for row in rows if bool(row.get("pale")) is pale]
        if some:
            few = len({row["x"] for row in some}) < 20 and not pale and not chart.stairs
            point: Any = alt.OverlayMarkDef(size=28) if few else False
            mark = _chart(some).mark_line(
                strokeWidth=1 if pale else 2,
                opacity=0.35 if pale else 1,
                point=point,
                aria=not pale,
                interpolate="step-after" if chart.stairs else "linear",
            )
            dashes = [alt.StrokeDash("dash:N").legend(None)] if any("dash" in row for row in rows) else _greys(rows)
            apart = [alt.Detail("line:N")] if any("line" in row for row in rows) else []
            told = alt.Description("tip:N")
            layers.append(mark.encode(_place(chart, rows), _value(chart), _colour(rows), told, *dashes, *apart))
    return layers


def _greys(rows: Sequence[Row]) -> list[Any]:
    """Dashes tell apart the series that are all grey."""
    series = {row["series"]: bool(row.get("grey")) for row in rows if "series" in row}
    if not any(series.values()):
        return []
    greys = [name for name, grey in series.items() if grey]
    dashes = [_DASHES[greys.index(name) % len(_DASHES)] if grey else [1, 0] for name, grey in series.items()]
    return [alt.StrokeDash("series:N").scale(alt.Scale(domain=list(series), range=dashes))]


_DASHES = [[6, 3], [1, 0], [8, 3, 2, 3], [2, 2], [12, 4], [1, 4]]


def _bars(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    value = _value(chart).stack("zero")
    order = alt.Order("place:Q")
    numbered = [{**row, "place": place} for place, row in enumerate(rows)]
    bars = [row for row in numbered if "y" in row]
    layers = [
        _chart(bars).mark_bar().encode(_place(chart, rows), value, _colour(rows), alt.Description("tip:N"), order)
    ]
    ticks = [row for row in numbered if "tick" in row]
    if ticks:
        mark = _chart(ticks).mark_tick(thickness=2.5, color=INK, **_QUIET)
        layers.append(mark.encode(_place(chart, rows), _value(chart, "tick")))
    bounded = [row for row in bars if None not in (row.get("low"), row.get("high"))]
    if bounded:
        mark = _chart(bounded).mark_rule(color=INK, **_QUIET)
        layers.append(mark.encode(_place(chart, rows), _value(chart, "low"), _end(chart, "high")))
    return layers


def _histogram(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    assert chart.bins is not None
    low, high, many = chart.bins
    step = (high - low) / many
    found = [0] * many
    for row in rows:
        if "x" in row:
            found[min(max(int((row["x"] - low) / step), 0), many - 1)] += 1
    counted = [
        {
            "from": low + step * place,
            "to": low + step * (place + 1),
            "y": one,
            "tip": f"{low + step * place:.3g}: {one}",
        }
        for place, one in enumerate(found)
    ]
    across = alt.X("from:Q").title(chart.x).scale(domain=[low, high], nice=False)
    height = alt.Y("y:Q").title(chart.y).axis(tickCount=3, **_ticks([{"y": 0}, *counted], "y", 4))
    mark = _chart(counted).mark_bar(color=COLOURS[0], opacity=0.8)
    layers = [mark.encode(across, alt.X2("to:Q"), height, alt.Y2Datum(0), alt.Description("tip:N"))]
    if means := [{"mean": row["mean"]} for row in rows if "mean" in row]:
        layers.append(_chart(means).mark_rule(color=ORANGE, strokeWidth=2, **_QUIET).encode(alt.X("mean:Q")))
    return layers


def _heat(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    names = list(dict.fromkeys(row["y"] for row in rows))
    base = _chart(rows).encode(_place(chart, rows), alt.Y("y:N").title(chart.y).sort(names).axis(grid=False))
    shade = alt.Opacity("value:Q").legend(None).scale(range=[0.08, 0.85])
    return [
        base.mark_rect(color=COLOURS[0]).encode(shade, alt.Description("tip:N")),
        base.mark_text(color=INK, fontSize=11, **_QUIET).encode(alt.Text("text:N")),
    ]


def _spread(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    beside = [alt.XOffset("series:N").sort(None)] if len({row.get("series") for row in rows}) > 1 else []
    base, common = _chart(rows), [_place(chart, rows, paddingInner=0.5, paddingOuter=0.25), _colour(rows), *beside]
    thin = base.mark_rule(strokeWidth=1.2, **_QUIET).encode(*common, _value(chart, "low"), _end(chart, "high"))
    thick = base.mark_rule(strokeWidth=8, opacity=0.5, **_QUIET).encode(
        *common, _value(chart, "first"), _end(chart, "third")
    )
    dot = base.mark_point(filled=True, size=50, opacity=1).encode(*common, _value(chart), alt.Description("tip:N"))
    return [thin, thick, dot]


def _areas(chart: Chart, rows: Sequence[Row]) -> list[alt.Chart]:
    mark = _chart(rows).mark_area(opacity=0.85, **_QUIET)
    return [mark.encode(_place(chart, rows), _value(chart).stack("zero"), _colour(rows))]
