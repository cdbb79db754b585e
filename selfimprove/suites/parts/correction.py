"""What became of first attempts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import COLOURS, Chart, dots, lines
from selfimprove.report.evaluated import BARS, NAMES, by_suite, evaluated, names_in, point, whole
from selfimprove.report.events import Event
from selfimprove.report.judged_examples import Judged, Side, examples_of, words
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, in_rounds, number, numbers, text
from selfimprove.report.table import Col, Table, as_dict, as_list, count, counts, interval, rate

KEY = "self_correction"
_POINTS = interval(scale=100, sign=True)
_BECAME = [
    Col("wrong, then right, % [95%]", "own.i_to_c", rate),
    Col("right, then wrong, % [95%]", "own.c_to_i", rate),
    Col("another answer, % [95%]", "own.change", rate),
    Col("copied whole, % [95%]", "own.copy", rate),
    Col("edit ratio [95%]", "own.edit_ratio", interval(digits=3)),
]
# the way to spend the tokens -> what it is called, and the figure that compares corrected attempts with it
_ARMS = {
    "corrected": ("{}, each corrected", ""),
    "parallel": ("{} first", "difference"),
    "equal_tokens": ("{} first (as many tokens)", "difference_at_equal_tokens"),
}


def correction_part(events: Sequence[Event]) -> Part:
    """Suites of several attempts."""
    rows = evaluated(events, "accuracy", KEY, has="turns")
    turns = names_in(rows, "own", "turns")
    return Part(
        "Does it correct itself?",
        "The policy reads its own first attempt and an instruction that does not say whether it was right, and "
        "answers again. Shares are of all items; Delta = (wrong, then right) - (right, then wrong). Copied whole: "
        "the second response is the first, character for character. The edit ratio is the edit distance divided "
        "by both lengths: 0 for a copy.",
        [_turns(rows, joined=in_rounds(events)), _edit_ratios(rows)],
        [_attempts(rows, turns), _steps(rows), _votes(rows)],
        examples_of(rows, _example, "Attempts"),
        notes=_notes(rows, turns),
        place="quality",
    )


def _attempts(rows: Sequence[Any], turns: Sequence[str]) -> Table:
    cols = [
        *NAMES,
        *(Col(f"Acc@t{turn}, % [95%]", f"own.turns.{turn}", rate) for turn in turns),
        Col("Delta, points [95%]", "own.delta", _POINTS),
        *_BECAME,
        *(Col(f"truncated, turn {turn}, % [95%]", f"own.turns.{turn}.truncated", rate) for turn in turns),
        Col("items", "own.delta.n", count),
        Col("missing", lambda row: {turn: dig(row, "own", "turns", turn, "missing") for turn in turns}, _missing),
    ]
    return Table("First and last attempt", rows, cols, printed=True)


def _missing(by_turn: dict[str, Any]) -> str:
    return "; ".join(f"turn {turn}: {reasons}" for turn, found in by_turn.items() if (reasons := counts(found)))


def _steps(rows: Sequence[Any]) -> Table:
    """From each turn to the next; only dialogues of more than two turns have any."""
    steps = [row | {"own": step} for row in rows for step in as_list(row["own"].get("steps"))]
    cols = [
        *NAMES,
        Col("turns", lambda row: f"{text(dig(row, 'own', 'from'))} to {text(dig(row, 'own', 'to'))}"),
        Col("Delta, points [95%]", "own.delta", _POINTS),
        *_BECAME,
    ]
    return Table("From turn to turn", steps, cols, printed=True)


def _votes(rows: Sequence[Any]) -> Table:
    """One row for each way to spend the tokens."""
    arms = [
        row | {"own": found, "votes": votes, "attempts": name.format(count(attempts)), "less": dig(votes, against)}
        for row in rows
        for votes in [row["own"].get("vote")]
        for arm, (name, against) in _ARMS.items()
        if isinstance(found := dig(votes, arm), dict)
        for attempts in [dig(votes, "samples") if arm == "corrected" else found.get("attempts")]
    ]
    cols = [
        *NAMES,
        Col("temperature", "votes.temperature"),
        Col("attempts"),
        Col("vote, % [95%]", "own", rate),
        Col("corrected minus it, points [95%]", "less", _POINTS),
        Col("items", "own.n", count),
        Col("tokens written", "own.tokens_written", whole),
        Col("tokens read", "own.tokens_read", whole),
    ]
    return Table("Votes of corrected and of first attempts", arms, cols, printed=True)


def _notes(rows: Sequence[Any], turns: Sequence[str]) -> list[str]:
    if not rows:
        return []
    notes = [
        f"Delta and what became of attempts: from turn 1 to turn {turns[-1]}, whose accuracy is the suite's. "
        "[95%]: Wilson's for shares, and of its kind for differences and the ratio."
    ]
    if any(row["own"].get("feedback") for row in rows):
        notes.append("Before each later attempt the policy wrote feedback on its own answer (Self-Refine).")
    votes = [found for row in rows if (found := as_dict(row["own"].get("vote")))]
    if votes:
        notes.append(
            "Votes, for the most frequent answer: of attempts each corrected once, against as many first attempts as "
            "that is samples, and against as many as the same written tokens pay for."
        )
    if any(one.get("capped") is True for one in votes):
        notes.append("The same tokens would pay for more first attempts than are ever drawn (16 times the samples).")
    return notes


def _turns(rows: Sequence[Any], joined: bool) -> Chart:
    dotted = [
        one
        for row in rows
        for place, (turn, found) in enumerate(row["own"]["turns"].items())
        for one in point(row["policy"], found, scale=100, series=f"Acc@t{turn}", ring=place == 0, panel=row["panel"])
    ]
    note = f"{BARS} Ring: the first attempt."
    return dots("Accuracy of each turn", dotted, "policy", "accuracy (%)", note, joined=joined)


def _edit_ratios(rows: Sequence[Any]) -> Chart:
    """The share of items in each bin, of many policies the last ones."""
    counted = [row | {"bins": bins} for row in rows if sum(bins := numbers(dig(row, "own", "edit_ratio", "histogram")))]
    stairs = [
        {"x": place / len(bins), "y": 100 * one / sum(bins), "series": row["policy"], "panel": row["panel"]}
        for some in by_suite(counted).values()
        for row in some[-len(COLOURS) :]
        for bins in [row["bins"]]
        for place, one in enumerate([*bins, bins[-1]])  # the last bin ends where a further one would begin
    ]
    note = "Edit distance divided by both lengths, in ten bins: at the left, copies and small edits."
    return lines(
        "How much of the first attempt changed", stairs, "edit ratio", "items (%)", note, stairs=True, values=(0, None)
    )


def _example(row: Any, one: dict[str, Any]) -> Judged:
    answer = text(one.get("answer"))
    sides: list[Side] = []
    for turn, attempt in enumerate(as_list(one.get("attempts")), 1):
        if said := words(dig(attempt, "feedback")):  # what the policy wrote before it (Self-Refine)
            sides.append(Side("feedback", "", said))
        sides.append(Side(f"turn {turn}", _outcome(attempt), words(dig(attempt, "text"))))
    figures = [("reference", answer if len(answer) <= 80 else answer[:79] + "…")] if answer else []
    return Judged(words(one.get("prompt")), figures, "", sides)


def _outcome(attempt: Any) -> str:
    word = {1.0: "right", 0.0: "wrong", None: "missing"}.get(number(dig(attempt, "value")), "")
    why = text(dig(attempt, "why"))
    return f"{word} ({why})" if why else word
