"""Whether a judge's scores mean what they say: reliability bins and the expected calibration error. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from selfimprove.suites.judge_scores import RESAMPLES, Floats, Graded, floats, resampled, with_draws


def calibration(
    scores: Sequence[float | None],
    graded: Graded,
    score_range: tuple[float, float],
    gold_range: tuple[float, float],
    bins: int = 10,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """Whether a score means what it says, both scaled to [0, 1]; None where a range is empty or nothing is known.

    `bins`: of equal width in the score's range, those that hold a response: `score` and `gold` (means, scaled), `low`
    and `high` of gold's mean, `n`. `error`: expected calibration error, the mean over responses of their bin's absolute
    difference of the two means (Guo et al., arXiv 1706.04599); it has no interval, since resampling biases it upwards.
    `bias`: mean score less mean gold, with one.

    Args:
        score_range, gold_range: (lowest, highest) possible value.
    """
    values = floats(scores, "scores")
    known = np.isfinite(values) & np.isfinite(graded.gold)
    if not known.any() or score_range[0] >= score_range[1] or gold_range[0] >= gold_range[1]:
        return None
    score, gold = (
        (one[known] - low) / (high - low) for one, (low, high) in ((values, score_range), (graded.gold, gold_range))
    )
    some = Graded(graded.prompts[known], gold, graded.lengths[known], graded.count)
    place = np.clip((score * bins).astype(int), 0, bins - 1)

    def statistics(rows: NDArray[np.int64]) -> Floats:
        sizes = np.bincount(place[rows], minlength=bins)
        means = np.bincount(place[rows], gold[rows], bins) / np.where(sizes, sizes, np.nan)
        return np.append(means, (score[rows] - gold[rows]).mean() if len(rows) else np.nan)

    whole, drawn = statistics(np.arange(len(score))), resampled(statistics, some, resamples, seed)
    rows = []
    for number in np.unique(place):
        own = score[place == number]
        found = with_draws(whole[number], drawn[:, number], len(own)) or {}
        ends = {end: found.get(end) for end in ("low", "high")}
        rows.append({"score": float(own.mean()), "gold": float(whole[number]), **ends, "n": len(own)})
    error = float(np.abs(np.bincount(place, score - gold)).sum() / len(score))
    return {"bins": rows, "error": error, "bias": with_draws(whole[-1], drawn[:, -1], len(score))}
