"""Win rates, and how they go with length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from selfimprove.report.charts import Chart, dots
from selfimprove.report.evaluated import BARS, NAMES, cost_cols, evaluated, missing, point
from selfimprove.report.events import Event
from selfimprove.report.groups import groups
from selfimprove.report.judged_examples import Judged, Side, examples_of, words
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, fixed, in_rounds, number, text
from selfimprove.report.table import Col, Table, as_dict, count, decimals, percent, points, rate

KEY = "preference"


def preference_part(events: Sequence[Event]) -> Part:
    """Suites whose judge compares the policy with an opponent."""
    rows = evaluated(events, KEY)
    return Part(
        "Is it preferred?",
        "On every instruction a judge compares the policy's output with the opponent's; the win rate is the mean "
        "of its preferences, the discrete one counts wins and half of the ties. LC, the length-controlled win "
        "rate, is what a regression expects at equal lengths: a judge that likes long outputs gives no credit for "
        "length there. Published numbers compare only with the setting 'as published' (AlpacaEval's instructions "
        "and opponent) and the same judge. Intervals are over the instructions. Missing judgements "
        "are in no rate. Flips are instructions whose winner changed with the order of the outputs; first shown, "
        "the share of judgements that the output shown first won, is 50% for a judge that does not care. A judge "
        "that rates one output is asked about each by itself, in no order; the higher score wins.",
        [_by_policy(rows, joined=in_rounds(events)), _by_length(rows)],
        [_win_rates(rows), _judgements(rows), groups("Win rate by group", events, KEY)],
        examples_of(rows, _example, "Judged outputs"),
        place="quality",
    )


def _win_rates(rows: Sequence[Any]) -> Table:
    cols = [
        *NAMES,
        Col("against", "own.against"),
        Col("win rate, % [95%]", "value", rate),
        Col("LC win rate, % [95%]", _controlled, _shown),
        Col("standard error, %", "own.standard_error", decimals(2, scale=100)),
        Col("discrete, %", "own.discrete", percent),
        *(Col(name, f"own.{name}", count) for name in ("wins", "ties", "losses")),
        Col("instructions", "event.n", count),
        Col("missing", "own.missing", missing),
        Col("change, points [95%]", "event.paired", points),
        Col("change of LC [95%]", "own.length_controlled_paired", points),
        Col("changed from", "event.paired.against"),
        Col("judge", "own.judge"),
    ]
    return Table("Win rates", rows, cols)


def _controlled(row: Any) -> dict[str, Any]:
    return as_dict(row["own"].get("length_controlled")) | {"warning": row["own"].get("length_warning")}


def _shown(controlled: dict[str, Any]) -> str:
    return "; ".join(filter(None, (rate(controlled), text(controlled["warning"]))))


def _judgements(rows: Sequence[Any]) -> Table:
    cols = [
        *NAMES,
        Col("judge", "own.judge"),
        Col("rubric", "own.rubric"),
        Col("order", "own.order"),
        Col("setting", "own.published_form", _setting),
        Col("flips, % [95%]", "own.flip_rate", _flips),
        Col("first shown won, % [95%]", "own.first_rate", rate),
        Col("mean length, characters", "own.mean_length", count),
        Col("the opponent's", "own.against_mean_length", count),
        Col("truncated", "own.truncated", count),
        Col("empty", "own.empty", count),
        *cost_cols("own.cost"),
    ]
    return Table("Judgements, lengths and cost", rows, cols)


def _setting(published: Any) -> str:
    return ("as published" if published else "not as published") if isinstance(published, bool) else ""


def _flips(found: Any) -> str:
    shown, of = rate(found), count(dig(found, "n"))
    return f"{shown} (of {of})" if shown and of else shown


def _series(row: Any) -> tuple[str, str]:
    """What the dots and the rings of a suite are called."""
    return (row["panel"], f"{row['panel']}, LC") if row["panel"] else ("win rate", "LC win rate")


def _by_policy(rows: Sequence[Any], joined: bool) -> Chart:
    found = [
        one
        for row in rows
        for name, (key, ring) in zip(_series(row), (("value", False), ("length_controlled", True)), strict=True)
        for one in point(
            row["policy"], (row["own"] if ring else row).get(key), scale=100, series=name, hue=row["suite"], ring=ring
        )
    ]
    note = f"{BARS} Ring, LC: length-controlled. Dashed: 50%, as good as the opponent."
    return dots("Win rate by policy", found, "policy", "win rate (%)", note, joined=joined, at=[50])


def _by_length(rows: Sequence[Any]) -> Chart:
    """Each policy at the mean length of its outputs, a line to its length-controlled win rate."""
    found: list[dict[str, Any]] = []
    opponents: dict[float, str] = {}
    for row in rows:
        length, value = number(row["own"].get("mean_length")), number(row["event"].get("value"))
        if length is None or value is None:
            continue
        controlled = number(dig(row, "own", "length_controlled", "value"))
        ends = [value] if controlled is None else sorted((value, controlled))
        for place, (y, name) in enumerate(zip((value, controlled), _series(row), strict=True)):
            if y is not None:
                tip = f"{row['policy']}, {name}: {100 * y:.1f}% at {length:.0f} characters"
                one = {"x": length, "y": 100 * y, "series": name, "hue": row["suite"], "ring": place == 1, "tip": tip}
                found.append(
                    one if place else one | {"name": row["policy"], "low": 100 * ends[0], "high": 100 * ends[-1]}
                )
        if (opponent := number(row["own"].get("against_mean_length"))) is not None:
            opponents.setdefault(opponent, f"mean length of {text(row['own'].get('against')) or 'the opponent'}")
    note = (
        "From a dot to its ring: what length control takes or gives. A policy that wins by length stands far right "
        "with its ring far below. Intervals are in the plot by policy."
    )
    return dots(
        "Win rate by mean length", found, "mean length (characters)", "win rate (%)", note,
        at=[50], at_x=opponents, height=230,
    )  # fmt: skip


def _example(row: Any, one: dict[str, Any]) -> Judged:
    """A preference above one half is for the policy; at a tie neither side is marked."""
    policy, preference = row["policy"], number(one.get("preference"))
    opponent = text(row["own"].get("against")) or "opponent"
    lengths = [
        f"{length} characters" if (length := count(one.get(key))) else "" for key in ("length", "against_length")
    ]
    shown = fixed(preference, 2)
    return Judged(
        prompt=words(one.get("prompt")),
        figures=[(f"preference for {policy}", shown + " (tie)" * (preference == 0.5))] if shown else [],
        why="" if preference is not None else text(one.get("why")) or "unknown",
        sides=[
            Side(policy, lengths[0], words(one.get("output")), preference is not None and preference > 0.5),
            Side(opponent, lengths[1], words(one.get("against_output")), preference is not None and preference < 0.5),
        ],
    )
