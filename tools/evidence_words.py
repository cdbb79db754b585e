"""What the pages of evidence say in the same words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping

from cream_evidence import intervals
from cream_evidence.intervals import Estimate

VERDICTS = ("holds", "contradicted", "cannot be told apart", "too few seeds", "not finished", "not run")
TOLD = VERDICTS[:3]
FEWEST = 3  # seeds for a verdict, where others were stopped


def wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def verdict(found: Estimate | None, *, above: bool = True) -> str:
    """What an interval says of the claim that a difference lies above (or below) 0."""
    said = intervals.verdict(found, above=above)
    return "cannot be told apart" if said == "not distinguishable here" else said


def gain_or_loss(found: Estimate) -> str:
    """What an interval says of a difference of which nothing was claimed."""
    if math.isnan(found.low):
        return "one seed"
    if found.low <= 0 <= found.high:
        return "which cannot be told from 0"
    return "a gain" if found.low > 0 else "a loss"


def stops(stopped: Mapping[str, Mapping[int, str]], names: Mapping[str, str]) -> str:
    """The seeds that were stopped, by what was run, and why."""
    return "; ".join(
        f"{names[one]}, seed {seed} ({' '.join(why.split())[:200]})"
        for one, seeds in stopped.items()
        for seed, why in sorted(seeds.items())
    )
