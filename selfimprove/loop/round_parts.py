"""What the report shows of rounds that rank and prefer: agreement of two rankings, rewards, margins and lengths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from selfimprove.loop.example_parts import pairs_part
from selfimprove.report.charts import Chart, dots, histogram, lines, spread
from selfimprove.report.events import Event
from selfimprove.report.part import Part
from selfimprove.report.summary import dig, length_means, number, numbers, round_number, rounds_of, tau_of, text
from selfimprove.report.table import (
    Col,
    Table,
    as_dict,
    as_list,
    bounded,
    count,
    counts,
    decimals,
    interval,
    percent,
    rate,
    short,
)
from selfimprove.statistics import bootstrap_interval, wilson_interval

_ROUND = Col("round", round_number)
_SIDES = ("chosen", "rejected")
_BINS = 31  # of margins


# ---- two rankings


def agreement_part(events: Sequence[Event]) -> Part:
    rounds = rounds_of(events)
    ranked = any(tau_of(event) or number(dig(event, "consistency", "mean")) is not None for event in rounds)
    return Part(
        "Do two successive models rank alike?",
        "Both rank the same responses of every prompt. Kendall's tau is 1 for equal rankings, 0 for unrelated "
        "ones, -1 for opposite ones; a tied pair counts 0. The consistency C is what the recipe's measure makes "
        "of it, from 0 to 1. A recipe's `judge` ranks in the place of the newer model.",
        [_rank_correlation(rounds), _consistency(rounds)],
        [_agreement(rounds if ranked else ())],
    )


def _agreement(rounds: Sequence[Event]) -> Table:
    """The correlation itself, and what the recipe's measure makes of it."""

    def ties(event: Event) -> Any:
        found = number(event.get("tie_rate"))
        return dig(event, "consistency", "tie_rate") if found is None else found

    columns = [
        _ROUND,
        Col("ranking of", "rankings.current"),
        Col("compared with", "rankings.previous"),
        Col("Kendall's tau [95%]", tau_of, interval("mean", digits=2, sign=True)),
        Col("measure", "consistency.measure"),
        Col("consistency C [95%]", "consistency", interval("mean", digits=3)),
        Col("labels softened by", "consistency.mode", lambda mode: "nothing" if mode == "none" else text(mode)),
        Col("undefined", "consistency.undefined", short),
        Col("ties, %", ties, percent),
    ]
    return Table("Agreement", rounds, columns)


def _rank_correlation(rounds: Sequence[Event]) -> Chart:
    """A few responses have few possible correlations: the area of a dot says how many prompts are there."""
    rows: list[dict[str, Any]] = []
    for event in rounds:
        if (tau := tau_of(event)) and tau["values"]:
            place = str(round_number(event))
            for value, many in Counter(round(value, 6) for value in tau["values"]).items():
                tip = f"round {place}: tau {value:.2f} of {many} prompts"
                rows.append({"x": place, "y": value, "size": many, "series": "prompts", "tip": tip})
            mean = {"y": tau["mean"], "low": tau.get("low"), "high": tau.get("high")}
            rows.append({"x": place, "series": "mean, 95%", **mean})
    note = "A larger dot: more prompts. Dashed: 0, unrelated rankings."
    return dots(
        "Rank correlation of two successive models", rows, "round", "Kendall's tau", note,
        joined=True, at=[0], values=(-1, 1),
    )  # fmt: skip


def _consistency(rounds: Sequence[Event]) -> Chart:
    by_round = [(event, numbers(dig(event, "consistency", "values"))) for event in rounds]
    everything = [value for _, values in by_round for value in values]
    low, high = min([0.0, *everything]), max([1.0, *everything])
    measure = next((text(dig(event, "consistency", "measure")) for event, values in by_round[::-1] if values), "")
    x = "consistency of a prompt" + (f" ({measure})" if measure else "")
    rows = [
        row
        for event, values in by_round
        for row in _panel(event, values, number(dig(event, "consistency", "mean")), digits=2)
    ]
    # with five responses there are few possible values: bins around them, not between them
    return histogram(
        "Ranking consistency by round", rows, x, "prompts",
        "One value for each prompt. Dashed: 0.5, what two unrelated rankings agree on; solid: the mean.",
        at=[0.5], bins=(low - 0.025, high + 0.025, round((high - low) / 0.05) + 1),
    )  # fmt: skip


def _panel(event: Event, values: Sequence[float], mean: float | None, digits: int) -> list[dict[str, Any]]:
    """A round's panel of a histogram, with its mean."""
    title = f"round {round_number(event)}" + ("" if mean is None else f", mean {mean:.{digits}f}")
    rows: list[dict[str, Any]] = [{"x": value, "panel": title} for value in values]
    return [*rows, {"mean": mean, "panel": title}] if rows and mean is not None else rows


# ---- rewards and margins


def learned_part(events: Sequence[Event]) -> Part:
    rounds = rounds_of(events)
    return Part(
        "What was preferred, and what was learned?",
        "The margin h of a pair is beta times how much further training moved the chosen response from the loss "
        "reference than the rejected one: above 0 the pair was learned. Right labels prefer the right answer, "
        "among pairs with one right and one wrong response.",
        [_rewards(rounds), _margins(rounds)],
        [_rewards_table(rounds)],
    )


