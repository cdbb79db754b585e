"""What came of a run, first: a sentence, the same items before and after, and what each round accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.label_tables import judge_sentence
from selfimprove.report.summary import (
    count,
    dig,
    evaluations_of,
    fixed,
    metric_of,
    number,
    of_kind,
    policies_of,
    rate,
    round_number,
    text,
    with_interval,
)
from selfimprove.report.tables import Table, as_dict, as_list, counts, short

ORACLE = "Judged by an ORACLE, which has the true labels: an upper bound, and no self-improvement."
NO_ARMS = (
    "One run without control arms says that it changed, not why: `selfimprove study` runs a recipe beside a "
    "placebo (random acceptance at the same rate)."
)


def outcome_sentences(events: Sequence[Event]) -> list[str]:
    """One for each suite: the kept policy against the first one that was measured; before them, whether an oracle
    judged. Nothing where fewer than two policies were measured."""
    done = next(reversed(of_kind(events, "done")), {})
    run = next(reversed(of_kind(events, "run")), {})
    found = [ORACLE] if done.get("oracle") or _oracle_recipe(run) else []
    for suite, by_policy in evaluations_of(events).items():
        first, last = _first_and_kept(events, by_policy)
        if first is None or last is None:
            continue
        metric = metric_of(last)
        unit = "%" if metric.scale == 100 else ""
        scale, digits = metric.scale, metric.digits
        values = [fixed(one.get("value"), digits, scale=scale) + unit for one in (first, last)]
        sentence = f"{suite}: {text(first.get('policy'))} {values[0]}, {text(last.get('policy'))} {values[1]}"
        paired = as_dict(last.get("paired"))
        if text(paired.get("against")) == text(first.get("policy")):
            change = with_interval(paired, "difference", digits=digits, scale=scale, sign=True)
            points = " points" if unit else ""
            sentence += f": {change.replace(' [', f'{points} [')} with 95%, {count(paired.get('n'))} items, paired"
            low, high = number(paired.get("low")), number(paired.get("high"))
            if low is not None and high is not None and low <= 0 <= high:
                sentence += "; not told from noise"
        if text(done.get("policy")) == text(first.get("policy")):
            sentence += f"; {text(first.get('policy'))} is kept: no round is better on the development suite"
        found.append(sentence + ".")
    if judge := judge_sentence(events):
        found.append(judge)
    return found


def _oracle_recipe(run: Event) -> bool:
    section = text(run.get("method")).rpartition(":")[2]
    return any(dig(run, "recipe", *path, "kind") == "oracle" for path in ((section, "judge"), ("judge",)) if all(path))


def _first_and_kept(events: Sequence[Event], by_policy: dict[str, Event]) -> tuple[Event | None, Event | None]:
    """The first policy's evaluation and the kept one's (the last, while the run goes on); None unless they differ."""
    done = next(reversed(of_kind(events, "done")), {})
    measured = [policy for policy in policies_of(events) if policy in by_policy]
    if len(measured) < 2:
        return None, None
    kept = text(done.get("policy"))
    last = kept if kept in measured[1:] else measured[-1]  # where the first is kept, what the rounds came to is said
    return by_policy[measured[0]], by_policy[last]


def before_after(events: Sequence[Event], most: int = 8) -> tuple[str, Table]:
    """The first items of a suite that the kept policy answers otherwise right or wrong than the first one did, and a
    title that counts all of these; nothing where the suite keeps no answers."""
    rows: list[list[str]] = []
    better = worse = seen = 0
    columns = ["suite", "prompt", "before", "", "after", ""]
    for suite, by_policy in evaluations_of(events).items():
        first, last = _first_and_kept(events, by_policy)
        if first is None or last is None:
            continue
        columns[2], columns[4] = text(first.get("policy")), text(last.get("policy"))
        for one, other in zip(as_list(first.get("answers")), as_list(last.get("answers")), strict=False):
            if text(one.get("prompt")) != text(other.get("prompt")):
                continue
            seen += 1
            marks = _mark(one.get("value")), _mark(other.get("value"))
            better += marks == ("wrong", "right")
            worse += marks == ("right", "wrong")
            if marks[0] != marks[1] and len(rows) < most:
                said = text(one.get("text")), text(other.get("text"))
                rows.append([suite, text(one.get("prompt")), said[0], marks[0], said[1], marks[1]])
    title = f"Before and after: of the first {seen} items {better} became right and {worse} wrong; the first of these"
    if len({row[0] for row in rows}) == 1:
        return title, Table(columns[1:], [row[1:] for row in rows])
    return title, Table(columns, rows)


def _mark(value: Any) -> str:
    found = number(value)
    return "missing" if found is None else "right" if found >= 0.5 else "wrong"


def acceptance_table(events: Sequence[Event]) -> Table:
    """One row a round: what was sampled, accepted and kept."""
    rows = []
    for event in of_kind(events, "acceptance"):
        rows.append(
            [
                str(round_number(event)),
                text(event.get("policy")),
                text(event.get("judge")),
                count(event.get("prompts")),
                count(event.get("responses")),
                count(event.get("accepted")),
                count(event.get("kept")),
                rate(event.get("accepted_share")),
                rate(event.get("lenient_1")),
                rate(event.get("pass_k")),
                count(event.get("k")),
                with_interval(event.get("distinct"), "value", digits=2),
                with_interval(event.get("entropy"), "value", digits=2),
                fixed(event.get("truncated_share"), 1, scale=100),
                counts(event.get("missing")),
            ]
        )
    columns = ["round", "samples of", "judge", "prompts", "responses", "accepted", "kept", "accepted, % [95%]"]
    columns += ["lenient, % [95%]", "pass@k, % [95%]", "k", "distinct accepted a prompt [95%]"]
    return Table([*columns, "-log p, nats per token [95%]", "truncated, %", "missing"], rows)


def never_accepted(events: Sequence[Event]) -> str:
    """The kinds of prompts of which no response was accepted in any round, in a sentence; empty where there is none."""
    rounds = [as_dict(event.get("without")) for event in of_kind(events, "acceptance")]
    prompts: dict[str, float] = {}
    taught: set[str] = set()
    for found in rounds:
        for kind, (none, many) in found.items():
            prompts[kind] = prompts.get(kind, 0) + many
            if none < many:
                taught.add(kind)
    never = [f"{kind} ({count(many)} prompts)" for kind, many in prompts.items() if kind not in taught]
    if not never or not taught:
        return ""
    return f"Never right in any sample: {', '.join(never)}. Filtering cannot teach what is never sampled."


def without_table(events: Sequence[Event]) -> Table:
    """By kind of prompt and round: prompts none of whose responses was accepted. Filtering cannot teach these."""
    rounds = {round_number(event): as_dict(event.get("without")) for event in of_kind(events, "acceptance")}
    kinds = dict.fromkeys(kind for found in rounds.values() for kind in found)
    rows = []
    for kind in kinds:
        cells = [as_list(found.get(kind)) for found in rounds.values()]
        rows.append([text(kind), *(f"{short(one[0])} of {short(one[1])}" if len(one) == 2 else "" for one in cells)])
    return Table(["kind", *(f"round {round_}: prompts with none" for round_ in rounds)], rows)


def kept_table(events: Sequence[Event]) -> Table:
    """Some kept responses beside one of the same prompt that was not kept."""
    rows = [
        [str(round_number(event)), text(one.get("prompt")), text(one.get("kept")), text(one.get("not_kept"))]
        for event in of_kind(events, "acceptance")
        for one in as_list(event.get("examples"))
    ]
    return Table(["round", "prompt", "kept", "not kept"], rows)
