"""What the pages share whose figures are no means of items: estimates with 95% intervals, how they are written, claims
of them, and the picture of dots with intervals. Pure functions.

A claim in `claims.yaml` has `figure: [NAME, ARGUMENT ...]`, a method of the page's results that gives an `Estimate`
(or None: not run), `says` (above, the default, or below) and a `bound` (0).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from selfimprove.statistics import wilson_interval
from selfimprove.study.figures import holm
from selfimprove.study.picture import COLOURS, INK

RESAMPLES = 4000
Row = dict[str, Any]
# unit -> (factor, decimals, with sign)
_FORMATS = {
    "points": (100, 1, True),
    "accuracy": (100, 1, False),
    "share": (1, 2, False),
    "tau": (1, 2, False),
    "length": (1, 2, False),
    "words": (1, 0, False),
    "more words": (1, 0, True),
    "h": (1, 3, False),
}


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


def over_seeds(values: Sequence[float]) -> Estimate | None:
    """Mean of one value per seed with Student's t interval; a single seed has no interval (low and high are nan)."""
    if not values:
        return None
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


def p_value(estimate: Estimate) -> float:
    """Two-sided, of Student's t test that the mean over seeds is 0: below .05 where the 95% interval leaves 0 out."""
    values = np.asarray(estimate.by_seed)
    if np.ptp(values) == 0:
        return 0.0 if values[0] else 1.0
    return float(stats.ttest_1samp(values, 0.0).pvalue)


@lru_cache(maxsize=64)
def _counts(n: int, stream: int) -> np.ndarray:
    """How often each of n units is drawn, shape (resamples, n): n draws with replacement in every row.

    Different streams are independent draws; the same one is the same draws, so that figures of the same items are
    compared under the same resamples.
    """
    rng = np.random.default_rng([stream, n])
    return rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(np.float64)


def _estimate(mean: float, means: np.ndarray, n: int, by_seed: Sequence[float] | np.ndarray) -> Estimate:
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    return Estimate(float(mean), float(low), float(high), n, tuple(float(one) for one in by_seed))


# Claims


def verdict(found: Estimate | None, says: str = "above", bound: float = 0.0) -> str:
    """What an interval says of the claim that a quantity lies above (or below) `bound`."""
    if found is None:
        return "not run"
    if found.low <= bound <= found.high:
        return "cannot be told apart"
    return "holds" if (found.low > bound) == (says == "above") else "contradicted"


def judged(claims: Sequence[Row], results: Any) -> list[Row]:
    """The claims with `found` (in words), `each` (the seeds), `p` (Holm's) and `verdict`, by one page's results."""
    estimates = [getattr(results, claim["figure"][0])(*claim["figure"][1:]) for claim in claims]
    known = [one for one in estimates if one]
    p = iter(holm([p_value(one) if len(one.by_seed) > 1 else 1.0 for one in known]))
    return [
        {
            **claim,
            "found": shown(one, claim["unit"]),
            "each": each(one, claim["unit"]),
            "p": next(p) if one else None,
            "verdict": verdict(one, claim.get("says", "above"), claim.get("bound", 0.0)),
            "estimate": one,
        }
        for claim, one in zip(claims, estimates, strict=True)
    ]


def by_verdict(claims: Iterable[Row]) -> dict[str, list[Row]]:
    """The claims by what came of them, in the order of how telling that is."""
    order = ("holds", "contradicted", "cannot be told apart")
    claims = list(claims)
    return {name: one for name in order if (one := [claim for claim in claims if claim["verdict"] == name])}


# As a page writes them


def plain(value: float, unit: str) -> str:
    """In the unit's factor and decimals."""
    factor, digits, sign = _FORMATS[unit]
    return f"{round(value * factor, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def shown(estimate: Estimate | None, unit: str) -> str:
    """`1.5 [-0.5, 3.5]`; without an interval where there is none, empty without a figure."""
    if estimate is None:
        return ""
    value = plain(estimate.value, unit)
    return value if math.isnan(estimate.low) else f"{value} [{plain(estimate.low, unit)}, {plain(estimate.high, unit)}]"


def each(estimate: Estimate | None, unit: str) -> str:
    """Each seed's own value."""
    return ", ".join(plain(value, unit) for value in estimate.by_seed) if estimate else ""


def upper(text: str) -> str:
    return text[0].upper() + text[1:]


def row(*cells: Any) -> str:
    """A line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def head(*cells: str) -> str:
    return row(*cells) + "\n|" + "---|" * len(cells)


# The picture


def dots(
    points: Iterable[tuple[str, str, str, Estimate | None]],
    title: str,
    scale: float = 1,
    *,
    at: float = 0.0,
    seeds: bool = True,
) -> Any:
    """Of (panel, x, series, estimate): a dot with its interval and each seed's value as a ring; a line `at` a value."""
    import altair as alt

    known = [(panel, x, series, found) for panel, x, series, found in points if found]
    panels, places, names = (list(dict.fromkeys(one[place] for one in known)) for place in range(3))
    rows: list[Row] = []
    for panel, x, series, found in known:
        key = {"panel": panel, "x": x, "series": series}
        rows.append({**key, **{end: scale * getattr(found, end) for end in ("value", "low", "high")}})
        rows += [{**key, "seed": scale * one} for one in found.by_seed if seeds]
    base = alt.Chart().encode(
        x=alt.X("x:N", sort=places, title=None, axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("series:N", sort=names),
        color=alt.Color("series:N", sort=names, title=None, scale=alt.Scale(domain=names, range=list(COLOURS))),
    )
    line = alt.Chart().mark_rule(color=INK, strokeDash=[3, 3], strokeWidth=0.8)
    chart = alt.layer(
        line.encode(y=alt.datum(at)),
        base.mark_rule(strokeWidth=1.4).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        base.mark_point(filled=True, size=36, opacity=1).encode(y=alt.Y("value:Q", title=title)),
        base.mark_point(size=14, strokeWidth=0.7).encode(y=alt.Y("seed:Q", title=title)),
        data=alt.Data(values=rows),
    ).properties(width=460, height=190)
    return chart.facet(row=alt.Row("panel:N", sort=panels, title=None)) if len(panels) > 1 else chart
