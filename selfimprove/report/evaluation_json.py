"""Evaluations of policies and of judges as plain objects, for machines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event, plain
from selfimprove.report.summary import dig, evaluations_of, judge_evaluations_of, metric_of, number, total
from selfimprove.report.table import as_dict

_EVALUATION_KEYS = ("suite", "metric", "value", "low", "high", "n", "failures", "groups", "policy_digest")


def as_json(events: Sequence[Event]) -> list[dict[str, Any]]:
    """One object for each evaluation of a policy and of a judge: everything but the examples, NaN as null.

    Shares are in [0, 1], as in the events. A win rate has besides the keys of `selfimprove eval alpaca --json`, which
    are in percent as there: `model`, `win_rate`, `length_controlled_win_rate`, `standard_error` and so on.
    """
    found = []
    for by_policy in evaluations_of(events).values():
        for policy, event in by_policy.items():
            kind = metric_of(event).kind
            one = {key: event.get(key) for key in _EVALUATION_KEYS}
            one |= {"policy": policy, "paired": event.get("paired"), "paired_previous": event.get("paired_previous")}
            if kind in ("preference", "rating", "graded", "length_following"):
                one[kind] = _without(event.get(kind), "examples")
            if as_dict(dig(event, "self_correction", "turns")):
                one["self_correction"] = _without(event.get("self_correction"), "examples")
            if kind == "preference":
                one |= _in_percent(policy, event)
            found.append(plain(one))
    return found + [plain(_without(event, "event", "id", "time", "examples")) for event in judge_evaluations_of(events)]


def _without(value: Any, *keys: str) -> Any:
    return {key: one for key, one in value.items() if key not in keys} if isinstance(value, dict) else None


def _in_percent(policy: str, event: Event) -> dict[str, Any]:
    own = event.get("preference")
    controlled = dig(own, "length_controlled")

    def percent(value: Any) -> float | None:
        share = number(value)
        return None if share is None else 100 * share

    def interval(value: Any) -> list[float | None] | None:
        ends = [percent(dig(value, end)) for end in ("low", "high")]
        return None if ends == [None, None] else ends

    return {
        "model": policy,
        "win_rate": percent(event.get("value")),
        "length_controlled_win_rate": percent(dig(controlled, "value")),
        "standard_error": percent(dig(own, "standard_error")),
        "discrete_win_rate": percent(dig(own, "discrete")),
        **{key: dig(own, key) for key in ("wins", "losses", "ties")},
        "missing": total(dig(own, "missing")),
        "missing_reasons": as_dict(dig(own, "missing")),
        "win_rate_interval": interval(event),
        "length_controlled_interval": interval(controlled),
        **({"warning": warning} if (warning := dig(own, "length_warning")) else {}),
        "mean_length": dig(own, "mean_length"),
    }
