"""When to decline: a threshold of a judge's scores, chosen on answers that are known to be good or not. Pure."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from selfimprove.errors import RunFailed
from selfimprove.statistics import wilson_interval

_WANTED = {True: "precision (by the lower end of its interval)", False: "coverage"}


class Threshold(NamedTuple):
    """`value`: answers with this score or more are kept. Of the `n` answers it was chosen on, `coverage` is the share
    that is kept and `precision` the share of the kept that is good, each in [0, 1] with its 95% interval (Wilson)."""

    value: float
    coverage: float
    coverage_low: float
    coverage_high: float
    precision: float
    precision_low: float
    precision_high: float
    n: int


def threshold_for(
    scores: ArrayLike, good: ArrayLike, *, precision: float | None = None, coverage: float | None = None
) -> Threshold:
    """The lowest score whose kept answers reach the wanted `precision`, or the highest that keeps the `coverage`.

    A precision is reached by the lower end of its 95% interval: of many thresholds one always has a high share by
    luck, above all with few answers kept (of 100 answers to a judge that knows nothing, half of them good, a share of
    .9 was had in every second try). Answers of one score are kept or declined together, so the coverage may be more
    than was wanted. The threshold was chosen on the same answers, so the intervals are still a little optimistic.

    Args:
        scores: (n,), any finite unit; -inf for an answer that is declined at any threshold (it counts in the coverage).
        good: (n,), 1 for a good answer, 0 for any other.
        precision, coverage: exactly one, in (0, 1]; no number of answers shows a precision of 1.

    Raises:
        RunFailed: no threshold reaches what is wanted; says the best that can be had.
        ValueError: for arguments of another form.
    """
    values, hits = np.asarray(scores, dtype=np.float64), np.asarray(good, dtype=np.float64)
    wanted = [share for share in (precision, coverage) if share is not None]
    if len(wanted) != 1 or not 0 < wanted[0] <= 1:
        raise ValueError(f"give one of precision and coverage, above 0 and at most 1; found {precision}, {coverage}")
    if values.ndim != 1 or values.shape != hits.shape or values.size == 0:
        raise ValueError(f"need one score and one `good` for each answer, found shapes {values.shape}, {hits.shape}")
    if np.isnan(values).any() or (values == np.inf).any() or not np.isin(hits, (0.0, 1.0)).all():
        raise ValueError("scores must be finite (or -inf), and `good` 0 or 1")
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    last = np.append(ranked[1:] != ranked[:-1], True) & np.isfinite(ranked)  # of the answers that share a score
    kept = np.flatnonzero(last) + 1
    if not kept.size:
        raise RunFailed("no held-out answer has a score, so no threshold can be chosen")
    right = np.cumsum(hits[order])[kept - 1]
    if coverage is None:
        had = np.array([wilson_interval(int(r), int(k))[1] for r, k in zip(right, kept, strict=True)])
    else:
        had = kept / values.size
    reached = np.flatnonzero(had >= wanted[0])
    if not reached.size:
        best = np.flatnonzero(had == had.max())[-1]
        found = _threshold(ranked, kept[best], right[best])
        raise RunFailed(
            f"no threshold reaches a {_WANTED[coverage is None]} of {wanted[0]:.1%} on the {values.size} held-out "
            f"answers: the best is {_said(found)}; ask for less, or take more held-out prompts, another judge or policy"
        )
    chosen = reached[-1] if coverage is None else reached[0]
    return _threshold(ranked, kept[chosen], right[chosen])


def _threshold(ranked: np.ndarray, kept: int, right: float) -> Threshold:
    n, kept, right = len(ranked), int(kept), int(right)
    return Threshold(float(ranked[kept - 1]), *wilson_interval(kept, n), *wilson_interval(right, kept), n)


def _said(found: Threshold) -> str:
    return (
        f"precision {found.precision:.1%} [{found.precision_low:.1%}, {found.precision_high:.1%}] at coverage "
        f"{found.coverage:.1%} (scores from {found.value:.4g} on)"
    )
