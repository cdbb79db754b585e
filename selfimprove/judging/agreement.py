"""How far two rankings of the same responses agree: CREAM's consistency (arXiv 2410.12735, step d)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

MEASURES = ("kendall", "kendall_b", "spearman", "top_order")


def consistency(
    first: Sequence[float | None], second: Sequence[float | None], measure: str = "kendall"
) -> float | None:
    """Agreement of two score lists of the same responses, in [0, 1]: C_j of the paper.

    Measures:
        kendall: (tau + 1) / 2, with tau the sum of sign products over all pairs divided by their number (tau-a):
            a tied pair counts 0. The released code breaks ties by position instead, which inflates agreement.
        kendall_b: the same with tau-b, which leaves ties out of the denominator (scipy's default).
        spearman: (rho + 1) / 2, average ranks for ties.
        top_order: 1 if both lists have the same best and the same worst response, else 0. (The released code
            compares responses number 0 and -1 instead.) Undefined where a best or worst is tied.

    Args:
        first, second: scores, one per response, in the same order.

    Returns:
        The agreement; None where it is undefined (fewer than two responses, all scores of a side equal, or a
        score that is missing or not finite).
    """
    if len(first) != len(second):
        raise ValueError(f"two rankings of the same responses have the same length; found {len(first)}, {len(second)}")
    if measure not in MEASURES:
        raise ValueError(f"measure {measure!r}: expected one of {', '.join(MEASURES)}")
    if any(score is None or not math.isfinite(score) for score in (*first, *second)):
        return None
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) < 2 or np.all(a == a[0]) or np.all(b == b[0]):
        return None
    if measure == "kendall":
        return (kendall_tau_a(a, b) + 1) / 2
    if measure == "kendall_b":
        return (float(stats.kendalltau(a, b).statistic) + 1) / 2
    if measure == "spearman":
        # Rounding can put rho a hair outside [-1, 1].
        return min(1.0, max(0.0, (float(stats.spearmanr(a, b).statistic) + 1) / 2))
    extremes = [(a == a.max()), (a == a.min()), (b == b.max()), (b == b.min())]
    if any(extreme.sum() > 1 for extreme in extremes):
        return None
    return float(a.argmax() == b.argmax() and a.argmin() == b.argmin())


def kendall_tau_a(first: np.ndarray, second: np.ndarray) -> float:
    """Sum over pairs i < j of sign(a_i - a_j) sign(b_i - b_j), divided by the number of pairs."""
    i, j = np.triu_indices(len(first), k=1)
    return float(np.mean(np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])))


def tie_rate(scores: Sequence[float]) -> float:
    """Share of response pairs with exactly equal scores."""
    a = np.asarray(scores, dtype=float)
    if len(a) < 2:
        return 0.0
    i, j = np.triu_indices(len(a), k=1)
    return float(np.mean(a[i] == a[j]))
