"""Values by group of items, for the parts of every kind of suites."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, evaluations_of, fixed, metric_of, policies_of
from selfimprove.report.table import Col, Table, as_dict


def groups(title: str, events: Sequence[Event], kind: str) -> Table:
    """The groups of every suite whose metric is of this kind, one column for each policy."""
    rows, unit = [], ""
    for suite, by_policy in evaluations_of(events, kind).items():
        metric = metric_of(next(iter(by_policy.values())))
        unit = metric.unit
        how = {"scale": metric.scale, "digits": metric.digits}
        own = {policy: as_dict(event.get("groups")) for policy, event in by_policy.items()}
        for name in dict.fromkeys(name for policy in policies_of(events) for name in own.get(policy, {})):
            found = {policy: as_dict(its.get(name)) | how for policy, its in own.items() if name in its}
            rows.append({"suite": suite, "group": name, "by policy": found})
    cols = [Col(f"{one}{unit}", partial(_of, one), _cell) for one in policies_of(events)]
    return Table(title, rows, [Col("suite"), Col("group"), *cols])


def _of(policy: str, row: dict[str, Any]) -> Any:
    return row["by policy"].get(policy)


def _cell(group: dict[str, Any] | None) -> str:
    """`41.2 (of 17)`."""
    value = fixed(dig(group, "value"), dig(group, "digits") or 0, scale=dig(group, "scale") or 1)
    size = count(dig(group, "n"))
    return f"{value} (of {size})" if value and size else value
