"""What the report shows of Self-Lengthen's rounds: how long the texts are, how much they repeat, and what the filters
rejected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import Chart, spread
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, numbers, of_kind, round_number
from selfimprove.report.table import Col, Table, as_dict, as_list, count, counts, decimals

_WHOLE = decimals(0)
_QUANTILES = ("10%", "25%", "median", "75%", "90%")


def lengths_part(events: Sequence[Event]) -> Part:
    texts = _latest(of_kind(events, "lengths"), "round")
    return Part(
        "Did the texts grow?",
        "Words of the texts that each round kept; growth is of one text over its answer. Distinct-4 is the share "
        "of different runs of four words; a text that only repeats itself has a low one, and a long repeated run.",
        [_words(texts)],
        [_lengths(texts), _filters(events), _some(texts)],
    )


def _latest(events: Sequence[Event], *keys: str) -> list[Event]:
    """In order of rounds; of several with the same keys the last: a recipe that was changed writes another one."""
    found = {tuple(event.get(key) for key in keys): event for event in events}
    return sorted(found.values(), key=round_number)


def _words(texts: Sequence[Event]) -> Chart:
    rows = []
    for event in texts:
        for key, name in (("initial", "answers"), ("extended", "longer texts")):
            if len(found := numbers(dig(event, key, "quantiles"))) == len(_QUANTILES):
                ends = dict(zip(("low", "first", "y", "third", "high"), found, strict=True))
                rows.append({"x": f"round {round_number(event)}", "series": name, **ends})
    note = "Of the texts that were kept. Dot: the median; bar: the middle half; line: 10% to 90%."
    return spread("Words by round", rows, "", "words", note, values=(0, None))


def _lengths(texts: Sequence[Event]) -> Table:
    """Two rows for each round: the answers and the longer texts."""
    rows: list[dict[str, Any]] = []
    for event in texts:
        for key, name in (("initial", "answers of the Generator"), ("extended", "longer texts of the Extender")):
            own = as_dict(event.get(key))
            quantiles = dict(zip(_QUANTILES, as_list(own.get("quantiles")), strict=False))
            rows.append({"round": event.get("round"), "texts": name, **own, **quantiles})
        rows[-1] |= {key: event.get(key) for key in ("growth", "only_repetition")}
    columns = [
        Col("round", show=count),
        Col("texts"),
        Col("n", show=count),
        Col("mean, words", "mean", _WHOLE),
        *(Col(name, show=_WHOLE) for name in _QUANTILES),
        Col("growth, median", "growth", decimals(2)),
        Col("grew by repetition alone", "only_repetition", count),
        Col("distinct-4", "distinct_4", decimals(3)),
        Col("longest repeated run, words", "longest_repeat", decimals(1)),
    ]
    return Table("Lengths by round", rows, columns)


def _filters(events: Sequence[Event]) -> Table:
    """What each filter kept, and why it rejected, over all tries."""
    columns = [
        Col("round", show=count),
        Col("filter", "what"),
        Col("wanted", show=count),
        Col("kept", show=count),
        Col("rejected, over all tries", "rejected", counts),
    ]
    return Table("Filters", _latest(of_kind(events, "filter"), "round", "what"), columns)


def _some(texts: Sequence[Event]) -> Table:
    """A few texts of each round, before and after."""
    rows = [{"round": event.get("round"), **as_dict(one)} for event in texts for one in as_list(event.get("examples"))]
    columns = [Col("round", show=count), Col("instruction"), Col("answer", "initial"), Col("longer text", "longer")]
    return Table("Some texts", rows, columns)
