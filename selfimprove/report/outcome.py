"""What came of a run, first: a sentence, and the same items before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.part import parts_of
from selfimprove.report.summary import (
    count,
    dig,
    evaluations_of,
    fixed,
    metric_of,
    number,
    of_kind,
    policies_of,
    text,
    with_interval,
)
from selfimprove.report.table import Col, Table, as_dict, as_list

ORACLE = "Judged by an ORACLE, which has the true labels: an upper bound, and no self-improvement."
NO_ARMS = (
    "One run without control arms says that it changed, not why: `selfimprove study` runs a recipe beside a "
    "placebo (random acceptance at the same rate)."
)


def outcome_sentences(events: Sequence[Event]) -> list[str]:
    """One for each suite: the kept policy against the first one that was measured; before them, whether an oracle
    judged; behind them those of the method. Nothing of a suite where fewer than two policies were measured."""
    done = next(reversed(of_kind(events, "done")), {})
    run = next(reversed(of_kind(events, "run")), {})
    found = [ORACLE] if done.get("oracle") or _oracle_recipe(run) else []
    for suite, by_policy in evaluations_of(events).items():
        first, last = first_and_kept(events, by_policy)
        if first is None or last is None or None in (number(first.get("value")), number(last.get("value"))):
            continue
        metric = metric_of(last)
        unit = "%" if metric.scale == 100 else ""
        scale, digits = metric.scale, metric.digits
        values = [fixed(one.get("value"), digits, scale=scale) + unit for one in (first, last)]
        sentence = f"{suite}: {text(first.get('policy'))} {values[0]}, {text(last.get('policy'))} {values[1]}"
        paired = as_dict(last.get("paired"))
        if number(paired.get("difference")) is not None and text(paired.get("against")) == text(first.get("policy")):
            change = with_interval(paired, "difference", digits=digits, scale=scale, sign=True)
            points = " points" if unit else ""
            sentence += f": {change.replace(' [', f'{points} [')} with 95%, {count(paired.get('n'))} items, paired"
            low, high = number(paired.get("low")), number(paired.get("high"))
            if low is not None and high is not None and low <= 0 <= high:
                sentence += "; not told from noise"
        if text(done.get("policy")) == text(first.get("policy")):
            sentence += f"; {text(first.get('policy'))} is kept: no round is better on the development suite"
        found.append(sentence + ".")
    return found + [part.outcome for part in parts_of(events) if part.outcome]


def _oracle_recipe(run: Event) -> bool:
    section = text(run.get("method")).rpartition(":")[2]
    return any(dig(run, "recipe", *path, "kind") == "oracle" for path in ((section, "judge"), ("judge",)) if all(path))


def first_and_kept(events: Sequence[Event], by_policy: dict[str, Event]) -> tuple[Event | None, Event | None]:
    """The first policy's evaluation and the kept one's (the last, while the run goes on); None unless they differ."""
    done = next(reversed(of_kind(events, "done")), {})
    measured = [policy for policy in policies_of(events) if policy in by_policy]
    if len(measured) < 2:
        return None, None
    kept = text(done.get("policy"))
    last = kept if kept in measured[1:] else measured[-1]  # where the first is kept, what the rounds came to is said
    return by_policy[measured[0]], by_policy[last]


def before_after(events: Sequence[Event], most: int = 8) -> Table:
    """The first items of a suite that the kept policy answers otherwise right or wrong than the first one did, under a
    title that counts all of these; nothing where the suite keeps no answers."""
    rows: list[dict[str, str]] = []
    better = worse = seen = 0
    names = ("before", "after")
    for suite, by_policy in evaluations_of(events).items():
        first, last = first_and_kept(events, by_policy)
        if first is None or last is None:
            continue
        names = (text(first.get("policy")), text(last.get("policy")))
        for one, other in zip(as_list(first.get("answers")), as_list(last.get("answers")), strict=False):
            if text(one.get("prompt")) != text(other.get("prompt")):
                continue
            seen += 1
            marks = _mark(one.get("value")), _mark(other.get("value"))
            better += marks == ("wrong", "right")
            worse += marks == ("right", "wrong")
            if marks[0] != marks[1] and len(rows) < most:
                said = {
                    "before": text(one.get("text")),
                    "was": marks[0],
                    "after": text(other.get("text")),
                    "is": marks[1],
                }
                rows.append({"suite": suite, "prompt": text(one.get("prompt")), **said})
    title = f"Before and after: of the first {seen} items {better} became right and {worse} wrong; the first of these"
    suites = [Col("suite")] if len({row["suite"] for row in rows}) > 1 else []
    answers = [Col(names[0], "before"), Col("", "was"), Col(names[1], "after"), Col("", "is")]
    return Table(title, rows, [*suites, Col("prompt"), *answers])


def _mark(value: Any) -> str:
    found = number(value)
    return "missing" if found is None else "right" if found >= 0.5 else "wrong"
