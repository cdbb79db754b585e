"""How good a judge's scores of graded responses are: rank correlations, selective answering, AUROC, best of N. Pure
functions on arrays.

A judge's score is any number that is higher for a better response; gold is what the response is worth. Responses to one
prompt go together, so every interval is a 95% percentile bootstrap that draws prompts anew with all their responses
(Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from selfimprove.statistics import bounded_interval, mean_interval, paired_difference
from selfimprove.suites.matches import with_interval

Floats = NDArray[np.float64]
RESAMPLES = 1000
CURVE_POINTS = 41
_STATISTICS = ("pearson", "spearman", "kendall", "auroc", "area")


@dataclass(frozen=True)
class Graded:
    """Responses and what they are worth, one entry each, in one order.

    Attributes:
        prompts: the number of the prompt that each is a response to, from 0 to `count` - 1.
        gold: higher is better; NaN is missing.
        lengths: characters.
        count: of prompts, also those without a response.
    """

    prompts: NDArray[np.int64]
    gold: Floats
    lengths: Floats
    count: int

    @classmethod
    def of(
        cls,
        prompts: Sequence[int],
        gold: Sequence[float | None],
        lengths: Sequence[float],
        count: int | None = None,
    ) -> Graded:
        """From lists, None for missing. ValueError for lists of different lengths or a gold that is not finite."""
        if not len(prompts) == len(gold) == len(lengths):
            raise ValueError(f"one entry a response is needed: found {len(prompts)}, {len(gold)}, {len(lengths)}")
        numbers = np.asarray(prompts, dtype=np.int64)
        most = 1 + int(numbers.max(initial=-1))
        if count is not None and count < most:
            raise ValueError(f"there are {count} prompts, and a response is to number {most - 1}")
        return cls(numbers, floats(gold, "gold"), np.asarray(lengths, dtype=np.float64), count or most)


@dataclass(frozen=True)
class Measured:
    """`figures`: an event's field, see `measure_scores`. `resampled`: by statistic, its value in every draw of prompts,
    the same draws for all scores of the same prompts. `picked`: by prompt, the gold of the response with the highest
    score, NaN without one."""

    figures: dict[str, Any]
    resampled: dict[str, Floats]
    picked: Floats


def measure_scores(
    scores: Sequence[float | None], graded: Graded, good_from: float = 1.0, resamples: int = RESAMPLES, seed: int = 0
) -> Measured:
    """Everything about one judge's scores but their calibration.

    `pearson`, `spearman`, `kendall` (tau-b) of scores and gold over all responses; `within`: the mean over prompts of
    Spearman's over their responses, of those prompts where both vary; `auroc` for gold >= good_from, ties half;
    `curve`: [coverage, mean gold of the kept] where the highest scores are kept first, equal ones in every order and
    averaged, at most 41 points; `area`: the mean of that mean gold over all coverages 1/n, 2/n, ..., 1; `best_of_n` and
    `length_controlled`: see `best_of_n`. Each has `value`, `low`, `high` and `n`, or is None where it is undefined
    (gold or scores all equal, no good response or no other). Draws in which it is undefined are not in its interval.

    A response without a score or without gold is in no figure: `n` is how many are left, `missing` how many are not.

    Args:
        scores: one a response, None is missing.
        good_from: the gold from which a response is a good one.

    Raises ValueError where the lengths differ, or a score is not finite.
    """
    values = floats(scores, "scores")
    if len(values) != len(graded.gold):
        raise ValueError(f"one score a response is needed: found {len(values)} for {len(graded.gold)}")
    known = np.isfinite(values) & np.isfinite(graded.gold)
    some = Graded(graded.prompts[known], graded.gold[known], graded.lengths[known], graded.count)
    values = values[known]
    n = int(known.sum())

    def statistics(rows: NDArray[np.int64]) -> Floats:
        own, gold = values[rows], some.gold[rows]
        found = (_pearson(own, gold), spearman(own, gold), _kendall(own, gold), auroc(own, gold >= good_from))
        return np.array([math.nan if one is None else one for one in (*found, _area(own, gold))])

    drawn = resampled(statistics, some, resamples, seed)
    figures: dict[str, Any] = {"n": n, "missing": len(known) - n}
    for place, (name, value) in enumerate(zip(_STATISTICS, statistics(np.arange(n)), strict=True)):
        figures[name] = with_draws(value, drawn[:, place], n)
    picked, best = best_of_n(values, some)
    figures |= {
        "within": _within(values, some),
        "curve": thinned(kept_gold(values, some.gold)),
        "best_of_n": best,
        "length_controlled": best_of_n(without_length(values, some.lengths), some)[1],
    }
    return Measured(figures, dict(zip(_STATISTICS, drawn.T, strict=True)), picked)


def less(first: Measured, second: Measured) -> dict[str, Any]:
    """first - second of every statistic and of the best of N, with paired intervals: over the same draws of prompts,
    and over the prompts in which both picked. None where one of them is undefined."""
    found: dict[str, Any] = {name: change(first, second, name) for name in _STATISTICS}
    both = np.isfinite(first.picked) & np.isfinite(second.picked)
    found["best_of_n"] = _paired(second.picked[both], first.picked[both])
    return found


def change(first: Measured, second: Measured, name: str) -> dict[str, Any] | None:
    """first - second of one statistic. ValueError where the two are not of the same draws."""
    one, other = first.figures[name], second.figures[name]
    if one is None or other is None:
        return None
    if first.resampled[name].shape != second.resampled[name].shape:
        raise ValueError("both need the same number of draws of the same prompts")
    return with_draws(one["value"] - other["value"], first.resampled[name] - second.resampled[name], one["n"])


def _pearson(scores: Floats, gold: Floats) -> float | None:
    if not (_varies(scores) and _varies(gold)):
        return None
    a, b = ((one - one.mean()) / np.abs(one - one.mean()).max() for one in (scores, gold))
    return float(np.clip((a @ b) / math.sqrt((a @ a) * (b @ b)), -1, 1))


def spearman(scores: Floats, gold: Floats) -> float | None:
    """Average ranks for ties; None where scores or gold are all equal."""
    return _pearson(stats.rankdata(scores), stats.rankdata(gold)) if len(scores) else None


def _kendall(scores: Floats, gold: Floats) -> float | None:
    if not (_varies(scores) and _varies(gold)):
        return None
    return float(stats.kendalltau(scores, gold).statistic)


def auroc(scores: Floats, good: NDArray[np.bool_]) -> float | None:
    """Probability that a good response has a higher score than another one, ties half; None without either.

    Args:
        scores, good: (responses,).
    """
    goods = int(good.sum())
    pairs = goods * (len(good) - goods)
    if not pairs:
        return None
    return float((stats.rankdata(scores)[good].sum() - goods * (goods + 1) / 2) / pairs)


def kept_gold(scores: Floats, gold: Floats) -> Floats:
    """(responses,): mean gold of the k responses with the highest scores, k = 1 to all; equal scores stand for each
    other, so that their order does not count."""
    if not len(scores):
        return np.empty(0)
    _, group, sizes = np.unique(-scores, return_inverse=True, return_counts=True)
    means = np.bincount(group, gold) / sizes
    kept: Floats = np.cumsum(np.repeat(means, sizes)) / np.arange(1, len(gold) + 1)
    return kept


def _area(scores: Floats, gold: Floats) -> float | None:
    return float(kept_gold(scores, gold).mean()) if len(scores) else None


def thinned(kept: Floats, points: int = CURVE_POINTS) -> list[list[float]]:
    """[coverage, mean gold] at so many coverages at most, evenly from the first response to all of them."""
    if not len(kept):
        return []
    places = np.unique(np.linspace(0, len(kept) - 1, min(points, len(kept))).round().astype(int))
    return [[(int(place) + 1) / len(kept), float(kept[place])] for place in places]


def _within(scores: Floats, graded: Graded) -> dict[str, float] | None:
    """Mean over prompts of Spearman's correlation over their responses; None where both vary in none."""
    rows = (np.flatnonzero(graded.prompts == prompt) for prompt in np.unique(graded.prompts))
    each = [found for own in rows if (found := spearman(scores[own], graded.gold[own])) is not None]
    return with_interval(bounded_interval(each, (-1, 1)), len(each)) if each else None


