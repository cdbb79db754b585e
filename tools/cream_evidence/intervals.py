"""95% intervals over seeds and items, over prompts, and over seeds alone: pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from selfimprove.statistics import wilson_interval

_RESAMPLES = 4000
VERDICTS = ("holds", "contradicted", "not distinguishable here", "not finished")


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95% interval, the number `n` of what it is a mean of, and each seed's own value."""

    value: float
    low: float
    high: float
    n: int
    by_seed: tuple[float, ...] = ()


def crossed(table: ArrayLike) -> Estimate:
    """Mean of a table (seeds, items): percentile bootstrap that draws seeds and items again, each independently.

    An item drawn twice counts twice in every drawn seed, so what an item has in common over seeds stays in the
    interval. Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2007), 386-411.
    """
    values = np.asarray(table, dtype=np.float64)
    seeds, items = values.shape
    means = ((_counts(seeds, 0) @ values) * _counts(items, 1)).sum(axis=1) / values.size
    return _estimate(values.mean(), means, values.size, values.mean(axis=1))


def nested(rows: Sequence[ArrayLike]) -> Estimate:
    """Mean over seeds of each seed's mean: bootstrap of the prompts within each seed, the seeds kept as they are."""
    arrays = [np.asarray(row, dtype=np.float64) for row in rows]
    means = np.mean([_counts(len(row), stream) @ row / len(row) for stream, row in enumerate(arrays)], axis=0)
    own = [row.mean() for row in arrays]
    return _estimate(np.mean(own), means, sum(map(len, arrays)), own)


def over_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed with Student's t interval; a single seed has no interval (low and high are nan)."""
    n, mean = len(values), float(np.mean(values))
    half = float("nan")
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / n**0.5
    return Estimate(mean, mean - half, mean + half, n, tuple(values))


def drawn_seeds(values: Sequence[float]) -> Estimate:
    """Mean of one value per seed: percentile bootstrap over the seeds, for ten or more of them."""
    array = np.asarray(values, dtype=np.float64)
    return _estimate(array.mean(), _counts(len(array), 0) @ array / len(array), len(array), array)


def share(right: Sequence[int], of: Sequence[int]) -> Estimate | None:
    """Wilson's interval of the seeds' counts taken together; None where nothing was counted."""
    n = sum(of)
    if n == 0:
        return None
    return Estimate(*wilson_interval(sum(right), n), n, tuple(r / k for r, k in zip(right, of, strict=True) if k))


def verdict(estimate: Estimate | None, *, above: bool = True, bound: float = 0.0) -> str:
    """What an interval says of the claim that a quantity lies above (or below) `bound`."""
    if estimate is None:
        return "not finished"
    if estimate.low <= bound <= estimate.high:
        return "not distinguishable here"
    return "holds" if (estimate.low > bound) == above else "contradicted"


@lru_cache(maxsize=64)
def _counts(n: int, stream: int) -> np.ndarray:
    """How often each of n units is drawn, shape (resamples, n): n draws with replacement in every row.

    Different streams are independent draws; the same one is the same draws, so that figures of the same items are
    compared under the same resamples.
    """
    rng = np.random.default_rng([stream, n])
    return rng.multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64)


def _estimate(mean: float, means: np.ndarray, n: int, by_seed: Sequence[float] | np.ndarray) -> Estimate:
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(mean), float(low), float(high), n, tuple(float(one) for one in by_seed))
