"""Numbers, intervals and tables as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .intervals import Estimate

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


def plain(value: float, unit: str) -> str:
    """In the unit's factor and decimals."""
    factor, digits, sign = _FORMATS[unit]
    return f"{round(value * factor, digits) + 0.0:{'+' if sign else ''}.{digits}f}"


def shown(estimate: Estimate | None, unit: str) -> str:
    """`1.5 [-0.5, 3.5]`; without an interval where there is none."""
    if estimate is None:
        return ""
    value = plain(estimate.value, unit)
    if math.isnan(estimate.low):
        return value
    return f"{value} [{plain(estimate.low, unit)}, {plain(estimate.high, unit)}]"


def seeds_shown(estimate: Estimate | None, unit: str) -> str:
    """Each seed's own value."""
    return ", ".join(plain(value, unit) for value in estimate.by_seed) if estimate else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    if not rows:
        return "Nothing is finished here."
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
