"""Lengths that queries demanded, and that texts have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import COLOURS, Chart, dots
from selfimprove.report.evaluated import BARS, NAMES, by_suite, cost_cols, evaluated, missing, names_in, point
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.judged_examples import Judged, Side, examples_of, words
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, fixed, in_rounds, number, text
from selfimprove.report.table import Col, Table, as_dict, as_list, count, decimals, interval, rate

KEY = "length_following"
# in the order of every table
KINDS = {"about": "around N", "range": "A to B", "above": "more than N", "below": "less than N"}
_SCORE = interval(digits=3)


def length_part(events: Sequence[Event]) -> Part:
    """Suites of long texts."""
    rows = evaluated(events, KEY)
    return Part(
        "Does it write as long as it is asked to?",
        "A word is one CJK character or what stands between white space. The length score is 1 within the demand's "
        "bounds and falls to 0 at half the lower and one and a half of the upper one. A text that did not end "
        "within the tokens it had is scored as it is. Distinct-4 is the share of different ones among a text's "
        "runs of four words; the longest repeated run occurs twice in one text.",
        [_kinds(rows, joined=in_rounds(events)), _words(rows)],
        [_scores(rows), _texts(rows), _quality(rows), groups("Length score by group", events, KEY)],
        examples_of(rows, _example, "Judged outputs"),
        notes=_notes(rows),
        place="quality",
    )


def _scores(rows: Sequence[Any]) -> Table:
    """Over all items, by kind and by language."""
    cols = [
        *NAMES,
        Col("all [95%]", "value", _SCORE),
        *(Col(f"{name} [95%]", f"own.kinds.{kind}", _SCORE) for kind, name in KINDS.items()),
        *(Col(f"{name} [95%]", f"own.languages.{name}", _SCORE) for name in names_in(rows, "own", "languages")),
        Col("items", "event.n", count),
    ]
    return Table("Length scores", rows, cols, printed=True)


def _texts(rows: Sequence[Any]) -> Table:
    """Words of the texts, how many did not end, and how much they repeat themselves."""
    cols = [
        *NAMES,
        Col("mean, words [95%]", "own.words", interval(digits=0)),
        Col("median, words", "own.words.median", decimals(0)),
        Col("unfinished, % [95%]", "own.unfinished", rate),
        Col("distinct-4 [95%]", "own.distinct_4", _SCORE),
        Col("longest repeated run, words [95%]", "own.longest_repeat", interval()),
    ]
    return Table("Texts", rows, cols, printed=True)


def _quality(rows: Sequence[Any]) -> Table:
    """A judge's scores, over all dimensions and of each; nothing without a judge."""
    judged = [row for row in rows if as_dict(row["own"].get("quality"))]
    score = interval(digits=2)
    dimensions = names_in(judged, "own", "quality", "dimensions")
    cols = [
        *NAMES,
        Col("quality [95%]", "own.quality", score),
        *(Col(f"{name} [95%]", f"own.quality.dimensions.{name}", score) for name in dimensions),
        Col("texts", "own.quality.n", count),
        Col("missing", "own.quality.missing", missing),
        Col("judge", "own.quality.judge"),
        *cost_cols("own.quality.cost"),
    ]
    return Table("Quality", judged, cols, printed=True)


def _notes(rows: Sequence[Any]) -> list[str]:
    scales = {
        text(quality.get("judge")): " to ".join(map(count, as_list(quality.get("scale"))))
        for row in rows
        if (quality := as_dict(row["own"].get("quality")))
    }
    return [f"Quality, judged by {judge}: from {scale}." for judge, scale in scales.items() if scale]


def _kinds(rows: Sequence[Any], joined: bool) -> Chart:
    found = [
        one
        for row in rows
        for kind, name in KINDS.items()
        for one in point(row["policy"], dig(row, "own", "kinds", kind), series=name, panel=row["panel"])
    ]
    note = f"{BARS} 1: the length is within the demand's bounds."
    return dots("Length score by kind of demand", found, "policy", "length score", note, joined=joined, values=(0, 1))


def _words(rows: Sequence[Any]) -> Chart:
    """A dot for each text; of many policies the last ones, as there are colours."""
    shown = [
        (place, row, asked, written, dig(one, "finished") is False)
        for some in by_suite(rows).values()
        for place, row in enumerate(some[-len(COLOURS) :])
        for one in as_list(row["own"].get("items"))
        if (asked := number(dig(one, "asked"))) is not None and (written := number(dig(one, "words"))) is not None
    ]
    most = max((asked for _, _, asked, _, _ in shown), default=1.0)
    found = [
        {
            "x": asked + 0.012 * most * place,  # many texts were asked for in the same length
            "y": written,
            "series": row["policy"],
            "ring": unfinished,
            "panel": row["panel"],
            "tip": f"{row['policy']}: {written:.0f} words of {asked:.0f}" + (", did not end" if unfinished else ""),
        }
        for place, row, asked, written, unfinished in shown
    ]
    note = (
        "One dot for each text; ring: it did not end. Of a range its middle is what was asked for. Dashed: as long as "
        "asked for."
    )
    return dots(
        "Words written by words asked for", found, "words asked for", "words written", note,
        diagonal=(0, most), values=(0, None), height=230,
    )  # fmt: skip


def _example(row: Any, one: dict[str, Any]) -> Judged:
    figures = [(name, fixed(one.get(key), 2)) for name, key in (("length score", "score"), ("quality", "quality"))]
    verdict = words(one.get("verdict"))
    judged = [Side("the judge", text(dig(row, "own", "quality", "judge")), verdict)] if verdict else []
    own = Side(row["policy"], f"{count(one.get('words'))} words", words(one.get("output")))
    figures = [(name, shown) for name, shown in figures if shown]
    return Judged(words(one.get("prompt")), figures, text(one.get("why")), [own, *judged])
