"""What a suite found out about one policy, item by item, and how two such findings are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from selfimprove.evaluation.statistics import bootstrap_interval, paired_difference, share_interval
from selfimprove.policy import Policy


@dataclass(frozen=True)
class Outcome:
    """`values`: one for each item, in the items' order; None is missing. `failures`: the policy's own, which count as
    wrong, by reason. `figures`: what else belongs into the event. `resampled`: see `LengthControlled`."""

    policy: Policy
    values: Sequence[float | None]
    failures: dict[str, int] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    resampled: Sequence[float] = ()

    def mean(self) -> float:
        """Of the values that are there."""
        known = [value for value in self.values if value is not None]
        return sum(known) / len(known)

    def interval(self) -> tuple[float, float, float]:
        """(mean, low, high) with 95%: Wilson's for right and wrong, else (as a judge's verdicts) the bootstrap over
        items."""
        known = [float(value) for value in self.values if value is not None]
        judged = "rating" in self.figures or "preference" in self.figures
        return bootstrap_interval(known) if judged else share_interval(known)


def paired_change(before: Outcome, after: Outcome) -> dict[str, Any] | None:
    """The change over the items that both have a value for, with its 95% bootstrap interval; None without any."""
    both = [(a, b) for a, b in zip(before.values, after.values, strict=True) if a is not None and b is not None]
    if not both:
        return None
    difference, low, high = paired_difference([a for a, _ in both], [b for _, b in both])
    return {"against": before.policy.name, "difference": difference, "low": low, "high": high, "n": len(both)}