def best_of_n(scores: Floats, graded: Graded) -> tuple[Floats, dict[str, Any] | None]:
    """What is gained where the response with the highest score is taken of each prompt's, equal ones averaged.

    Returns the gold of the pick by prompt (NaN without a response), and figures: its mean over prompts (`value`, with
    its interval and `n` prompts), `mean_length` of the picks in characters, and the pick's gold less that of a random
    choice (the mean of the prompt's responses), of the longest response and of the shortest one, paired by prompt. None
    without a response.

    Args:
        scores: (responses,), none missing; nor is any gold.
    """
    lengths = graded.lengths
    picked, length = _picked(scores, graded.gold, graded), _picked(scores, lengths, graded)
    there = np.isfinite(picked)
    if not there.any():
        return picked, None
    others = {
        "minus_random": _picked(np.zeros(len(scores)), graded.gold, graded),
        "minus_longest": _picked(lengths, graded.gold, graded),
        "minus_shortest": _picked(-lengths, graded.gold, graded),
    }
    return picked, {
        **with_interval(mean_interval(picked[there]), int(there.sum())),
        "mean_length": float(length[there].mean()),
        **{name: _paired(other[there], picked[there]) for name, other in others.items()},
    }


def _picked(scores: Floats, values: Floats, graded: Graded) -> Floats:
    """By prompt: the mean of `values` over its responses with the highest score; NaN without a response."""
    best = np.full(graded.count, -np.inf)
    np.maximum.at(best, graded.prompts, scores)
    top = scores == best[graded.prompts]
    sums = np.bincount(graded.prompts[top], values[top], graded.count)
    sizes = np.bincount(graded.prompts[top], minlength=graded.count)
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


