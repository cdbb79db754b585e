"""Evaluations of policies and of judges in the terminal: `selfimprove eval`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from selfimprove.report.beside import Beside
from selfimprove.report.evaluated import names_in, price
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.part import parts_of
from selfimprove.report.summary import Metric, dig, evaluations_of, fixed, metric_of, number, numbers, text, total
from selfimprove.report.table import Col, Table, as_dict, count, counts, decimals, measured, rate, shown, signed
from selfimprove.report.text import visible

__all__ = ["evaluation_views", "evaluations_view", "parts_view"]


def evaluation_views(events: Sequence[Event]) -> list[Group]:
    """Everything that there is to print about evaluations, of policies and of judges."""
    return [view for view in (evaluations_view(events), parts_view(events)) if view.renderables]


def evaluations_view(events: Sequence[Event]) -> Group:
    """For every suite a table with one row for each policy, in the order in which they were evaluated, and below it
    what its intervals and changes are, and the groups. To be given to `Console.print`."""
    parts: list[RenderableType] = []
    for suite, by_policy in evaluations_of(events).items():
        metric = metric_of(next(iter(by_policy.values())))
        rows = [
            {"policy": policy, "event": event, "own": as_dict(event.get(metric.kind))}
            for policy, event in by_policy.items()
        ]
        parts += [Text("")] * bool(parts)
        parts += [_line(_title(suite, metric, rows), style="italic"), Beside(_values(rows, metric))]
        parts += [_line(sentence) for sentence in _explanations(metric, by_policy)]
        found = groups("", list(by_policy.values()), metric.kind)
        if len(found.rows) > 1:
            parts += [Text(""), Beside(replace(found, cols=found.cols[1:]))]
    return Group(*parts)


def parts_view(events: Sequence[Event]) -> Group:
    """What the kinds of suites show besides (`Table.printed`), and what has to be known to read it."""
    parts: list[RenderableType] = []
    for part in parts_of(events):
        if tables := [table for table in part.tables if table.printed]:
            parts += [Text(""), _line(part.title, style="bold")]
            for table in tables:
                parts += [Text(""), _line(table.title, style="italic"), Beside(table)]
            parts += [Text(""), *(_line(said) for said in (part.text, *part.notes))]
    return Group(*parts)


def _line(words: str, style: str = "") -> Text:
    return Text(visible(words), style=style)


def _title(suite: str, metric: Metric, rows: Sequence[dict[str, Any]]) -> str:
    name = f"{suite}: {metric.name}" + (" in %" if metric.unit else "")
    against, judge = (
        " or ".join(dict.fromkeys(filter(None, (text(row["own"].get(key)) for row in rows))))
        for key in ("against", "judge")
    )
    scale = [text(rows[0]["own"].get(end)) for end in ("low", "high")]
    name += f" from {scale[0]} to {scale[1]}" if metric.kind == "rating" and all(scale) else ""
    return name + (f" against {against}" if against else "") + (f", judged by {judge}" if judge else "")


def _values(rows: Sequence[dict[str, Any]], metric: Metric) -> Table:
    turns = names_in(rows, "own", "turns")
    cols = [
        Col("policy"),
        Col(metric.name, lambda row: measured(row["event"]), shown),
        Col("change", lambda row: measured(row["event"], "paired"), signed),
        Col("LC win rate", "own.length_controlled", rate),
        *(
            Col(f"turn {name}", f"own.turns.{name}.value", decimals(metric.digits, scale=metric.scale))
            for name in turns
        ),
        Col("n", "event.n", count),
        Col("missing", lambda row: total(row["own"].get("missing")), lambda found: str(found or "")),
        Col("length", "own.mean_length", count),
    ]
    return Table(rows=rows, cols=cols)


def _explanations(metric: Metric, by_policy: dict[str, Event]) -> list[str]:
    """What the intervals and the comparison are, and whatever was missing or counted as wrong."""
    drawn = {"preference": "over instructions", "rating": "over questions", "length_following": "over queries"}
    how = "Wilson's interval" if metric.name == "accuracy" else drawn.get(metric.kind, "over the items")
    sentences = [f"[95%]: {how}"]
    against = sorted({name for event in by_policy.values() if (name := text(dig(event, "paired", "against")))})
    if against:
        points = "in points, " if metric.unit else ""
        sentences.append(f"change: paired, item by item, {points}against {' or '.join(against)}")
    if any(number(dig(event, "preference", "length_controlled", "value")) is not None for event in by_policy.values()):
        forms = [dig(event, "preference", "published_form") for event in by_policy.values()]
        form = " (as published)" * all(one is True for one in forms)
        form += " (not comparable with published numbers)" * all(one is False for one in forms)
        sentences.append(f"LC: at equal lengths{form}")
    if any(number(dig(event, metric.kind, "mean_length")) is not None for event in by_policy.values()):
        sentences.append("length: mean, in characters")
    lines = ["; ".join(sentences) + "."]
    for policy, event in by_policy.items():
        if failures := counts(event.get("failures")):
            named = "" if len(by_policy) == 1 else f"{policy}, "
            lines.append(f"{named}{_FAILED.get(metric.kind, 'failures')}: {failures}")
        if warning := text(dig(event, "preference", "length_warning")):
            lines.append(warning if len(by_policy) == 1 else f"{policy}: {warning}")
    lines += _flips(by_policy)
    missing = Counter[str]()
    for event in by_policy.values():
        reasons = as_dict(dig(event, metric.kind, "missing"))
        missing.update({reason: int(number(found) or 0) for reason, found in reasons.items()})
    if missing:
        lines.append(f"missing judgements, in no rate: {counts(dict(missing))}")
    cost = _cost([dig(event, metric.kind, "cost") for event in by_policy.values()])
    return [*lines, f"the judge: {cost}"] if cost else lines


def _flips(by_policy: dict[str, Event]) -> list[str]:
    """How often the order of the two outputs decided; a judge that goes by it alone prefers nothing."""
    found = {policy: dig(event, "preference", "flip_rate") for policy, event in by_policy.items()}
    shown = {policy: fixed(dig(rate, "value"), 0, scale=100) for policy, rate in found.items()}
    if not any(shown.values()):
        return []
    several = len(shown) > 1
    each = ", ".join(f"{value}%{f' ({policy})' * several}" for policy, value in shown.items() if value)
    lines = [f"winners that changed with the order of the two: {each}"]
    if any((number(dig(rate, "low")) or 0) > 0.5 for rate in found.values()):
        lines.append("this judge goes by the order more than by the outputs: its win rates say little")
    return lines


def _cost(costs: Sequence[Any]) -> str:
    """What the judgements of all policies took together; a price only where that of each is known."""
    sums = {key: sum(numbers([dig(cost, key) for cost in costs])) for key in (*_AMOUNTS, "cost")}
    parts = [f"{sums[key]:,.0f} {name}" for key, name in _AMOUNTS.items() if sums[key]]
    currencies = {text(dig(cost, "currency")) for cost in costs}
    if len(currencies) == 1 and all(number(dig(cost, "cost")) is not None for cost in costs):
        parts.append(price({"cost": sums["cost"], "currency": currencies.pop()}))
    return ", ".join(parts)


_FAILED = {"accuracy": "counted as wrong", "preference": "without an output", "rating": "given the lowest rating"}
_AMOUNTS = {"requests": "requests", "input_tokens": "tokens read", "output_tokens": "tokens written"}
