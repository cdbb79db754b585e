"""The report's tables of win rates, ratings and judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import (
    count,
    dig,
    evaluations_of,
    fixed,
    judge_evaluations_of,
    number,
    policies_of,
    rate,
    text,
    total,
    with_interval,
)
from selfimprove.report.tables import Table, as_dict, counts


def _of_kind(events: Sequence[Event], kind: str) -> Iterator[tuple[str, str, Event]]:
    """(suite, policy, evaluation), the policies in the order in which they were made."""
    for suite, by_policy in evaluations_of(events, kind).items():
        for policy in policies_of(events):
            if policy in by_policy:
                yield suite, policy, by_policy[policy]


def _points(paired: Any) -> str:
    return with_interval(paired, "difference", scale=100, sign=True)


def missing_of(source: Any) -> str:
    """`3 (no verdict: 2, refused: 1)`, or 0 where it is known that none is missing."""
    reasons = as_dict(dig(source, "missing"))
    if not reasons:
        return "0" if isinstance(dig(source, "missing"), dict) else ""
    return f"{total(reasons)} ({counts(reasons)})"


COST_COLUMNS = ["requests", "tokens read", "tokens written", "cost"]


def cost_cells(source: Any) -> list[str]:
    cost = dig(source, "cost")
    tokens = [f"{found:,.0f}" if (found := number(dig(cost, key))) is not None else "" for key in _TOKENS]
    return [count(dig(cost, "requests")), *tokens, price(cost)]


_TOKENS = ("input_tokens", "output_tokens")


def price(cost: Any) -> str:
    """`0.53 USD`; empty where the judge's price is not known."""
    found = number(dig(cost, "cost"))
    digits = 2 if found is None or found >= 0.1 or found == 0 else 4
    return f"{fixed(found, digits)} {text(dig(cost, 'currency'))}".strip() if found is not None else ""


def win_rates_table(events: Sequence[Event]) -> Table:
    rows = []
    for suite, policy, event in _of_kind(events, "preference"):
        found = event.get("preference")
        rows.append(
            [
                suite,
                policy,
                text(dig(found, "against")),
                rate(event),
                "; ".join(filter(None, (rate(dig(found, "length_controlled")), text(dig(found, "length_warning"))))),
                fixed(dig(found, "standard_error"), 2, scale=100),
                fixed(dig(found, "discrete"), scale=100),
                *(count(dig(found, key)) for key in ("wins", "ties", "losses")),
                count(event.get("n")),
                missing_of(found),
                _points(event.get("paired")),
                _points(dig(found, "length_controlled_paired")),
                text(dig(event, "paired", "against")),
                text(dig(found, "judge")),
            ]
        )
    columns = ["suite", "policy", "against", "win rate, % [95%]", "LC win rate, % [95%]", "standard error, %"]
    columns += ["discrete, %", "wins", "ties", "losses", "instructions", "missing"]
    return Table([*columns, "change, points [95%]", "change of LC [95%]", "changed from", "judge"], rows)


def judgements_table(events: Sequence[Event]) -> Table:
    rows = []
    for suite, policy, event in _of_kind(events, "preference"):
        found = event.get("preference")
        flips, flips_n = rate(dig(found, "flip_rate")), count(dig(found, "flip_rate", "n"))
        form = dig(found, "published_form")
        rows.append(
            [
                suite,
                policy,
                text(dig(found, "judge")),
                text(dig(found, "rubric")),
                text(dig(found, "order")),
                {True: "as published", False: "not as published"}.get(form, "") if isinstance(form, bool) else "",
                f"{flips} (of {flips_n})" if flips and flips_n else flips,
                rate(dig(found, "first_rate")),
                fixed(dig(found, "mean_length"), 0),
                fixed(dig(found, "against_mean_length"), 0),
                count(dig(found, "truncated")),
                count(dig(found, "empty")),
                *cost_cells(found),
            ]
        )
    columns = ["suite", "policy", "judge", "rubric", "order", "setting", "flips, % [95%]", "first shown won, % [95%]"]
    columns += ["mean length, characters", "the opponent's", "truncated", "empty", *COST_COLUMNS]
    return Table(columns, rows)


def ratings_table(events: Sequence[Event]) -> Table:
    found = list(_of_kind(events, "rating"))
    turns = list(dict.fromkeys(turn for _, _, event in found for turn in as_dict(dig(event, "rating", "turns"))))
    rows = []
    for suite, policy, event in found:
        rating = event.get("rating")
        ends = [text(dig(rating, end)) for end in ("low", "high")]
        rows.append(
            [
                suite,
                policy,
                " to ".join(ends) if all(ends) else "",
                with_interval(event, "value", digits=2),
                *(with_interval(dig(rating, "turns", turn), "value", digits=2) for turn in turns),
                with_interval(event.get("paired"), "difference", digits=2, sign=True),
                text(dig(event, "paired", "against")),
                count(event.get("n")),
                missing_of(rating),
                fixed(dig(rating, "mean_length"), 0),
                count(dig(rating, "truncated")),
                text(dig(rating, "judge")),
                text(dig(rating, "rubric")),
                *cost_cells(rating),
            ]
        )
    columns = ["suite", "policy", "scale", "rating [95%]", *(f"turn {turn} [95%]" for turn in turns)]
    columns += [
        "change [95%]",
        "changed from",
        "n",
        "missing",
        "mean length, characters",
        "truncated",
        "judge",
        "rubric",
    ]
    return Table([*columns, *COST_COLUMNS], rows)


def label_longer(event: Event) -> Any:
    """The share of decided pairs whose better output by the labels is the longer one."""
    found = event.get("label_longer_rate")
    return dig(event, "longer_rate", "label_longer_rate") if found is None else found


def judges_table(events: Sequence[Event]) -> Table:
    rows = []
    for event in judge_evaluations_of(events):
        share = rate(event.get("missing_rate"))
        reasons = missing_of(event)
        rows.append(
            [
                *(text(event.get(key)) for key in ("judge", "rubric", "data", "order")),
                count(event.get("n")),
                rate(event.get("accuracy")),
                rate(event.get("accuracy_first_order")),
                rate(dig(event, "human", "judge")),
                rate(dig(event, "human", "ceiling")),
                *(rate(event.get(key)) for key in ("flip_rate", "tie_rate", "first_rate", "longer_rate")),
                rate(label_longer(event)),
                f"{share}%: {reasons}" if share and reasons not in ("", "0") else reasons,
                *cost_cells(event),
            ]
        )
    columns = ["judge", "rubric", "data", "order", "pairs", "accuracy, % [95%]", "accuracy, first order, %"]
    columns += ["agreement with people, % [95%]", "ceiling, % [95%]", "flips, % [95%]", "ties, %"]
    columns += ["first shown won, % [95%]", "longer preferred, % [95%]", "longer by the labels, %", "missing"]
    return Table([*columns, *COST_COLUMNS], rows)


def judge_groups_table(events: Sequence[Event]) -> Table:
    rows = [
        [text(event.get("judge")), text(event.get("data")), group, rate(figures), count(dig(figures, "n"))]
        for event in judge_evaluations_of(events)
        for group, figures in as_dict(event.get("groups")).items()
    ]
    return Table(["judge", "data", "group", "accuracy, %", "pairs"], rows)
