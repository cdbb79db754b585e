"""Win rates from pairwise preferences: pure functions on arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from selfimprove.statistics import share_interval


@dataclass(frozen=True)
class WinRate:
    """How often a model beats its opponent. Rates and their interval in percent, counts of instructions.

    `standard_error` is the standard deviation (n - 1) of the preferences over the root of n; `low` and `high` are the
    95% interval over instructions (Wilson's where none is a tie). `discrete` counts a preference above one half as
    a win, one half as half a win. `missing` instructions are in no rate.
    """

    win_rate: float
    standard_error: float
    low: float
    high: float
    discrete: float
    n: int
    wins: int
    losses: int
    draws: int
    missing: int


def win_rate(preferences: ArrayLike) -> WinRate:
    """The win rate of one model.

    Args:
        preferences: (instructions,) probability in [0, 1] that the model's output is the better one; NaN is missing.

    Raises ValueError where a preference is outside [0, 1], or fewer than two are there.
    Source: AlpacaEval 2 (`get_winrate` of the authors' package); the interval is ours.
    """
    given = np.asarray(preferences, dtype=np.float64)
    known = given[~np.isnan(given)]
    if given.ndim != 1 or len(known) < 2:
        raise ValueError(f"a win rate needs at least two preferences that are not missing, found {known.size}")
    if not ((known >= 0) & (known <= 1)).all():
        raise ValueError("preferences must lie in [0, 1]")
    wins, losses = int((known > 0.5).sum()), int((known < 0.5).sum())
    draws = len(known) - wins - losses
    mean, low, high = share_interval(known)
    return WinRate(
        win_rate=100 * mean,
        standard_error=float(100 * known.std(ddof=1) / np.sqrt(len(known))),
        low=100 * low,
        high=100 * high,
        discrete=100 * (wins + draws / 2) / len(known),
        n=len(known),
        wins=wins,
        losses=losses,
        draws=draws,
        missing=len(given) - len(known),
    )
