"""What suites measured, as rows of tables and of charts, and what judges cost, as columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, evaluations_of, fixed, number, policies_of, text, total
from selfimprove.report.table import Col, as_dict, counts

BARS = "Bars are 95% intervals."
NAMES = (Col("suite"), Col("policy"))


def evaluated(events: Sequence[Event], kind: str, key: str = "", has: str = "") -> list[dict[str, Any]]:
    """A row for each policy on each suite whose metric is of this kind, policies in the order they were made.

    Args:
        key: where an evaluation has what only such suites measure, by default `kind`.
        has: what stands under it where there is to be a row.

    Returns:
        `suite`, `policy`, `event` (the evaluation), `value` (its `value`, `low` and `high`), `own` (what stands under
        `key`), and `panel`: the suite's name where there are several, for a chart.
    """
    found = [
        {"suite": suite, "policy": policy, "event": event, "own": as_dict(event.get(key or kind))}
        | {"value": {end: event.get(end) for end in ("value", "low", "high")}}
        for suite, by_policy in evaluations_of(events, kind).items()
        for policy in policies_of(events)
        if (event := by_policy.get(policy)) and (not has or as_dict(dig(event, key or kind, has)))
    ]
    several = len({row["suite"] for row in found}) > 1
    return [row | {"panel": row["suite"] if several else ""} for row in found]


def by_suite(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of each suite."""
    return {suite: [row for row in rows if row["suite"] == suite] for suite in dict.fromkeys(r["suite"] for r in rows)}


def names_in(rows: Sequence[dict[str, Any]], *keys: str) -> list[str]:
    """The names under a figure of any of these rows."""
    return list(dict.fromkeys(name for row in rows for name in as_dict(dig(row, *keys))))


def point(x: Any, source: Any, key: str = "value", *, scale: float = 1, **more: Any) -> list[dict[str, Any]]:
    """A chart's row at `x` from {key, low, high}, in a list, which is empty where there is no value."""
    value = number(dig(source, key))
    if value is None:
        return []
    ends = {end: scale * found for end in ("low", "high") if (found := number(dig(source, end))) is not None}
    return [{"x": x, "y": scale * value, **ends, **more}]


def missing(reasons: Any) -> str:
    """`3 (no verdict: 2, refused: 1)`, or 0 where it is known that none is missing."""
    return f"{total(reasons)} ({counts(reasons)})" if as_dict(reasons) else "0" if isinstance(reasons, dict) else ""


def whole(value: Any) -> str:
    """`51,234`."""
    found = number(value)
    return "" if found is None else f"{found:,.0f}"


def price(cost: Any) -> str:
    """`0.53 USD`; empty where the judge's price is not known."""
    found = number(dig(cost, "cost"))
    digits = 2 if found is None or found >= 0.1 or found == 0 else 4
    return f"{fixed(found, digits)} {text(dig(cost, 'currency'))}".strip() if found is not None else ""


def cost_cols(where: str) -> list[Col]:
    """What a judge's verdicts took."""
    return [
        Col("requests", f"{where}.requests", count),
        Col("tokens read", f"{where}.input_tokens", whole),
        Col("tokens written", f"{where}.output_tokens", whole),
        Col("cost", where, price),
    ]
