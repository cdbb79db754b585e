"""Uncertainty of evaluation numbers: pure functions on arrays, without files, models or global state."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high): percentile bootstrap of the mean of `values`, shape (items,), in the values' unit.

    Deterministic for a seed; equal values, or a single one, give (mean, mean, mean). Raises ValueError for
    empty, non-finite (missing values are dropped and counted by the caller) or two-dimensional values.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), section 13.3.
    """
    data = np.asarray(values, dtype=np.float64)
    _check_level(level)
    if resamples < 2:
        raise ValueError(f"resamples must be at least 2, found {resamples}")
    if data.ndim != 1 or data.size == 0:
        raise ValueError(f"values must be a non-empty list of numbers, found shape {data.shape}")
    if not np.isfinite(data).all():
        raise ValueError("values must be finite: drop missing ones and report how many they were")
    if (data == data[0]).all():
        return float(data[0]), float(data[0]), float(data[0])
    mean = float(data.mean())
    interval = stats.bootstrap(
        (data,),
        np.mean,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=seed,
        batch=100,
    ).confidence_interval
    # Rounding, or very few resamples, can put the mean itself outside.
    return mean, min(float(interval.low), mean), max(float(interval.high), mean)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> tuple[float, float, float]:
    """(share, low, high): Wilson's score interval of successes / n, all in [0, 1].

    Raises ValueError unless n >= 1 and 0 <= successes <= n. Source: Wilson, JASA 22 (1927), 209-212.
    """
    _check_level(level)
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"need n >= 1 and 0 <= successes <= n, found {successes} of {n}")
    share = successes / n
    interval = stats.binomtest(successes, n).proportion_ci(level, method="wilson")
    return share, min(float(interval.low), share), max(float(interval.high), share)


def share_interval(values: ArrayLike) -> tuple[float, float, float]:
    """(mean, low, high) with 95% of values in [0, 1]: Wilson's where all are 0 or 1, since a bootstrap of equal values
    claims certainty, else the bootstrap over the values."""
    data = np.asarray(values, dtype=np.float64)
    if data.size and np.isin(data, (0.0, 1.0)).all():
        return wilson_interval(int(data.sum()), data.size)
    return bootstrap_interval(data)


def paired_difference(
    first: ArrayLike, second: ArrayLike, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(mean of second - first, low, high): bootstrap over items, both arrays of shape (items,), same order.

    Pairing takes the items' difficulty out of the interval. Raises ValueError for different shapes and for
    what `bootstrap_interval` refuses.
    """
    before, after = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if before.shape != after.shape:
        raise ValueError(f"both need the same items, found shapes {before.shape} and {after.shape}")
    return bootstrap_interval(after - before, level, resamples, seed)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, found {level}")
