"""Evaluations of policies and of judges in the terminal."""

from __future__ import annotations

import io
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from selfimprove.report.correction_tables import correction_lines, correction_notes, is_correction
from selfimprove.report.evaluation_json import as_json
from selfimprove.report.events import Event
from selfimprove.report.judge_tables import graded_lines, graded_notes, is_graded, judge_lines, judges_of
from selfimprove.report.longen_tables import KEY as LENGTHS
from selfimprove.report.longen_tables import length_lines, length_notes
from selfimprove.report.preference_tables import label_longer, price
from selfimprove.report.summary import (
    Metric,
    count,
    dig,
    evaluations_of,
    fixed,
    judge_evaluations_of,
    metric_of,
    number,
    numbers,
    rate,
    text,
    total,
    with_interval,
)
from selfimprove.report.tables import as_dict, counts
from selfimprove.report.text import printable, visible

__all__ = ["as_json", "evaluation_views", "evaluations_table", "judge_table"]

WIDTH = 80
_MOST_COLUMNS = 3  # policies or judges side by side in one table


def evaluation_views(events: Sequence[Event]) -> list[Group]:
    """Everything that there is to print about evaluations, of policies and then of judges."""
    return [view for view in (evaluations_table(events), judge_table(events)) if view.renderables]


def evaluations_table(events: Sequence[Event]) -> Group:
    """For every suite a table with one row for each policy, in the order in which they were evaluated, and below it
    what its intervals and changes are. To be given to `Console.print`; at most 80 columns wide."""
    parts: list[RenderableType] = []
    for suite, by_policy in evaluations_of(events).items():
        metric = metric_of(next(iter(by_policy.values())))
        parts += [Text("")] if parts else []
        parts += [_line(_title(suite, metric, by_policy), style="italic"), _fitting(by_policy, metric, _suite_table)]
        parts += [_line(sentence) for sentence in _explanations(metric, by_policy)]
        parts += [*_corrections(by_policy), *_graded(by_policy)]
        parts += _lengths(by_policy) if metric.kind == LENGTHS else []
        parts += _group_tables(by_policy, metric)
    return Group(*parts)


def _line(words: str, style: str = "") -> Text:
    return Text(visible(words), style=style)


def _title(suite: str, metric: Metric, by_policy: dict[str, Event]) -> str:
    name = f"{suite}: {metric.name}" + (" in %" if metric.unit else "")
    own = [event.get(metric.kind) for event in by_policy.values()]
    against, judge = (" or ".join(dict.fromkeys(filter(None, (text(dig(one, key)) for one in own)))) for key in _WHO)
    scale = [text(dig(own[0], end)) for end in ("low", "high")]
    name += f" from {scale[0]} to {scale[1]}" if metric.kind == "rating" and all(scale) else ""
    return name + (f" against {against}" if against else "") + (f", judged by {judge}" if judge else "")


_WHO = ("against", "judge")


def _plain_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1), collapse_padding=True, pad_edge=False)


def _fitting(found: Any, metric: Metric | None, build: Callable[..., Table]) -> Table:
    """The table with its intervals beside their values, or below them where that would be too wide."""
    table = build(found, metric, " ")
    measured = Console(file=io.StringIO(), width=1000).measure(table).maximum
    return table if measured <= WIDTH else build(found, metric, "\n")


def _suite_table(by_policy: dict[str, Event], metric: Metric, gap: str) -> Table:
    """`gap` stands between a value and its interval. Columns that no policy has anything for are left out."""
    columns: dict[str, list[str]] = {}
    for event in by_policy.values():
        own = event.get(metric.kind)
        scaled: dict[str, Any] = {"scale": metric.scale, "digits": metric.digits}
        cells = {
            metric.name: with_interval(event, "value", **scaled),
            "change": with_interval(event.get("paired"), "difference", **scaled, sign=True),
            "LC win rate": rate(dig(own, "length_controlled")),
        }
        for turn, figures in as_dict(dig(own, "turns")).items():
            cells[f"turn {turn}"] = fixed(dig(figures, "value"), metric.digits)
        cells["n"] = count(event.get("n"))
        cells["missing"] = str(total(dig(own, "missing")) or "")
        cells["length"] = fixed(dig(own, "mean_length"), 0)
        for name, cell in cells.items():
            columns.setdefault(name, []).append(cell.replace(" ", gap, 1))
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    table = _plain_table()
    table.add_column("policy", overflow="fold", max_width=40)
    for name in columns:
        table.add_column(printable(name), justify="right", no_wrap=True)
    for place, policy in enumerate(by_policy):
        table.add_row(
            printable(policy), *(printable(cells[place]) if cells[place] else "-" for cells in columns.values())
        )
    return table


def _corrections(by_policy: dict[str, Event]) -> list[RenderableType]:
    """What became of first attempts, with a column for each policy; nothing for suites of one attempt."""
    own = {policy: event for policy, event in by_policy.items() if is_correction(event)}
    lines, found = correction_lines(own), list[RenderableType]()
    for start in range(0, len(own), 2):  # of three, all intervals would stand below their values
        some = dict(list(own.items())[start : start + 2])
        found += [Text(""), _fitting(some, None, lambda some, _, gap: _beside(some.items(), lines, gap))]
    return found + [_line(note) for note in correction_notes(own)]


