"""The tables of the report. Every cell is text; a cell with no value is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import (
    count,
    dig,
    evaluations_of,
    fixed,
    metric_of,
    policies_of,
    text,
)


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
