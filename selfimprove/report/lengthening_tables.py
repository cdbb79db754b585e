"""Tables of Self-Lengthen's rounds: how long the texts are, how much they repeat, and what the filters rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, fixed, of_kind, round_number, text
from selfimprove.report.tables import Table, as_dict, as_list

_TEXTS = {"initial": "answers of the Generator", "extended": "longer texts of the Extender"}


def rounds_of_texts(events: Sequence[Event]) -> list[Event]:
    """The `lengths` events in order; of two for the same round, the later one."""
    return [event for _, event in sorted({round_number(one): one for one in of_kind(events, "lengths")}.items())]


def lengths_table(events: Sequence[Event]) -> Table:
    """Two rows for each round: words of the answers and of the longer texts that were kept."""
    rows = []
    for event in rounds_of_texts(events):
        for key, name in _TEXTS.items():
            found = as_dict(event.get(key))
            rows.append(
                [
                    str(round_number(event)),
                    name,
                    count(found.get("n")),
                    fixed(found.get("mean"), 0),
                    *(fixed(one, 0) for one in as_list(found.get("quantiles"))),
                    fixed(event.get("growth"), 2) if key == "extended" else "",
                    count(event.get("only_repetition")) if key == "extended" else "",
                    fixed(found.get("distinct_4"), 3),
                    fixed(found.get("longest_repeat"), 1),
                ]
            )
    columns = ["round", "texts", "n", "mean, words", "10%", "25%", "median", "75%", "90%", "growth, median"]
    columns.append("grew by repetition alone")
    return Table([*columns, "distinct-4", "longest repeated run, words"], rows)


def filters_table(events: Sequence[Event]) -> Table:
    """What each filter kept, and why it rejected, over all tries."""
    rows = [
        [
            str(round_number(event)),
            text(event.get("what")),
            count(event.get("wanted")),
            count(event.get("kept")),
            ", ".join(f"{why}: {count(n)}" for why, n in as_dict(event.get("rejected")).items()),
        ]
        for event in _latest(of_kind(events, "filter"))
    ]
    return Table(["round", "filter", "wanted", "kept", "rejected, over all tries"], rows)


def texts_table(events: Sequence[Event]) -> Table:
    """A few texts of each round, before and after."""
    rows = [
        [str(round_number(event)), *(text(dig(one, key)) for key in ("instruction", "initial", "longer"))]
        for event in rounds_of_texts(events)
        for one in as_list(event.get("examples"))
    ]
    return Table(["round", "instruction", "answer", "longer text"], rows)


def _latest(events: Sequence[Event]) -> list[Event]:
    """The last event of each filter of a round: a recipe that was changed writes another one."""
    found: dict[tuple[Any, Any], Event] = {}
    for event in events:
        found[event.get("round"), event.get("what")] = event
    return list(found.values())
