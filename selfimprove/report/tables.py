"""The tables of the report. Every cell is text; a cell with no value is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import (
    between,
    count,
    dig,
    evaluations_of,
    fixed,
    length_means,
    metric_of,
    number,
    numbers,
    policies_of,
    round_number,
    rounds_of,
    tau_of,
    text,
    with_interval,
)
from selfimprove.statistics import bootstrap_interval, wilson_interval


@dataclass
class Table:
    """Columns that no row has anything for are dropped."""

    columns: list[str]
    rows: list[list[str]]

    def __post_init__(self) -> None:
        used = [index for index, _ in enumerate(self.columns) if any(row[index] for row in self.rows)]
        self.columns = [self.columns[index] for index in used]
        self.rows = [[row[index] for index in used] for row in self.rows]

    @property
    def cells(self) -> list[list[str]]:
        return self.rows

    @property
    def wide(self) -> list[bool]:
        """Of each column, whether it holds sentences, which are to be wrapped."""
        return [any(len(row[place]) > 60 for row in self.rows) for place in range(len(self.columns))]


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else text(value)


def counts(value: Any) -> str:
    return ", ".join(f"{text(reason)}: {short(found)}" for reason, found in as_dict(value).items())


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def groups_table(events: Sequence[Event], kind: str) -> Table:
    """The groups of every suite whose metric is of this kind, one column for each policy."""
    rows = []
    unit = ""
    for suite, by_policy in evaluations_of(events, kind).items():
        metric = metric_of(next(iter(by_policy.values())))
        unit = metric.unit
        evaluated = [policy for policy in policies_of(events) if policy in by_policy]
        names = {name: None for policy in evaluated for name in as_dict(by_policy[policy].get("groups"))}
        for name in names:
            cells = []
            for policy in policies_of(events):
                group = dig(by_policy.get(policy), "groups", name)
                value = fixed(dig(group, "value"), metric.digits, scale=metric.scale)
                size = count(dig(group, "n"))
                cells.append(f"{value} (of {size})" if value and size else value)
            rows.append([suite, name, *cells])
    return Table(["suite", "group", *(f"{policy}{unit}" for policy in policies_of(events))], rows)


def agreement_table(events: Sequence[Event]) -> Table:
    """The correlation itself, and what the recipe's measure makes of it."""
    rows = []
    for event in rounds_of(events):
        tie_rate = number(event.get("tie_rate"))
        rows.append(
            [
                str(round_number(event)),
                text(dig(event, "rankings", "current")),
                text(dig(event, "rankings", "previous")),
                with_interval(tau_of(event), "mean", digits=2, sign=True),
                text(dig(event, "consistency", "measure")),
                with_interval(event.get("consistency"), "mean", digits=3),
                {"none": "nothing"}.get(mode := text(dig(event, "consistency", "mode")), mode),
                short(dig(event, "consistency", "undefined")),
                fixed(dig(event, "consistency", "tie_rate") if tie_rate is None else tie_rate, 1, scale=100),
            ]
        )
    columns = ["round", "ranking of", "compared with", "Kendall's tau [95%]", "measure", "consistency C [95%]"]
    found = Table([*columns, "labels softened by", "undefined", "ties, %"], rows)
    return found if any("[95%]" in column for column in found.columns) else Table([], [])


def rewards_table(events: Sequence[Event]) -> Table:
    rows = []
    for event in rounds_of(events):
        margins = numbers(dig(event, "margins", "values"))
        positive = wilson_interval(sum(h > 0 for h in margins), len(margins)) if margins else None
        rows.append(
            [
                str(round_number(event)),
                text(event.get("judge")),
                count(event.get("responses")),
                count(event.get("pairs")),
                *(_mean(numbers(dig(event, "rewards", side))) for side in ("chosen", "rejected")),
                between(bootstrap_interval(margins) if margins else None, digits=3, sign=True),
                fixed(dig(event, "margins", "mean_abs"), 3),
                between(positive, scale=100),
                with_interval(event.get("label_accuracy"), "value", scale=100),
                counts(event.get("skipped")),
            ]
        )
    columns = ["round", "judge", "responses", "pairs", "chosen, mean", "rejected, mean", "margin h, nats [95%]"]
    return Table([*columns, "mean |h|", "h > 0, % [95%]", "right labels, % [95%]", "skipped prompts"], rows)


def _mean(values: Sequence[float]) -> str:
    return fixed(sum(values) / len(values), 3) if values else ""


def length_table(events: Sequence[Event]) -> Table:
    rows = []
    for event in rounds_of(events):
        means = length_means(event)
        sides = [as_list(dig(event, "lengths", side)) for side in ("chosen", "rejected")]
        both = [(a, b) for a, b in zip(*sides, strict=False) if number(a) is not None and number(b) is not None]
        longer, shorter = (
            between(wilson_interval(found, len(both)), scale=100, digits=0) if both else ""
            for found in (sum(a > b for a, b in both), sum(a < b for a, b in both))
        )
        correlation = event.get("reward_by_length") or {"value": event.get("reward_length_correlation")}
        rows.append(
            [
                str(round_number(event)),
                *(fixed(means.get(key), 1) for key in ("mean", "chosen", "rejected")),
                with_interval(correlation, "value", digits=2, sign=True),
                longer,
                shorter,
                fixed(dig(event, "health", "truncation_rate"), 1, scale=100),
                fixed(dig(event, "health", "duplicate_rate"), 1, scale=100),
                fixed(dig(event, "health", "distinct_2"), 3),
            ]
        )
    columns = ["round", "mean, tokens", "chosen", "rejected", "correlation with reward [95%]"]
    columns += ["chosen longer, % [95%]", "chosen shorter, % [95%]", "truncated, %", "duplicates, %", "distinct-2"]
    return Table(columns, rows)
