"""Ratings of answers, each by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import COLOURS, Chart, dots
from selfimprove.report.evaluated import BARS, NAMES, cost_cols, evaluated, missing, names_in, point
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.judged_examples import Judged, Side, examples_of, words
from selfimprove.report.part import Part
from selfimprove.report.summary import in_rounds, number, text
from selfimprove.report.table import Col, Table, as_dict, count, interval

KEY = "rating"


def rating_part(events: Sequence[Event]) -> Part:
    """Suites whose judge rates every answer."""
    rows = evaluated(events, KEY)
    return Part(
        "How is it rated?",
        "A judge rates every answer by itself. Intervals are over the questions.",
        [_by_policy(rows, joined=in_rounds(events)), _by_group(rows)],
        [_ratings(rows), groups("Rating by group", events, KEY)],
        examples_of(rows, _example, "Judged outputs"),
        place="quality",
    )


def _ratings(rows: Sequence[Any]) -> Table:
    value = interval(digits=2)
    cols = [
        *NAMES,
        Col("scale", lambda row: [row["own"].get(end) for end in ("low", "high")], _scale),
        Col("rating [95%]", "value", value),
        *(Col(f"turn {turn} [95%]", f"own.turns.{turn}", value) for turn in names_in(rows, "own", "turns")),
        Col("change [95%]", "event.paired", interval("difference", digits=2, sign=True)),
        Col("changed from", "event.paired.against"),
        Col("n", "event.n", count),
        Col("missing", "own.missing", missing),
        Col("mean length, characters", "own.mean_length", count),
        Col("truncated", "own.truncated", count),
        Col("judge", "own.judge"),
        Col("rubric", "own.rubric"),
        *cost_cols("own.cost"),
    ]
    return Table("Ratings", rows, cols)


def _scale(ends: Sequence[Any]) -> str:
    shown = [text(end) for end in ends]
    return " to ".join(shown) if all(shown) else ""


def _by_policy(rows: Sequence[Any], joined: bool) -> Chart:
    """All turns together and each turn by itself."""
    found = [
        one
        for row in rows
        for name, source in [
            ("all turns", row["event"]),
            *((f"turn {turn}", figures) for turn, figures in as_dict(row["own"].get("turns")).items()),
        ]
        for one in point(row["policy"], source, series=name, ring=name != "all turns", panel=row["panel"])
    ]
    return dots("Rating by policy", found, "policy", "rating", BARS, joined=joined)


def _by_group(rows: Sequence[Any]) -> Chart:
    """Of many policies the last ones, as there are colours."""
    rated = list(dict.fromkeys(row["policy"] for row in rows))[-len(COLOURS) :]
    found = [
        {"x": f"{row['panel']}: {group}" if row["panel"] else group, "y": one["y"], "series": row["policy"]}
        for row in rows
        if row["policy"] in rated
        for group, figures in as_dict(row["event"].get("groups")).items()
        for one in point(group, figures)
    ]
    note = "Means; how many rated answers is in the table."
    return dots("Rating by group", found, "", "rating", note, across=True)


def _example(row: Any, one: dict[str, Any]) -> Judged:
    rating, scale = number(one.get("rating")), _scale([row["own"].get(end) for end in ("low", "high")])
    return Judged(
        prompt=words(one.get("prompt")),
        figures=[("rating", f"{rating:g}" + (f" ({scale})" if scale else ""))] if rating is not None else [],
        why="" if rating is not None else text(one.get("why")) or "unknown",
        sides=[
            Side(row["policy"], "", words(one.get("output"))),
            Side("the judge", text(row["own"].get("judge")), words(one.get("verdict"))),
        ],
    )
