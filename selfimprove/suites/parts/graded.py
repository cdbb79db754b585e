"""Policies as judges of responses whose worth is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import COLOURS, Chart, dots, lines
from selfimprove.report.evaluated import BARS, by_suite, evaluated, point
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, fixed, numbers, text, with_interval
from selfimprove.report.table import Col, Table, as_dict, as_list, count, counts, decimals, interval

KEY = "graded"
# what needs no judge, in the order of every table
BASELINES = {
    "length": "longer is better",
    "shortness": "shorter is better",
    "likelihood": "likelihood per token",
    "likelihood_summed": "likelihood, summed",
    "random": "random",
    "oracle": "oracle (gold itself)",
}
_STATISTICS = {
    "pearson": "Pearson",
    "spearman": "Spearman",
    "kendall": "Kendall's tau-b",
    "within": "Spearman within prompts",
    "auroc": "AUROC",
    "area": "area",
}
_BEST = {"minus_random": "minus random", "minus_longest": "minus longest", "minus_shortest": "minus shortest"}
_VALUE = interval(digits=3)
_SIGNED = interval(digits=3, sign=True)
_NAMES = (Col("suite"), Col("scores of", "judge"))


def graded_part(events: Sequence[Event]) -> Part:
    """Suites of graded responses."""
    rows = evaluated(events, KEY, has="scores")
    judges = [one for some in by_suite(rows).values() for one in _judges(some)]
    return Part(
        "How good is it as a judge?",
        "The policy scores responses whose worth (gold) is known. Every row is over the same responses. "
        "Correlations are over all of them, or within each prompt; AUROC is for good responses; area is the mean "
        "gold of the kept over all coverages, highest scores first. Best of N is the mean gold of each prompt's "
        "response with the highest score; LC: length taken out of the scores first. Intervals come from drawing "
        "prompts anew with all their responses; differences are paired.",
        [_coverage(judges), _best_chart(judges), _calibration_chart(rows)],
        [_scores(judges), _best(judges), _less(rows), _calibration(rows), groups("Best of N by group", events, KEY)],
        notes=_notes(rows),
        place="quality",
    )


def _judges(rows: Sequence[Any]) -> list[dict[str, Any]]:
    """Of a suite, every policy's scores, and what needs no judge: the first policy's, since all policies of a suite
    judge the same responses (but for those that one of them has no score for)."""
    first = rows[0]
    found = [row | {"judge": row["policy"], "figures": row["own"]["scores"]} for row in rows]
    for name, shown in BASELINES.items():
        if figures := as_dict(dig(first, "own", "baselines", name)):
            found.append({"suite": first["suite"], "panel": first["panel"], "judge": shown, "figures": figures})
    return found


def _scores(judges: Sequence[Any]) -> Table:
    cols = [
        *_NAMES,
        *(Col(f"{name} [95%]", f"figures.{key}", _VALUE) for key, name in _STATISTICS.items()),
        Col("change of Spearman [95%]", "own.spearman_paired", interval("difference", digits=3, sign=True)),
        Col("against", "own.spearman_paired.against"),
        Col("responses", "figures.n", count),
        Col("missing", "own.missing", counts),
    ]
    return Table("Scores against gold", judges, cols, printed=True)


def _best(judges: Sequence[Any]) -> Table:
    cols = [*_NAMES]
    for where, mark in (("best_of_n", ""), ("length_controlled", "LC: ")):
        cols.append(Col(f"{mark}best of N [95%]", f"figures.{where}", _VALUE))
        cols += [Col(f"{mark}{name} [95%]", f"figures.{where}.{key}", _SIGNED) for key, name in _BEST.items()]
        cols.append(Col(f"{mark}mean length", f"figures.{where}.mean_length", decimals(1)))
    return Table("Best of N", judges, [*cols, Col("prompts", "figures.best_of_n.n", count)], printed=True)


def _less(rows: Sequence[Any]) -> Table:
    """Each policy's figures less those of what needs no judge, paired."""
    found = [
        row | {"less": name, "figures": figures}
        for row in rows
        for key, name in BASELINES.items()
        if (figures := as_dict(dig(row, "own", "less", key)))
    ]
    own = {key: name for key, name in _STATISTICS.items() if key != "within"} | {"best_of_n": "best of N"}
    cols = [Col(f"{name} [95%]", f"figures.{key}", _SIGNED) for key, name in own.items()]
    title = "Policies less what needs no judge"
    return Table(title, found, [Col("suite"), Col("policy"), Col("less"), *cols], printed=True)