def _rewards_table(rounds: Sequence[Event]) -> Table:
    def mean(side: str) -> Col:
        return Col(f"{side}, mean", lambda event: _mean(numbers(dig(event, "rewards", side))), decimals(3))

    def positive(event: Event) -> dict[str, float] | None:
        found = _margins_of(event)
        return bounded(wilson_interval(sum(h > 0 for h in found), len(found))) if found else None

    def margin(event: Event) -> dict[str, float] | None:
        found = _margins_of(event)
        return bounded(bootstrap_interval(found)) if found else None

    columns = [
        _ROUND,
        Col("judge"),
        Col("responses", show=count),
        Col("pairs", show=count),
        *map(mean, _SIDES),
        Col("margin h, nats [95%]", margin, interval(digits=3, sign=True)),
        Col("mean |h|", "margins.mean_abs", decimals(3)),
        Col("h > 0, % [95%]", positive, rate),
        Col("right labels, % [95%]", "label_accuracy", rate),
        Col("skipped prompts", "skipped", counts),
    ]
    return Table("Rewards and margins", rounds, columns)


def _margins_of(event: Event) -> list[float]:
    return numbers(dig(event, "margins", "values"))


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _unit(rounds: Sequence[Event]) -> str:
    return next((unit for event in rounds[::-1] if (unit := text(dig(event, "rewards", "unit")))), "nats")


def _rewards(rounds: Sequence[Event]) -> Chart:
    rows = []
    for event in rounds:
        for side in _SIDES:
            if values := numbers(dig(event, "rewards", side)):
                places = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
                ends = dict(zip(("low", "first", "y", "third", "high"), places, strict=True))
                rows.append({"x": str(round_number(event)), "series": side, **ends})
    note = "Dot: the median; bar: the middle half; line: 5% to 95%."
    return spread("Reward of chosen and rejected by round", rows, "round", f"reward ({_unit(rounds)})", note)


def _margins(rounds: Sequence[Event]) -> Chart:
    by_round = [(event, found) for event in rounds if (found := _margins_of(event))]
    sizes = sorted(abs(value) for _, found in by_round for value in found)
    # a few far values must not press all others into one bar
    far = max(sizes[int(0.98 * len(sizes))] if sizes else 0, 1e-9)
    rows = [
        row
        for event, found in by_round
        for row in _panel(event, [min(max(value, -far), far) for value in found], _mean(found), digits=3)
    ]
    return histogram(
        "Trained margin h by round", rows, "trained margin h (nats)", "pairs",
        "One value for each pair; the farthest 2% are in the outermost bars. Dashed: 0; solid: the mean.",
        at=[0], bins=(-far, far, _BINS),
    )  # fmt: skip


# ---- lengths


def length_part(events: Sequence[Event]) -> Part:
    rounds = rounds_of(events)
    return Part(
        "Is length rewarded?",
        "Lengths are of the responses sampled in the round, in tokens. The correlation of reward and length is "
        "Spearman's, over all responses; its interval comes from drawing prompts anew.",
        [_lengths(rounds), _reward_by_length(rounds)],
        [_lengths_table(rounds)],
    )


def _lengths_table(rounds: Sequence[Event]) -> Table:
    def mean(title: str, key: str) -> Col:
        return Col(title, lambda event: length_means(event).get(key), decimals(1))

    def longer(title: str, sign: int) -> Col:
        def share(event: Event) -> dict[str, float] | None:
            sides = [as_list(dig(event, "lengths", side)) for side in _SIDES]
            both = [(a, b) for a, b in zip(*sides, strict=False) if number(a) is not None and number(b) is not None]
            return bounded(wilson_interval(sum(sign * (a - b) > 0 for a, b in both), len(both))) if both else None

        return Col(title, share, interval(scale=100, digits=0))

    def correlation(event: Event) -> dict[str, Any]:
        found = as_dict(event.get("reward_by_length")) or {"value": event.get("reward_length_correlation")}
        return {key: found.get(key) for key in ("value", "low", "high")}

    columns = [
        _ROUND,
        mean("mean, tokens", "mean"),
        *(mean(side, side) for side in _SIDES),
        Col("correlation with reward [95%]", correlation, interval(digits=2, sign=True)),
        longer("chosen longer, % [95%]", 1),
        longer("chosen shorter, % [95%]", -1),
        Col("truncated, %", "health.truncation_rate", percent),
        Col("duplicates, %", "health.duplicate_rate", percent),
        Col("distinct-2", "health.distinct_2", decimals(3)),
    ]
    return Table("Lengths", rounds, columns)


def _lengths(rounds: Sequence[Event]) -> Chart:
    names = {"chosen": "chosen", "rejected": "rejected", "mean": "all"}
    rows = [
        {"x": round_number(event), "y": means[key], "series": name}
        for key, name in names.items()
        for event in rounds
        if key in (means := length_means(event))
    ]
    note = "Means over the round's responses and pairs."
    return lines("Response length by round", rows, "round", "length (tokens)", note)


def _reward_by_length(rounds: Sequence[Event]) -> Chart:
    rows = []
    for event in rounds:
        for one in as_list(dig(event, "reward_by_length", "bins")):
            x, y, low, high = (number(dig(one, key)) for key in ("length", "reward", "low", "high"))
            if x is not None and y is not None:
                rows.append({"x": x, "y": y, "low": low, "high": high, "series": f"round {round_number(event)}"})
    note = "Mean reward in bins of length. Bars are 95% intervals over prompts."
    shown = rows if len(rows) > 1 else []
    unit = _unit(rounds)
    return dots("Reward by length", shown, "length (tokens)", f"mean reward ({unit})", note, joined=True)


# What methods list that report their rounds by `Record.report_round`.
ROUND_PARTS = (agreement_part, learned_part, length_part, pairs_part)
