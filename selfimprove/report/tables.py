"""The tables of the report. Every cell is text; a cell with no value is empty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import (
    count,
    dig,
    duration,
    evaluations_of,
    first_metric,
    fixed,
    metric_of,
    number,
    numbers,
    of_kind,
    policies_of,
    policy_rows,
    round_number,
    stage_of,
    text,
    with_interval,
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


def policies_table(events: Sequence[Event]) -> Table:
    metric = first_metric(events)
    columns = {
        "policy": "policy",
        "round": "round",
        "value": f"{metric.name}{metric.unit} [95%]",
        "change": "change, points [95%]" if metric.unit else "change [95%]",
        "against": "against",
        "last_change": "change to the previous policy",
        "consistency": "consistency C",
        "tau": "Kendall's tau [95%]",
        "pairs": "pairs",
        "accepted": "accepted, %",
        "kept": "kept",
        "right": "right labels, % [95%]",
        "margin": "mean |h|, nats",
        "length": "mean length, tokens",
        "time": "time of the round",
    }
    return Table(list(columns.values()), [[getattr(row, name) for name in columns] for row in policy_rows(events)])


def evaluations_table(events: Sequence[Event]) -> Table:
    rows = []
    for suite, by_policy in evaluations_of(events).items():
        for policy in policies_of(events):
            event = by_policy.get(policy)
            if event is None:
                continue
            metric = metric_of(event)
            scale, digits = metric.scale, metric.digits
            changes = [
                with_interval(event.get(pair), "difference", scale=scale, digits=digits, sign=True)
                for pair in ("paired", "paired_previous")
            ]
            rows.append(
                [
                    suite,
                    policy,
                    metric.name + metric.unit,
                    with_interval(event, "value", scale=scale, digits=digits),
                    changes[0],
                    text(dig(event, "paired", "against")),
                    changes[1],
                    text(dig(event, "paired_previous", "against")),
                    count(event.get("n")),
                    counts(event.get("failures")),
                    text(event.get("policy_digest"))[:12],
                ]
            )
    columns = ["suite", "policy", "metric", "value [95%]", "change [95%]", "against", "change to previous [95%]"]
    return Table([*columns, "previous", "items", "failures", "policy digest"], rows)


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


def figure_names(events: Sequence[Event]) -> list[str]:
    """What methods reported of their own, in the order of its first appearance."""
    return list(dict.fromkeys(event["name"] for event in of_kind(events, "figures")))


def figures_table(events: Sequence[Event], name: str) -> Table:
    """What a method reported under that name (`Loop.report`), a row for each round."""
    rows = [event for event in of_kind(events, "figures") if event["name"] == name]
    keys = list(dict.fromkeys(key for event in rows for key in event["figures"]))
    cells = [[str(event["round"]), *(_figure(event["figures"].get(key)) for key in keys)] for event in rows]
    return Table(["round", *(key.replace("_", " ") for key in keys)], cells)


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_figure(one)}" for name, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)


def training_table(events: Sequence[Event]) -> Table:
    rows = []
    for event in of_kind(events, "training"):
        last = next(reversed(as_list(event.get("history"))), None)
        rows.append(
            [
                text(event.get("name") or event.get("stage")),
                text(event.get("policy")),
                count(event.get("examples")),
                short(event.get("epochs")),
                count(dig(last, "step")),
                fixed(dig(last, "loss"), 4) if event.get("loss_unit", "nats") else "",
                duration(event.get("seconds")),
            ]
        )
    return Table(["stage", "policy", "examples", "epochs", "steps", "last loss, nats", "time"], rows)


def times_table(events: Sequence[Event]) -> Table:
    """One row for each stage of each round. A share of the floor counts only steps that have one."""
    sums: dict[tuple[int, str], dict[str, float]] = {}
    for event in of_kind(events, "step"):
        taken, floor = number(event.get("seconds")), number(event.get("floor_seconds"))
        if not taken or event.get("reused"):
            continue
        one = sums.setdefault((round_number(event), stage_of(event)), {})
        tokens = number(event.get("tokens"))
        for key, value in (
            ("steps", 1.0),
            ("seconds", taken),
            ("tokens", tokens),
            ("counted", taken if tokens else None),
            ("floor", floor),
            ("floored", taken if floor else None),
        ):
            one[key] = one.get(key, 0.0) + (value or 0.0)
    whole = sum(one["seconds"] for one in sums.values())
    order = {stage: place for place, (_, stage) in enumerate(sums)}
    rows = [
        [
            str(round_),
            stage,
            count(one["steps"]),
            duration(one["seconds"]),
            fixed(one["seconds"] / whole, 1, scale=100),
            f"{one['tokens']:,.0f}" if one["tokens"] else "",
            f"{one['tokens'] / one['counted']:,.0f}" if one["counted"] else "",
            duration(one["floor"]) if one["floor"] else "",
            fixed(one["floor"] / one["floored"], 0, scale=100) if one["floored"] else "",
        ]
        for (round_, stage), one in sorted(sums.items(), key=lambda item: (item[0][0], order[item[0][1]]))
    ]
    columns = ["round", "stage", "steps", "time", "share of the run, %", "tokens", "tokens per second"]
    return Table([*columns, "floor", "share of the floor, %"], rows)


def engines_table(events: Sequence[Event]) -> Table:
    """What a sampling engine beside the loop took to get ready: `what` is "start", or "swap" of its weights."""
    seconds: dict[tuple[str, str, str], list[float]] = {}
    for event in of_kind(events, "engine"):
        key = (text(event.get("backend")), text(event.get("version")), text(event.get("what")))
        seconds.setdefault(key, []).extend(numbers([event.get("seconds")]))
    rows = [
        [*key, str(len(taken)), duration(sum(taken) / len(taken)), duration(max(taken)), duration(sum(taken))]
        for key, taken in seconds.items()
        if taken
    ]
    return Table(["engine", "version", "what", "times", "mean", "longest", "together"], rows)
