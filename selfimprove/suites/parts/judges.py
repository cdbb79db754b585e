"""How far judges can be trusted: their verdicts on pairs whose better output is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import Chart, dots
from selfimprove.report.evaluated import BARS, cost_cols, missing, point
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, judge_evaluations_of, text
from selfimprove.report.table import Col, Table, as_dict, count, rate

_DRAWN = {
    "accuracy": ("accuracy",),
    "agreement with people": ("human", "judge"),
    "ceiling": ("human", "ceiling"),
    "flips with the order": ("flip_rate",),
}


def judges_part(events: Sequence[Event]) -> Part:
    """Judges that were measured on labelled pairs."""
    rows = judge_evaluations_of(events)
    return Part(
        "Can the judge be trusted?",
        "The judge was asked about pairs whose better output is known. Accuracy is the mean over both orders, or "
        "that of the higher score where each output was rated by itself; guessing gives 50%. "
        "Where several people labelled each pair, one annotator after another is left out: the "
        "ceiling is how often the one left out agrees with the majority of the others, the agreement with people "
        "how often the judge does. No judge can be expected to pass the ceiling. "
        "Longer preferred: among the decided pairs, those in which the longer output won; by the labels it should "
        "be the share beside it.",
        [_verdicts(rows)],
        [_judges(rows), _groups(rows)],
        notes=["[95%]: over the pairs. First shown won: 50% where the order does not matter."],
        place="judges",
    )


def _judges(rows: Sequence[Event]) -> Table:
    cols = [
        Col("judge"),
        Col("rubric"),
        Col("data"),
        Col("order"),
        Col("pairs", "n", count),
        Col("accuracy, % [95%]", "accuracy", rate),
        Col("accuracy, first order, %", "accuracy_first_order", rate),
        Col("agreement with people, % [95%]", "human.judge", rate),
        Col("ceiling, % [95%]", "human.ceiling", rate),
        Col("flips, % [95%]", "flip_rate", rate),
        Col("ties, %", "tie_rate", rate),
        Col("first shown won, % [95%]", "first_rate", rate),
        Col("longer preferred, % [95%]", "longer_rate", rate),
        Col("longer by the labels, %", _label_longer, rate),
        Col("missing", lambda row: {key: row.get(key) for key in ("missing_rate", "missing")}, _missing),
        *cost_cols("cost"),
    ]
    return Table("Judges", rows, cols, printed=True)


def _label_longer(row: Event) -> Any:
    """The share of decided pairs whose better output by the labels is the longer one."""
    found = row.get("label_longer_rate")
    return dig(row, "longer_rate", "label_longer_rate") if found is None else found


def _missing(found: dict[str, Any]) -> str:
    share, reasons = rate(found["missing_rate"]), missing(found["missing"])
    return f"{share}%: {reasons}" if share and reasons not in ("", "0") else reasons


def _groups(rows: Sequence[Event]) -> Table:
    found = [
        {"judge": row.get("judge"), "data": row.get("data"), "group": group, "figures": figures}
        for row in rows
        for group, figures in as_dict(row.get("groups")).items()
    ]
    cols = [
        Col("judge"),
        Col("data"),
        Col("group"),
        Col("accuracy, %", "figures", rate),
        Col("pairs", "figures.n", count),
    ]
    return Table("Accuracy of the judges by group", found, cols, printed=True)


def _verdicts(rows: Sequence[Event]) -> Chart:
    """A panel for each judge: its name is too long for an axis."""
    found = [
        one
        for row in rows
        for name, keys in _DRAWN.items()
        for one in point(
            name,
            dig(row, *keys),
            scale=100,
            hue=name,
            ring=name in ("ceiling", "flips with the order"),
            panel=text(row.get("judge")) + (f" on {row['data']}" if row.get("data") else ""),
        )
    ]
    note = (
        f"{BARS} Dashed: 50%, what guessing gets right. Ceiling: people's agreement among themselves. Fewer flips are "
        "better."
    )
    return dots(
        "The judge's verdicts", found, "", "share of the pairs (%)", note, across=True, at=[50], values=(0, 100)
    )
