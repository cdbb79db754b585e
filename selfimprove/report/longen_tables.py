"""Lengths that queries demanded and texts have, as tables: of the report, and as lines of the terminal's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.preference_tables import COST_COLUMNS, cost_cells, missing_of
from selfimprove.report.summary import count, dig, evaluations_of, fixed, policies_of, rate, text, with_interval
from selfimprove.report.tables import Table, as_dict, as_list

KEY = "length_following"
# in the order of every table
KINDS = {"about": "around N", "range": "A to B", "above": "more than N", "below": "less than N"}


def lengths_of(events: Sequence[Event]) -> dict[str, dict[str, Event]]:
    """suite -> policy -> evaluation, of the suites of long texts, policies in the order they were made."""
    return {
        suite: {policy: by_policy[policy] for policy in policies_of(events) if policy in by_policy}
        for suite, by_policy in evaluations_of(events, KEY).items()
    }


def _rows(events: Sequence[Event]) -> Iterator[tuple[str, str, Event]]:
    for suite, by_policy in lengths_of(events).items():
        for policy, event in by_policy.items():
            yield suite, policy, event


def _names(events: Sequence[Event], *keys: str) -> list[str]:
    """The names under a figure of any of these evaluations."""
    return list(dict.fromkeys(name for event in events for name in as_dict(dig(event, KEY, *keys))))


def _score(found: Any) -> str:
    return with_interval(found, "value", digits=3)


def scores_table(events: Sequence[Event]) -> Table:
    """One row for each policy: length scores over all items, by kind and by language."""
    rows = list(_rows(events))
    languages = _names([event for _, _, event in rows], "languages")
    cells = [
        [
            suite,
            policy,
            _score(event),
            *(_score(dig(event, KEY, "kinds", kind)) for kind in KINDS),
            *(_score(dig(event, KEY, "languages", language)) for language in languages),
            count(event.get("n")),
        ]
        for suite, policy, event in rows
    ]
    columns = ["suite", "policy", *(f"{name} [95%]" for name in ("all", *KINDS.values(), *languages)), "items"]
    return Table(columns, cells)


def texts_table(events: Sequence[Event]) -> Table:
    """Words of the texts, how many did not end, and how much they repeat themselves."""
    rows = [
        [
            suite,
            policy,
            with_interval(dig(event, KEY, "words"), "value", digits=0),
            fixed(dig(event, KEY, "words", "median"), 0),
            rate(dig(event, KEY, "unfinished")),
            _score(dig(event, KEY, "distinct_4")),
            with_interval(dig(event, KEY, "longest_repeat"), "value"),
        ]
        for suite, policy, event in _rows(events)
    ]
    columns = ["suite", "policy", "mean, words [95%]", "median, words", "unfinished, % [95%]", "distinct-4 [95%]"]
    return Table([*columns, "longest repeated run, words [95%]"], rows)


def quality_table(events: Sequence[Event]) -> Table:
    """A judge's scores, over all dimensions and of each; nothing without a judge."""
    judged = [(suite, policy, event) for suite, policy, event in _rows(events) if as_dict(dig(event, KEY, "quality"))]
    dimensions = _names([event for _, _, event in judged], "quality", "dimensions")
    rows = []
    for suite, policy, event in judged:
        found = dig(event, KEY, "quality")
        rows.append(
            [
                suite,
                policy,
                with_interval(found, "value", digits=2),
                *(with_interval(dig(found, "dimensions", name), "value", digits=2) for name in dimensions),
                count(dig(found, "n")),
                missing_of(found),
                text(dig(found, "judge")),
                *cost_cells(found),
            ]
        )
    columns = ["suite", "policy", "quality [95%]", *(f"{name} [95%]" for name in dimensions), "texts", "missing"]
    return Table([*columns, "judge", *COST_COLUMNS], rows)


Line = tuple[str, Callable[[Event], str]]


def length_lines(by_policy: dict[str, Event]) -> list[Line]:
    """The terminal's lines: a name, and how its cell is read from an evaluation."""
    events = list(by_policy.values())

    def at(*keys: str, digits: int = 3) -> Callable[[Event], str]:
        return lambda event: with_interval(dig(event, KEY, *keys), "value", digits=digits)

    return [
        *((name, at("kinds", kind)) for kind, name in KINDS.items()),
        *((name, at("languages", name)) for name in _names(events, "languages")),
        ("words", at("words", digits=0)),
        ("unfinished, %", lambda event: rate(dig(event, KEY, "unfinished"))),
        ("distinct-4", at("distinct_4")),
        ("longest repeated run", at("longest_repeat", digits=1)),
        ("quality", at("quality", digits=2)),
        *(
            (f"  {name}", at("quality", "dimensions", name, digits=2))
            for name in _names(events, "quality", "dimensions")
        ),
    ]


def length_notes(by_policy: dict[str, Event]) -> list[str]:
    """What the lines mean, below them."""
    notes = [
        "1: the length is within the demand's bounds. Distinct-4: share of different ones among a text's runs of four "
        "words; longest repeated run: words that occur twice in one text, means over the texts."
    ]
    for policy, event in by_policy.items():
        if found := as_dict(dig(event, KEY, "quality")):
            scale = " to ".join(map(count, as_list(found.get("scale"))))
            judge, missing = text(found.get("judge")), missing_of(found)
            notes.append(f"Quality of {policy}, {scale}, judged by {judge}; verdicts missing: {missing}.")
    return notes
