"""A file's scores, and answers with what was declined: in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table as TerminalTable
from rich.text import Text

from selfimprove.report.evaluation_tables import price
from selfimprove.report.events import Event
from selfimprove.report.summary import count, dig, fixed, number, of_kind, text, with_interval
from selfimprove.report.tables import Table, as_dict, as_list, counts
from selfimprove.report.text import visible

_BAR = 30  # characters of the longest bar


def last_of(events: Sequence[Event], kind: str) -> Event | None:
    """The newest event of the kind: of a run that was gone on with, what it says now."""
    return next(reversed(of_kind(events, kind)), None)


def scores_view(event: Event) -> Group:
    """What a judge's scores of a file are like, with a histogram in signs."""
    shown = " (the reference shown)" if event.get("reference") else ""
    lines = [f"scores of {text(event.get('data'))} by {text(event.get('judge'))}{shown}"]
    if event.get("mean"):
        n = f"{count(event.get('scored'))} of " * bool(event.get("missing")) + count(event.get("n"))
        lines.append(f"n {n}, mean {_mean(event)}, quartiles {_quartiles(event)}")
    if event.get("missing"):
        lines.append(f"missing: {counts(event['missing'])}")
    if cost := price(event.get("cost")):
        lines.append(f"cost: {cost}")
    return Group(*map(_line, [*lines, "", *_bars(as_dict(event.get("histogram")))]))


def answers_view(event: Event) -> Group:
    """What was answered and declined, with the first answers, cut to a line each."""
    table = TerminalTable(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("prompt", no_wrap=True, overflow="ellipsis", max_width=30)
    table.add_column("answer", no_wrap=True, overflow="ellipsis", max_width=36)
    table.add_column("score", justify="right", no_wrap=True)
    rows = as_list(event.get("examples"))
    for row in rows:
        said = Text("declined", style="dim") if dig(row, "declined") else Text(_one_line(dig(row, "answer")))
        table.add_row(Text(_one_line(dig(row, "prompt"))), said, fixed(dig(row, "score"), 2) or "-")
    more = int(number(event.get("n")) or 0) - len(rows)
    lines = [f"... and {more} more"] if more else []
    return Group(table, *map(_line, [*lines, "", *answer_lines(event)]))


def answer_lines(event: Event) -> list[str]:
    """How many were answered, the threshold and how it was chosen, in words."""
    n, declined = int(number(event.get("n")) or 0), as_dict(event.get("declined"))
    by = f", the best of {count(event.get('drawn'))} by {text(event.get('judge'))}" if event.get("judge") else ""
    answered = f"answered {n - sum(declined.values())} of {n} ({_share(event.get('answered'))})"
    lines = [f"{answered} with {text(event.get('policy'))}{by}"]
    if declined:
        reasons = ", ".join(f"{found} ({reason})" for reason, found in declined.items())
        lines.append(f"declined {sum(declined.values())}: {reasons}")
    if event.get("truncated"):
        lines.append(f"truncated at max_new_tokens: {count(event['truncated'])} of the answers")
    held_out = as_dict(event.get("held_out"))
    if held_out:
        value, of, shares = fixed(held_out.get("value"), 3), count(held_out.get("n")), ("coverage", "precision")
        lines.append(f"threshold {value}, chosen on {of} held-out prompts; there, so optimistic:")
        lines.append("  " + ", ".join(f"{name} {_share(_named(held_out, name))}" for name in shares))
        if held_out.get("unchecked"):
            lines.append(f"held-out answers that could not be checked, left out: {counts(held_out['unchecked'])}")
    elif event.get("threshold") is not None:
        lines.append(f"threshold {fixed(event['threshold'], 3)}, as given")
    return lines


def scores_table(events: Sequence[Event]) -> Table:
    """The report's table of a file's scores."""
    columns = ["file", "judge", "n", "mean [95%]", "quartiles", "missing", "cost"]
    event = last_of(events, "scores")
    if event is None:
        return Table(columns, [])
    cells = [text(event.get("data")), text(event.get("judge")), count(event.get("n")), _mean(event), _quartiles(event)]
    return Table(columns, [[*cells, counts(event.get("missing")), price(event.get("cost"))]])


def histogram_table(events: Sequence[Event]) -> Table:
    """How many scores lie where."""
    histogram = as_dict((last_of(events, "scores") or {}).get("histogram"))
    return Table(["score", "responses"], [[name, count(found)] for name, found in histogram.items()])


def answers_table(events: Sequence[Event]) -> Table:
    """The report's table of how many were answered, and by which threshold."""
    columns = ["policy", "judge", "n", "answered, % [95%]", "declined", "threshold"]
    columns += ["held-out coverage, % [95%]", "held-out precision, % [95%]"]
    event = last_of(events, "answers")
    if event is None:
        return Table(columns, [])
    held_out = as_dict(event.get("held_out"))
    cells = [text(event.get("policy")), text(event.get("judge")), count(event.get("n"))]
    cells += [with_interval(event.get("answered"), "value", scale=100), counts(event.get("declined"))]
    cells += [fixed(event.get("threshold"), 3)]
    shares = [with_interval(_named(held_out, name), "value", scale=100) for name in ("coverage", "precision")]
    return Table(columns, [[*cells, *shares]])


def first_answers_table(events: Sequence[Event]) -> Table:
    """The first answers, whole."""
    rows = as_list((last_of(events, "answers") or {}).get("examples"))
    cells = [[_words(dig(row, "prompt")), _words(dig(row, "answer")), fixed(dig(row, "score"), 2)] for row in rows]
    declined = [text(dig(row, "reason")) for row in rows]
    return Table(
        ["prompt", "answer", "score", "declined"], [[*own, why] for own, why in zip(cells, declined, strict=True)]
    )


def _bars(histogram: dict[str, Any]) -> list[str]:
    """A line for each place of the scale."""
    most, width = max(histogram.values(), default=0), max(map(len, histogram), default=0)
    if not most:
        return []
    bars = {name: "█" * -(-found * _BAR // most) for name, found in histogram.items()}
    return [f"{name:>{width}}  {bars[name]:<{_BAR}}  {found}" for name, found in histogram.items()]


def _mean(event: Event) -> str:
    return with_interval(event.get("mean"), "value", digits=2)


def _quartiles(event: Event) -> str:
    return " ".join(fixed(value, 2) for value in as_list(event.get("quartiles")))


def _named(figures: dict[str, Any], name: str) -> dict[str, Any]:
    return {"value": figures.get(name), "low": figures.get(f"{name}_low"), "high": figures.get(f"{name}_high")}


def _share(figures: Any) -> str:
    value, low, high = (fixed(dig(figures, key), 0, scale=100) for key in ("value", "low", "high"))
    return f"{value}% [{low}, {high}]"


def _words(value: Any) -> str:
    """A text, or a conversation's last one."""
    return text(dig(value[-1], "content") if isinstance(value, list) and value else value)


def _one_line(value: Any) -> str:
    return visible(" ".join(_words(value).split()))


def _line(line: str) -> Text:
    return Text(visible(line))
