"""The policies of a run, a row each: its value on the first suite, and the round that made it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import (
    dig,
    duration,
    evaluations_of,
    first_metric,
    number,
    of_kind,
    policies_of,
    rate,
    round_number,
    rounds_of,
    tau_of,
    text,
)
from selfimprove.report.table import Col, Show, Table, count, decimals, interval, measured, percent, shown, signed


def policies_table(events: Sequence[Event]) -> Table:
    """Policy, value, change: of the policies that were measured, where any was."""
    metric, rows = first_metric(events), _rows(events)
    some = [row for row in rows if dig(row, "value", "value") is not None] or rows
    starts = {text(dig(row, "change", "against")) for row in some} - {""}

    def how(row: dict[str, Any]) -> Show:
        return (lambda _: "the start") if row["policy"].partition(" ")[0] in starts and not row["change"] else signed

    title = "change, points [95%]" if metric.unit else "change [95%]"
    value = Col(f"{metric.name}{metric.unit} [95%]", "value", shown)
    return Table("Policies", some, [Col("policy"), value, Col(title, "change", by_row=how)])


def all_figures_table(events: Sequence[Event]) -> Table:
    """What else is known of each policy and of the round that made it."""
    cols = [
        Col("policy"),
        Col("round"),
        Col("against", "change.against"),
        Col("change to the previous policy", "last change", signed),
        Col("consistency C", "consistency", decimals(2)),
        Col("Kendall's tau [95%]", "tau", interval("mean", digits=2, sign=True)),
        Col("pairs", show=count),
        Col("accepted, %", "accepted", percent),
        Col("kept", show=count),
        Col("right labels, % [95%]", "right", rate),
        Col("mean |h|, nats", "margin", decimals(3)),
        Col("mean length, tokens", "length", decimals(1)),
        Col("time of the round", "time", duration),
    ]
    return Table("Figures of the rounds that made them", _rows(events), cols)


def terminal_table(events: Sequence[Event]) -> Table:
    """What a terminal has room for; the first three columns are the last to go."""
    cols = [
        Col("policy"),
        Col(first_metric(events).name, "value", shown),
        Col("change", "change", signed),
        Col("C", "consistency", decimals(2)),
        Col("accepted\n%", "accepted", percent),
        Col("kept", show=count),
        Col("pairs", show=count),
        Col("right\n%", "right.value", percent),
        Col("|h|", "margin", decimals(3)),
        Col("length\ntokens", "length", decimals(1)),
    ]
    return Table("", _rows(events), cols)


def _rows(events: Sequence[Event]) -> list[dict[str, Any]]:
    evaluations = next(iter(evaluations_of(events).values()), {})
    rounds = {text(event.get("policy")): event for event in rounds_of(events)}
    policies = policies_of(events)
    roles = {text(event.get("policy")): text(event.get("role")) for event in of_kind(events, "training")}
    accepted = {round_number(event): event for event in of_kind(events, "acceptance")}
    seconds: dict[int, float] = {}
    for step in of_kind(events, "step"):
        taken = number(step.get("seconds"))
        if taken is not None and not step.get("reused"):
            seconds[round_number(step)] = seconds.get(round_number(step), 0.0) + taken
    # two policies can share a round (M0 and M1): its time is shown once, with the last of them
    last_of_round = {round_: policy for policy, round_ in policies.items()}
    rows = []
    for policy, round_ in policies.items():
        evaluation, made = evaluations.get(policy), rounds.get(policy)
        taken_in = accepted.get(round_) if round_ else None
        rows.append(
            {
                "policy": f"{policy} {roles.get(policy, '')}".rstrip(),
                "round": round_,
                "value": measured(evaluation),
                "change": measured(evaluation, "paired"),
                "last change": measured(evaluation, "paired_previous"),
                "consistency": dig(made, "consistency", "mean"),
                "tau": tau_of(made) if made else None,
                "pairs": dig(made, "pairs"),
                "accepted": dig(taken_in, "accepted_share", "value"),
                "kept": dig(taken_in, "kept"),
                "right": dig(made, "label_accuracy"),
                "margin": dig(made, "margins", "mean_abs"),
                "length": dig(made, "lengths", "mean"),
                "time": seconds.get(round_) if last_of_round[round_] == policy else None,
            }
        )
    return rows
