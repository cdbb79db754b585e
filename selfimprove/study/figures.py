"""The mathematics of a study: pure functions on arrays.

Values are a matrix (seeds, items): every seed's run measures the same items, so seeds and items are crossed. The
interval is the percentile interval of the crossed ("pigeonhole") bootstrap, which draws seeds and items again, each
with replacement and independently (Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007), 386-411).
Values with bounds have at least `bounded_interval` over items, which a bootstrap of nearly equal values falls short of;
with one seed they have that. Without bounds one seed has the plain bootstrap over items. Of 100 items and three seeds,
simulated, the crossed bootstrap covers 95% where items differ, 97% where half the variance is noise of single answers,
99% where all is, and 89% where seeds differ as wholes with a third of that noise's deviation (5 seeds: 91%, 10: 95%;
one seed shows nothing of it: 54%).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from selfimprove.statistics import bounded_interval

Matrix = NDArray[np.float64]
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and items with its interval, in the values' unit. `n`: items with a value for any seed; `p`: of
    the hypothesis that it is 0, two-sided, None where fewer than two items could be drawn."""

    value: float
    low: float
    high: float
    n: int
    seeds: int
    p: float | None


def crossed(
    values: ArrayLike,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    bounds: tuple[float, float] | None = None,
) -> Estimate | None:
    """The mean of `values`, shape (seeds, items), with the crossed bootstrap's interval; NaN is missing. None without
    any value. Deterministic for a seed; equal values without bounds give (value, value, value)."""
    data = _matrix(values, level, resamples)
    if data is None:
        return None
    mean = float(np.nanmean(data))
    seeds, items = data.shape
    known = data[np.isfinite(data)]
    if (known == known[0]).all():
        drawn, value = np.full(resamples, known[0]), float(known[0])
    else:
        (drawn,), value = _resampled([data], resamples, seed), mean
    low, high = _ends(drawn, value, level)
    if bounds:
        _, least, most = bounded_interval(np.nanmean(data, axis=0), bounds, level)
        low, high = (min(low, least), max(high, most)) if seeds > 1 else (least, most)
    return Estimate(value, low, high, items, seeds, p_value(drawn) if items > 1 else None)


def crossed_ratio(
    above: ArrayLike, below: ArrayLike, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float] | None:
    """(ratio of the two means, low, high), both drawn together; shapes (seeds, items), over the places where both
    have a value. None unless the interval of the mean of `below` lies above 0: a share of nothing is no share."""
    first, second = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"both need the same seeds and items, found shapes {first.shape} and {second.shape}")
    both = np.isfinite(first) & np.isfinite(second)
    if _matrix(np.where(both, second, np.nan), level, resamples) is None:
        return None
    kept = np.ix_(both.any(axis=1), both.any(axis=0))
    first, second = (np.where(both, one, np.nan)[kept] for one in (first, second))
    over, under = _resampled([first, second], resamples, seed)
    value = float(np.nanmean(first) / np.nanmean(second)) if np.nanmean(second) else 0.0
    if _ends(under, float(np.nanmean(second)), level)[0] <= 0:
        return None
    usable = under > 0
    low, high = _ends(over[usable] / under[usable], value, level)
    return value, low, high


def p_value(drawn: ArrayLike) -> float:
    """Two-sided p of "the mean is 0" from resampled means: twice the smaller share of them on either side of 0, those
    at 0 on both, the observed one counted in (Davison and Hinkley, Bootstrap Methods (1997), section 4.2). Agrees with
    the percentile interval: it is below 0.05 where that leaves 0 out."""
    means = np.asarray(drawn, dtype=np.float64)
    smaller = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return min(1.0, 2 * (1 + smaller) / (1 + means.size))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order: below alpha together with the chance alpha of one false claim at
    most. Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    if any(not 0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, found {list(p_values)}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _matrix(values: ArrayLike, level: float, resamples: int) -> Matrix | None:
    """The values without seeds and items that have none; None if nothing is left."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 2:
        raise ValueError(f"values must have the shape (seeds, items), found {data.shape}")
    if not 0 < level < 1 or resamples < 2:
        raise ValueError(f"need a level between 0 and 1 and 2 resamples or more, found {level} and {resamples}")
    if np.isinf(data).any():
        raise ValueError("values must be finite, or NaN where one is missing")
    known = np.isfinite(data)
    data = data[np.ix_(known.any(axis=1), known.any(axis=0))]
    return data if data.size else None


@lru_cache(maxsize=2)  # the rows of a table mostly have one shape
def _counts(seeds: int, items: int, resamples: int, seed: int) -> tuple[Matrix, Matrix]:
    """How often each resample draws every seed (resamples, seeds) and every item (resamples, items)."""
    dice = np.random.default_rng(seed)
    found = [dice.multinomial(size, np.full(size, 1 / size), size=resamples) for size in (seeds, items)]
    return found[0].astype(np.float64), found[1].astype(np.float64)


def _resampled(matrices: Sequence[Matrix], resamples: int, seed: int) -> list[Matrix]:
    """The means of matrices with the same places missing, over the same draws, without draws of missing places only."""
    known = np.isfinite(matrices[0])
    seeds, items = _counts(*known.shape, resamples, seed)

    def drawn(cells: Matrix) -> Matrix:
        return np.asarray((seeds * (items @ cells.T)).sum(axis=1))

    weights = drawn(known.astype(np.float64))
    usable = weights > 0
    return [drawn(np.where(known, one, 0.0))[usable] / weights[usable] for one in matrices]


def _ends(drawn: Matrix, value: float, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # very few resamples, or rounding, can put the value itself outside
    return min(float(low), value), max(float(high), value)
