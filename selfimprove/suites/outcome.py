"""What a suite found out about one policy, item by item, and how two such findings are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfimprove.models.policy import Policy
from selfimprove.statistics import bootstrap_interval, mean_interval, paired_difference


@dataclass(frozen=True)
class Answer:
    """What a policy said to an item. `why`: why it is wrong or has no value, where that is known. `more`: other texts
    about it, by name: earlier attempts, a judge's words, the opponent's output."""

    text: str
    why: str = ""
    more: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """`values`: one for each item, in the items' order; None is missing. `failures`: the policy's own, which count as
    wrong, by reason. `figures`: what else belongs into the event. `resampled`: see `LengthControlled`. `bounds`: what
    the values cannot leave, None where that is [0, 1] or not known. `answers`: one for each item, for `samples.html`;
    none where a suite keeps none."""

    policy: Policy
    values: Sequence[float | None]
    failures: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    resampled: Sequence[float] = ()
    bounds: tuple[float, float] | None = None
    answers: Sequence[Answer] = ()

    def mean(self) -> float:
        """Of the values that are there."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known)

    def interval(self) -> tuple[float, float, float]:
        """(mean, low, high) with 95%: Wilson's for right and wrong, see `mean_interval`."""
        known = [float(value) for value in self.values if value is not None]
        if self.bounds is None and "rating" in self.figures:  # ones are no share
            return bootstrap_interval(known)
        return mean_interval(known, self.bounds)


def paired_change(before: Outcome, after: Outcome) -> dict[str, Any] | None:
    """The change over the items that both have a value for, with its 95% interval; None without any."""
    both = [(a, b) for a, b in zip(before.values, after.values, strict=True) if a is not None and b is not None]
    if not both:
        return None
    difference, low, high = paired_difference([a for a, _ in both], [b for _, b in both], bounds=after.bounds)
    return {"against": before.policy.name, "difference": difference, "low": low, "high": high, "n": len(both)}
