"""Example pairs as the report shows them: both rankings of every response, and why a pair was made as it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, fixed, number, round_number, text


@dataclass
class Answer:
    """One response. `rank` and `previous_rank` are places like "2nd", empty where unknown; `mark` is "right", "wrong"
    or empty."""

    role: str
    text: str
    mark: str
    reward: str
    rank: str
    previous: str
    previous_rank: str
    tokens: str


@dataclass
class Example:
    prompt: str
    picked: str
    figures: list[tuple[str, str]]
    why: str
    sides: list[Answer]
    all: list[Answer]


@dataclass
class RoundExamples:
    round: int
    policy: str
    unit: str
    current: str
    previous: str
    examples: list[Example]


def examples_of(event: Event) -> RoundExamples:
    """The examples of a `round` event. Those of older runs know chosen and rejected only."""
    found = event.get("examples")
    return RoundExamples(
        round=round_number(event),
        policy=text(event.get("policy")),
        unit=text(dig(event, "rewards", "unit")) or "nats",
        current=text(dig(event, "rankings", "current")),
        previous=text(dig(event, "rankings", "previous")),
        examples=[_example(event, example) for example in found] if isinstance(found, list) else [],
    )


def _example(event: Event, example: Any) -> Example:
    responses = dig(example, "responses")
    rows = [row for row in responses if isinstance(row, dict)] if isinstance(responses, list) else []
    answers = [_answer(example, row, rows) for row in rows]
    sides = []
    for side in ("chosen", "rejected"):
        own = next((answer for answer in answers if answer.role == side), None)
        reward = fixed(dig(example, f"{side}_reward"), 3)
        mark = _mark(dig(example, f"{side}_right"))
        sides.append(own or Answer(side, text(dig(example, side)), mark, reward, "", "", "", ""))
    measure = text(dig(event, "consistency", "measure"))
    figures = [
        ("label trusted, c", fixed(dig(example, "confidence"), 2)),
        (f"C_j ({measure})" if measure else "C_j", fixed(dig(example, "consistency"), 2)),
        ("Kendall's tau", fixed(dig(example, "tau"), 2, sign=True)),
    ]
    return Example(
        prompt=text(dig(example, "prompt")),
        picked="" if dig(example, "picked") in (None, "first") else text(dig(example, "picked")),
        figures=[(name, value) for name, value in figures if value],
        why=_why(event, example, rows) if rows else "",
        sides=sides,
        all=sorted(answers, key=lambda answer: int(answer.rank[:-2] or 10**6)),
    )


def _answer(example: Any, row: dict[str, Any], rows: list[dict[str, Any]]) -> Answer:
    role = text(row.get("role"))
    truncated = " (truncated)" if row.get("truncated") is True else ""
    return Answer(
        role=role,
        text=text(dig(example, role) if role else row.get("text")),
        mark=_mark(row.get("right")),
        reward=fixed(row.get("reward"), 3, sign=True),
        rank=ordinal(_rank(row, rows, "reward")),
        previous=fixed(row.get("previous"), 3, sign=True),
        previous_rank=ordinal(_rank(row, rows, "previous")),
        tokens=count(row.get("tokens")) + truncated,
    )


def _mark(right: Any) -> str:
    return {True: "right", False: "wrong"}.get(right, "") if isinstance(right, bool) else ""


def _rank(row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> int | None:
    """1 for the highest; equal scores share the better place, as in sports."""
    own = number(row.get(key))
    if own is None:
        return None
    return 1 + sum(other > own for one in rows if (other := number(one.get(key))) is not None)


def ordinal(place: int | None) -> str:
    """1st, 2nd, 3rd, 4th, 11th; empty for None."""
    if place is None:
        return ""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{ending}"


def _why(event: Event, example: Any, rows: list[dict[str, Any]]) -> str:
    """One sentence or two: the place of both responses in both rankings, and what their agreement did to the label."""
    unit = text(dig(event, "rewards", "unit"))
    judge = "score" if unit == "score" else text(event.get("judge")) or "reward"
    scored = sum(number(row.get("reward")) is not None for row in rows)
    sentences = []
    for side, extreme in (("chosen", "highest"), ("rejected", "lowest")):
        row = next((row for row in rows if row.get("role") == side), None)
        own = number(row.get("reward")) if row else None
        if row is None or own is None:
            continue
        ahead = [other for one in rows if (other := number(one.get("reward"))) is not None]
        if own == (max(ahead) if side == "chosen" else min(ahead)):
            ties = ahead.count(own) - 1
            place = f"{extreme} {judge} of {scored}" + (
                f", which {ties} more {'has' if ties == 1 else 'have'}" * (ties > 0)
            )
        else:
            place = f"{judge} in {ordinal(_rank(row, rows, 'reward'))} place of {scored}; the others do not count"
        then = ordinal(_rank(row, rows, "previous"))
        sentences.append(f"{side.capitalize()}: {place}" + (f" (previous ranking: {then})" if then else ""))
    return ". ".join([*sentences, _label(event, example)]) + "."


def _label(event: Event, example: Any) -> str:
    trust = number(dig(example, "confidence"))
    tau = fixed(dig(example, "tau"), 2, sign=True)
    agreed = f"The two rankings agree with tau {tau}, and the" if tau else "The"
    mode = text(dig(event, "consistency", "mode"))
    own = {"avg": "the round's mean consistency", "constant": "as the recipe says"}
    if mode == "dyn":
        undefined = number(dig(example, "consistency")) is None
        own["dyn"] = (
            "the round's mean, as this prompt has none of its own" if undefined else "this prompt's consistency"
        )
    if trust is None or trust >= 1:
        return f"{agreed} label is not softened"
    turned = "turned round by" if trust < 0.5 else "softened to"
    return f"{agreed} label is {turned} c = {trust:.2f}" + (f", {own[mode]}" if mode in own else "")