def without_length(scores: Floats, lengths: Floats) -> Floats:
    """The scores without their linear dependence on log(1 + length), fitted by least squares on all responses."""
    logs = np.log1p(lengths)
    if not (_varies(scores) and _varies(logs)):
        return scores
    centred = logs - logs.mean()
    left: Floats = scores - (centred @ scores) / (centred @ centred) * centred
    scale = np.abs(scores).max()
    return scale * (left / scale).round(9)  # what is equal but for rounding is equal


def floats(values: Sequence[float | None], what: str) -> Floats:
    given = [math.nan if value is None else float(value) for value in values]
    if wrong := [value for value in values if value is not None and not math.isfinite(value)]:
        raise ValueError(f"{what} must be finite, or None where missing; found {wrong[0]}")
    return np.array(given, dtype=np.float64)


def _varies(values: Floats) -> bool:
    return len(values) > 1 and bool((values != values[0]).any())


def resampled(statistics: Callable[[NDArray[np.int64]], Floats], graded: Graded, resamples: int, seed: int) -> Floats:
    """(resamples, statistics): of draws of `count` prompts with all their rows. They depend on the seed and `count`
    alone, so that two judges whose missing scores differ have the same draws."""
    order = np.argsort(graded.prompts, kind="stable")
    rows_of = np.split(order, np.searchsorted(graded.prompts[order], np.arange(1, graded.count)))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(graded.count, size=graded.count) for _ in range(resamples if graded.count else 0))
    found = [statistics(np.concatenate([rows_of[prompt] for prompt in drawn])) for drawn in draws]
    return np.array(found) if found else np.empty((0, len(statistics(order))))


def with_draws(value: float, drawn: Floats, n: int) -> dict[str, Any] | None:
    """The value with the middle 95% of its draws, as an event's field; None where it is undefined."""
    defined = drawn[np.isfinite(drawn)]
    if not math.isfinite(value) or not len(defined):
        return None
    low, high = (float(end) for end in np.percentile(defined, [2.5, 97.5]))
    return with_interval((float(value), min(low, float(value)), max(high, float(value))), n)


def _paired(before: Floats, after: Floats) -> dict[str, float] | None:
    return with_interval(paired_difference(before, after), len(after)) if len(after) else None
