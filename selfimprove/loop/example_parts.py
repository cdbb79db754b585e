"""Example pairs in the report: both rankings of every response, and why a pair was made as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.judged_examples import Judged, JudgedExamples, Side
from selfimprove.report.part import Part
from selfimprove.report.summary import count, dig, fixed, number, round_number, rounds_of, text
from selfimprove.report.table import Col, Table, as_list, decimals

_SIGNED = decimals(3, sign=True)
Row = dict[str, Any]


def pairs_part(events: Sequence[Event]) -> Part:
    return Part(
        "Example pairs",
        "Written by the model. The first pairs of each round, and those others whose two rankings agree least. "
        "c is how far a label is trusted in training; C_j is the consistency of the prompt.",
        examples=[_of_round(event) for event in rounds_of(events)],
    )


def _of_round(event: Event) -> JudgedExamples:
    """The examples of a `round` event. Those of older runs know chosen and rejected only."""
    policy, current, previous = text(event.get("policy")), *_rankings(event)
    unit = text(dig(event, "rewards", "unit")) or "nats"
    whose = f"Rewards are {current}'s, in {unit}. Previous ranking: {previous}."
    return JudgedExamples(
        f"Round {round_number(event)}" + (f", trained into {policy}" if policy else ""),
        [_example(event, one) for one in as_list(event.get("examples"))],
        whose if previous else f"Rewards are in {unit}.",
    )


def _rankings(event: Event) -> tuple[str, str]:
    return text(dig(event, "rankings", "current")), text(dig(event, "rankings", "previous"))


def _example(event: Event, one: Any) -> Judged:
    rows = _ranked([row for row in as_list(dig(one, "responses")) if isinstance(row, dict)])
    for row in rows:
        row["text"] = dig(one, row["role"]) if row.get("role") else row.get("text")
    measure, picked = text(dig(event, "consistency", "measure")), text(dig(one, "picked"))
    figures = [
        ("picked for", "" if picked == "first" else picked),
        ("label trusted, c", fixed(dig(one, "confidence"), 2)),
        (f"C_j ({measure})" if measure else "C_j", fixed(dig(one, "consistency"), 2)),
        ("Kendall's tau", fixed(dig(one, "tau"), 2, sign=True)),
    ]
    return Judged(
        prompt=text(dig(one, "prompt")),
        figures=[(name, value) for name, value in figures if value],
        why="",
        sides=[_side(one, role, rows) for role in ("chosen", "rejected")],
        text=_why(event, one, rows) if rows else "",
        all=_all(rows),
    )


def _ranked(rows: Sequence[Row]) -> list[Row]:
    """The responses with their places in both rankings, by the first: 1 for the highest; equal scores share the better
    place, as in sports."""

    def place(row: Row, key: str) -> int | None:
        own = number(row.get(key))
        if own is None:
            return None
        return 1 + sum(other > own for one in rows if (other := number(one.get(key))) is not None)

    placed = [{**row, "place": place(row, "reward"), "previous_place": place(row, "previous")} for row in rows]
    return sorted(placed, key=lambda row: (row["place"] is None, row["place"]))


def _side(one: Any, role: str, rows: Sequence[Row]) -> Side:
    row = next((row for row in rows if row.get("role") == role), None)
    if row is None:  # of an older run
        reward = fixed(dig(one, f"{role}_reward"), 3)
        return Side(role, f"reward {reward}" if reward else "", text(dig(one, role)), right=dig(one, f"{role}_right"))
    note = f"reward {_SIGNED(row.get('reward'))}, {ordinal(row['place'])}" if row["place"] else ""
    if row["previous_place"]:
        note += f" · previous {_SIGNED(row.get('previous'))}, {ordinal(row['previous_place'])}"
    return Side(role, note, text(row.get("text")), right=row.get("right"))


def _all(rows: Sequence[Row]) -> Table:
    columns = [
        Col("place", show=ordinal),
        Col("previous place", "previous_place", ordinal),
        Col("response", "text"),
        Col("role"),
        Col("answer", "right", lambda right: {True: "✓ right", False: "✗ wrong"}.get(right, "")),
        Col("reward", show=_SIGNED),
        Col("previous reward", "previous", _SIGNED),
        Col("tokens", show=count),
        Col("cut off", "truncated", lambda cut: "truncated" if cut is True else ""),
    ]
    return Table(f"All {len(rows)} responses in both rankings", rows, columns)


def ordinal(place: int | None) -> str:
    """1st, 2nd, 3rd, 4th, 11th; empty for None."""
    if place is None:
        return ""
    ending = {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th") if place % 100 not in (11, 12, 13) else "th"
    return f"{place}{ending}"


def _why(event: Event, one: Any, rows: Sequence[Row]) -> str:
    """One sentence or two: the place of both responses in both rankings, and what their agreement did to the label."""
    unit = text(dig(event, "rewards", "unit"))
    judge = "score" if unit == "score" else text(event.get("judge")) or "reward"
    scores = [score for row in rows if (score := number(row.get("reward"))) is not None]
    sentences = []
    for side, extreme, best in (("chosen", "highest", max), ("rejected", "lowest", min)):
        row = next((row for row in rows if row.get("role") == side), {})
        own = number(row.get("reward"))
        if own is None:
            continue
        if own == best(scores):
            ties = scores.count(own) - 1
            place = f"{extreme} {judge} of {len(scores)}" + (
                f", which {ties} more {'has' if ties == 1 else 'have'}" * (ties > 0)
            )
        else:
            place = f"{judge} in {ordinal(row['place'])} place of {len(scores)}; the others do not count"
        then = ordinal(row["previous_place"])
        sentences.append(f"{side.capitalize()}: {place}" + (f" (previous ranking: {then})" if then else ""))
    return ". ".join([*sentences, _label(event, one)]) + "."


def _label(event: Event, one: Any) -> str:
    trust = number(dig(one, "confidence"))
    tau = fixed(dig(one, "tau"), 2, sign=True)
    agreed = f"The two rankings agree with tau {tau}, and the" if tau else "The"
    if trust is None or trust >= 1:
        return f"{agreed} label is not softened"
    undefined = number(dig(one, "consistency")) is None
    of_prompt = "the round's mean, as this prompt has none of its own" if undefined else "this prompt's consistency"
    own = {"avg": "the round's mean consistency", "constant": "as the recipe says", "dyn": of_prompt}
    turned = "turned round by" if trust < 0.5 else "softened to"
    why = own.get(text(dig(event, "consistency", "mode")), "")
    return f"{agreed} label is {turned} c = {trust:.2f}" + (f", {why}" if why else "")
