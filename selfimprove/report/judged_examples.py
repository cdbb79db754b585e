"""Some judged outputs as the report shows them: what was asked, what was written, and what the judge said."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.report import correction_tables
from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, evaluations_of, fixed, number, policies_of, text
from selfimprove.report.table import Table


@dataclass
class Side:
    """One text beside others: whose it is, a figure about it, whether it was the preferred one, and whether it is right
    where that is known."""

    name: str
    note: str
    text: str
    won: bool = False
    right: bool | None = None


@dataclass
class Judged:
    """`why` is the reason for which there is no verdict, empty where there is one; `text` says how the verdict came
    about, and `all` is every response that there was."""

    prompt: str
    figures: list[tuple[str, str]]
    why: str
    sides: list[Side]
    text: str = ""
    all: Table | None = None


@dataclass
class JudgedExamples:
    title: str
    examples: list[Judged]
    text: str = ""


def judged_examples(events: Sequence[Event], kind: str) -> list[JudgedExamples]:
    """The examples of the win rates (`kind` "preference"), of the ratings ("rating"), of long texts
    ("length_following") or of several attempts ("self_correction"), by suite and policy."""
    if kind == correction_tables.KEY:
        return _corrected(events)
    if kind not in _MAKERS:
        return []
    make = _MAKERS[kind]
    found = []
    for suite, by_policy in evaluations_of(events, kind).items():
        for policy in policies_of(events):
            source = dig(by_policy.get(policy), kind)
            given = dig(source, "examples")
            examples = [make(policy, source, one) for one in given if isinstance(one, dict)] if _is_list(given) else []
            if examples:
                against = text(dig(source, "against"))
                title = f"Judged outputs of {policy}" + (f" against {against}" if against else "") + f" on {suite}"
                found.append(JudgedExamples(title, examples))
    return found


def _pair(policy: str, source: Any, one: dict[str, Any]) -> Judged:
    """A preference above one half is for the policy; at a tie neither side is marked."""
    preference = number(one.get("preference"))
    opponent = text(dig(source, "against")) or "opponent"
    lengths = [
        f"{length} characters" if (length := count(one.get(key))) else "" for key in ("length", "against_length")
    ]
    shown = fixed(preference, 2)
    return Judged(
        prompt=_words(one.get("prompt")),
        figures=[(f"preference for {policy}", shown + " (tie)" * (preference == 0.5))] if shown else [],
        why="" if preference is not None else text(one.get("why")) or "unknown",
        sides=[
            Side(policy, lengths[0], _words(one.get("output")), preference is not None and preference > 0.5),
            Side(opponent, lengths[1], _words(one.get("against_output")), preference is not None and preference < 0.5),
        ],
    )


def _rated(policy: str, source: Any, one: dict[str, Any]) -> Judged:
    rating = number(one.get("rating"))
    ends = [text(dig(source, end)) for end in ("low", "high")]
    scale = f" ({ends[0]} to {ends[1]})" if all(ends) else ""
    return Judged(
        prompt=_words(one.get("prompt")),
        figures=[("rating", f"{rating:g}{scale}")] if rating is not None else [],
        why="" if rating is not None else text(one.get("why")) or "unknown",
        sides=[
            Side(policy, "", _words(one.get("output"))),
            Side("the judge", text(dig(source, "judge")), _words(one.get("verdict"))),
        ],
    )


def _long(policy: str, source: Any, one: dict[str, Any]) -> Judged:
    figures = [(name, fixed(one.get(key), 2)) for name, key in (("length score", "score"), ("quality", "quality"))]
    verdict = _words(one.get("verdict"))
    judged = [Side("the judge", text(dig(source, "quality", "judge")), verdict)] if verdict else []
    return Judged(
        prompt=_words(one.get("prompt")),
        figures=[(name, shown) for name, shown in figures if shown],
        why=text(one.get("why")),
        sides=[Side(policy, f"{count(one.get('words'))} words", _words(one.get("output"))), *judged],
    )


def _corrected(events: Sequence[Event]) -> list[JudgedExamples]:
    found = []
    for suite, by_policy in correction_tables.corrections_of(events).items():
        for policy, event in by_policy.items():
            given = dig(event, correction_tables.KEY, "examples")
            if examples := [_attempts(one) for one in given if isinstance(one, dict)] if _is_list(given) else []:
                found.append(JudgedExamples(f"Attempts of {policy} on {suite}", examples))
    return found


def _attempts(one: dict[str, Any]) -> Judged:
    answer, attempts = text(one.get("answer")), one.get("attempts")
    return Judged(
        prompt=_words(one.get("prompt")),
        figures=[("reference", answer if len(answer) <= 80 else answer[:79] + "…")] if answer else [],
        why="",
        sides=[
            side
            for turn, attempt in enumerate(attempts if isinstance(attempts, list) else [], 1)
            for side in _sides(turn, attempt)
        ],
    )


def _sides(turn: int, attempt: Any) -> list[Side]:
    """An attempt, after the feedback that the policy wrote before it (Self-Refine)."""
    said = _words(dig(attempt, "feedback"))
    feedback = [Side("feedback", "", said)] if said else []
    return [*feedback, Side(f"turn {turn}", _outcome_of(attempt), _words(dig(attempt, "text")))]


def _outcome_of(attempt: Any) -> str:
    word = {1.0: "right", 0.0: "wrong", None: "missing"}.get(number(dig(attempt, "value")), "")
    why = text(dig(attempt, "why"))
    return f"{word} ({why})" if why else word


_MAKERS = {"preference": _pair, "rating": _rated, "length_following": _long}


def _words(value: Any) -> str:
    """A text; of several turns, one after another."""
    return "\n\n".join(text(one) for one in value) if _is_list(value) else text(value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)