def _calibration(rows: Sequence[Any]) -> Table:
    """One row for each bin, and one for all of them."""
    found = []
    for row in rows:
        if calibration := as_dict(row["own"].get("calibration")):
            bias = calibration.get("bias")
            found.append(row | {"row": "all", "error": calibration.get("error"), "bias": bias, "n": dig(bias, "n")})
            found += [
                {**row, "row": "bin", "score": dig(one, "score"), "gold": one, "n": dig(one, "n")}
                for one in as_list(calibration.get("bins"))
            ]
    cols = [
        Col("suite"),
        Col("policy"),
        Col("", "row"),
        Col("mean score", "score", decimals(3)),
        Col("mean gold [95%]", "gold", interval("gold", digits=3)),
        Col("calibration error", "error", decimals(3)),
        Col("bias [95%]", "bias", _SIGNED),
        Col("responses", "n", count),
    ]
    return Table("Calibration", found, cols)


def _notes(rows: Sequence[Any]) -> list[str]:
    if not rows:
        return []
    several = len({row["suite"] for row in rows}) > 1
    notes = [
        f"Good: gold from {text(rows[0]['own'].get('good_from'))}. Longest, shortest: that response of each prompt."
    ]
    for row in rows:
        calibration = row["own"].get("calibration")
        if error := fixed(dig(calibration, "error"), 3):
            bias = with_interval(dig(calibration, "bias"), "value", digits=3, sign=True)
            on = f" on {row['suite']}" if several else ""
            notes.append(f"Calibration error of {row['policy']}{on}: {error}" + (f"; bias {bias}." if bias else "."))
    if any(row["own"].get("reference") is True for row in rows):
        notes.append("The judge saw the reference: these are no scores of responses whose answer is not known.")
    return notes


def _coverage(judges: Sequence[Any]) -> Chart:
    """Mean gold of the kept by coverage: of many policies the last ones, then what needs no judge, in grey."""
    rows = []
    for some in by_suite([one for one in judges if _curve(one)]).values():
        policies, rest = [one for one in some if "own" in one], [one for one in some if "own" not in one]
        if policies:
            rows += [
                {"x": x, "y": y, "series": one["judge"], "panel": one["panel"], "grey": "own" not in one}
                for one in [*policies[-len(COLOURS) :], *rest]
                for x, y in _curve(one)
            ]
    note = "Highest scores kept first. At the right everything is kept, which is what a random choice is worth."
    return lines(
        "Answering less: mean gold by coverage",
        rows,
        "coverage (share kept)",
        "mean gold of the kept",
        note,
        height=230,
    )


def _curve(judge: Any) -> list[list[float]]:
    return [found for one in as_list(dig(judge, "figures", "curve")) if len(found := numbers(one)) == 2]


def _best_chart(judges: Sequence[Any]) -> Chart:
    """Mean gold of what each judge picks, and with length taken out of its scores."""
    rows = [
        one
        for row in judges
        for key, name in (("best_of_n", "as scored"), ("length_controlled", "length-controlled"))
        for one in point(
            row["judge"], dig(row, "figures", key), series=name, ring=name != "as scored", panel=row["panel"]
        )
    ]
    note = f"{BARS} Ring: length taken out of the scores."
    return dots("Best of N by judge", rows, "picked by", "mean gold", note)


def _calibration_chart(rows: Sequence[Any]) -> Chart:
    """Mean gold by mean score of each bin, both from 0 to 1; of many policies the last ones."""
    measured = [row for row in rows if as_list(dig(row, "own", "calibration", "bins"))]
    found = [
        one
        for some in by_suite(measured).values()
        for row in some[-len(COLOURS) :]
        for each in row["own"]["calibration"]["bins"]
        if numbers([score := dig(each, "score")])
        for one in point(score, each, "gold", series=row["policy"], panel=row["panel"])
    ]
    note = f"Mean gold in bins of the score. {BARS} Dashed: a score that means what it says."
    return dots(
        "Calibration of the scores", found, "score, from 0 to 1", "mean gold, from 0 to 1", note,
        joined=True, diagonal=(0, 1), values=(0, 1),
    )  # fmt: skip