def _graded(by_policy: dict[str, Event]) -> list[RenderableType]:
    """Policies as judges, beside what needs none; nothing for other suites."""
    own = {policy: event for policy, event in by_policy.items() if is_graded(event)}
    if not own:
        return []
    found = list[RenderableType]()
    for columns, lines in ((judges_of(own), graded_lines()), (own, judge_lines())):
        for start in range(0, len(columns), 2):
            some = dict(list(columns.items())[start : start + 2])
            table = _fitting(some, None, lambda some, _, gap, lines=lines: _beside(some.items(), lines, gap))
            found += [Text(""), table]
    return found + [_line(note) for note in graded_notes(own)]


def _lengths(by_policy: dict[str, Event]) -> list[RenderableType]:
    """Length scores by kind of demand and by language, repetition, and quality, with a column for each policy."""
    found, lines = list[RenderableType](), length_lines(by_policy)
    for start in range(0, len(by_policy), 2):
        some = dict(list(by_policy.items())[start : start + 2])
        found += [Text(""), _fitting(some, None, lambda some, _, gap: _beside(some.items(), lines, gap))]
    return found + [_line(note) for note in length_notes(by_policy)]


def _group_tables(by_policy: dict[str, Event], metric: Metric) -> list[RenderableType]:
    """The groups' values, with a column for each policy, so many policies at a time as fit; nothing for one group."""
    groups = dict.fromkeys(group for event in by_policy.values() for group in as_dict(event.get("groups")))
    policies = list(by_policy)
    if len(groups) < 2:
        return []
    found: list[RenderableType] = []
    for start in range(0, len(policies), _MOST_COLUMNS):
        table = _plain_table()
        table.add_column("group", overflow="fold", max_width=30)
        for policy in policies[start : start + _MOST_COLUMNS]:
            table.add_column(_folded(policy), justify="right", no_wrap=True)
        for group in groups:
            cells = []
            for policy in policies[start : start + _MOST_COLUMNS]:
                figures = dig(by_policy[policy], "groups", group)
                value = fixed(dig(figures, "value"), metric.digits, scale=metric.scale)
                size = count(dig(figures, "n"))
                cells.append(f"{value} (of {size})" if value and size else value or "-")
            table.add_row(printable(group), *map(printable, cells))
        found += [Text(""), table]
    return found


def _folded(name: str, width: int = 16) -> str:
    """A name as a header of several lines."""
    return printable("\n".join(textwrap.wrap(visible(name), width)))


def _explanations(metric: Metric, by_policy: dict[str, Event]) -> list[str]:
    """What the intervals and the comparison are, and whatever was missing or counted as wrong."""
    drawn = {"preference": "over instructions", "rating": "over questions", LENGTHS: "over queries"}
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


def judge_table(events: Sequence[Event]) -> Group:
    """The measured judges side by side, three at a time: one column each, with everything that was measured."""
    judges = judge_evaluations_of(events)
    parts: list[RenderableType] = []
    for start in range(0, len(judges), _MOST_COLUMNS):
        some = judges[start : start + _MOST_COLUMNS]
        parts += [Text("")] if parts else []
        parts.append(_fitting(some, None, _judges_beside))
    if judges:
        parts.append(
            _line(
                "Shares in %; [95%] over the pairs. Guessing gives an accuracy of 50. Ceiling: how often one annotator "
                "agrees with the majority of the others; agreement: how often the judge does. "
                "First shown: 50 where the order does not matter."
            )
        )
    return Group(*parts)


def _judges_beside(judges: Sequence[Event], _: None, gap: str) -> Table:
    shown: dict[str, Callable[[Event], str]] = {
        "data": lambda event: text(event.get("data")),
        "rubric": lambda event: text(event.get("rubric")),
        "order": lambda event: text(event.get("order")),
        "pairs": lambda event: count(event.get("n")),
        "accuracy": lambda event: rate(event.get("accuracy")),
        "  of the first order": lambda event: rate(event.get("accuracy_first_order")),
        "agreement": lambda event: rate(dig(event, "human", "judge")),
        "ceiling": lambda event: rate(dig(event, "human", "ceiling")),
        "flips with the order": lambda event: rate(event.get("flip_rate")),
        "ties": lambda event: rate(event.get("tie_rate")),
        "first shown won": lambda event: rate(event.get("first_rate")),
        "longer preferred": lambda event: rate(event.get("longer_rate")),
        "  by the labels": lambda event: rate(label_longer(event)),
        "missing": lambda event: rate(event.get("missing_rate")),
        "  requests": lambda event: count(dig(event, "cost", "requests")),
        "  cost": lambda event: price(event.get("cost")),
    }
    table = _beside([(text(event.get("judge")) or "judge", event) for event in judges], list(shown.items()), gap)
    groups = dict.fromkeys(group for event in judges for group in as_dict(event.get("groups")))
    if groups:
        table.add_section()
    for group in groups:
        cells = [fixed(dig(event, "groups", group, "value"), scale=100) for event in judges]
        table.add_row(printable(textwrap.shorten(visible(group), 22, placeholder="…")), *(one or "-" for one in cells))
    return table


def _beside(
    columns: Iterable[tuple[str, Event]], lines: Sequence[tuple[str, Callable[[Event], str]]], gap: str
) -> Table:
    """One column for each event, under its name, and one row for each line that any of them has something for."""
    names, events = zip(*columns, strict=True)
    table = _plain_table()
    table.add_column("", no_wrap=True)
    for name in names:
        table.add_column(_folded(name, 20), justify="right", overflow="fold")
    for name, cell in lines:
        # only an interval may go below its value, a name stays as it is
        cells = [cell(event).replace(" [", f"{gap}[", 1) for event in events]
        if any(cells):
            table.add_row(name, *(printable(found) if found else "-" for found in cells))
    return table
