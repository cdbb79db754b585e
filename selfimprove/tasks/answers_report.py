"""A file's scores, and answers with what was declined: in the terminal and in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Group
from rich.table import Table as TerminalTable
from rich.text import Text

from selfimprove.report.evaluated import price
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, fixed, number, of_kind, text, with_interval
from selfimprove.report.table import Col, Table, as_dict, as_list, count, counts, decimals, interval, rate
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
        mean = with_interval(event["mean"], "value", digits=2)
        n = f"{count(event.get('scored'))} of " * bool(event.get("missing")) + count(event.get("n"))
        lines.append(f"n {n}, mean {mean}, quartiles {_quartiles(event.get('quartiles'))}")
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
        lines.append("  " + ", ".join(f"{name} {_share(_named(event, name))}" for name in shares))
        if held_out.get("unchecked"):
            lines.append(f"held-out answers that could not be checked, left out: {counts(held_out['unchecked'])}")
    elif event.get("threshold") is not None:
        lines.append(f"threshold {fixed(event['threshold'], 3)}, as given")
    return lines


def answers_part(events: Sequence[Event]) -> Part:
    """What the judge gave a file's responses, and what was answered and declined."""
    scores, answers = ([one] if (one := last_of(events, kind)) else [] for kind in ("scores", "answers"))
    return Part(
        "What was scored, answered and declined?",
        "The histogram counts responses by their scores, rounded. Held-out figures are of the prompts that the "
        "threshold was chosen on, so they are optimistic.",
        tables=[_scores(scores), _histogram(scores), _answers(answers), _first_answers(answers)],
    )


def _scores(events: Sequence[Event]) -> Table:
    cols = [
        Col("file", "data"),
        Col("judge"),
        Col("n", show=count),
        Col("mean [95%]", "mean", interval(digits=2)),
        Col("quartiles", show=_quartiles),
        Col("missing", show=counts),
        Col("cost", show=price),
    ]
    return Table("Scores", events, cols)


def _histogram(events: Sequence[Event]) -> Table:
    rows = [
        {"score": score, "responses": found}
        for event in events
        for score, found in as_dict(event.get("histogram")).items()
    ]
    return Table("Histogram", rows, [Col("score"), Col("responses", show=count)])


def _answers(events: Sequence[Event]) -> Table:
    cols = [
        Col("policy"),
        Col("judge"),
        Col("n", show=count),
        Col("answered, % [95%]", "answered", rate),
        Col("declined", show=counts),
        Col("threshold", show=decimals(3)),
        Col("held-out coverage, % [95%]", lambda event: _named(event, "coverage"), rate),
        Col("held-out precision, % [95%]", lambda event: _named(event, "precision"), rate),
    ]
    return Table("Answers", events, cols)


def _first_answers(events: Sequence[Event]) -> Table:
    rows = [one for event in events for one in as_list(event.get("examples"))]
    cols = [
        Col("prompt", show=_words),
        Col("answer", show=_words),
        Col("score", show=decimals(2)),
        Col("declined", "reason"),
    ]
    return Table("The first answers", rows, cols)


def _bars(histogram: dict[str, Any]) -> list[str]:
    """A line for each place of the scale."""
    most, width = max(histogram.values(), default=0), max(map(len, histogram), default=0)
    if not most:
        return []
    bars = {name: "█" * -(-found * _BAR // most) for name, found in histogram.items()}
    return [f"{name:>{width}}  {bars[name]:<{_BAR}}  {found}" for name, found in histogram.items()]


def _quartiles(quartiles: Any) -> str:
    return " ".join(fixed(value, 2) for value in as_list(quartiles))


def _named(event: Event, name: str) -> dict[str, Any]:
    """A figure of the held-out prompts with its interval."""
    ends = {"value": name, "low": f"{name}_low", "high": f"{name}_high"}
    return {end: dig(event, "held_out", key) for end, key in ends.items()}


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
