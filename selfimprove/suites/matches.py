"""What a judge said of pairs of outputs, in one order or in both, or of each output by itself, as preferences. Pure
functions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.errors import RunFailed
from selfimprove.judging.outcomes import Verdict
from selfimprove.statistics import share_interval, wilson_interval

# The order in which a judge sees two outputs that it rates.
EACH_BY_ITSELF = "each by itself"


@dataclass(frozen=True)
class Match:
    """One item's turn, as the judge saw it. `first`: probability that the output shown first is the better one, by
    whether the two were switched; None is missing. The opponent is shown first where they were not. `reason`: why it
    is missing. `asked`: whether a judge saw the two in an order; not where the verdict was plain without one, or where
    each was rated by itself."""

    item: str
    turn: int
    first: Mapping[bool, float | None]
    reason: str | None = None
    asked: bool = True

    def preference(self, discrete: bool) -> float | None:
        """Probability that the policy's output is the better one. Of both orders: the mean of probabilities; verdicts
        that disagree are a tie; missing where one of the two is."""
        values = [None if p is None else p if switched else 1 - p for switched, p in self.first.items()]
        known = [value for value in values if value is not None]
        if len(known) < len(values) or not known:
            return None
        if discrete and len(set(known)) > 1:
            return 0.5
        return sum(known) / len(known)

    def flipped(self) -> bool | None:
        """Whether the winner changed with the order; None where it was asked in one, or a verdict is a tie or
        missing."""
        if set(self.first) != {False, True} or any(p is None or p == 0.5 for p in self.first.values()):
            return None
        straight, switched = self.first[False], self.first[True]
        assert straight is not None and switched is not None
        return (straight > 0.5) == (switched > 0.5)


def rated_match(item: str, turn: int, ours: Verdict, theirs: Verdict) -> Match:
    """Two outputs that were rated each by itself: the higher score wins, equal ones are a tie, and the pair is missing
    where one of the scores is. Scores of one prompt alone are compared, so their scale plays no role."""
    one, other = ours[0], theirs[0]
    value = None if one is None or other is None else 0.5 if one == other else float(one > other)
    return Match(item, turn, {True: value}, ours[1] or theirs[1], asked=False)


def by_item(matches: Sequence[Match], discrete: bool) -> dict[str, float | None]:
    """The mean over an item's turns; None where all are missing."""
    values: dict[str, list[float]] = {match.item: [] for match in matches}
    for match in matches:
        if (value := match.preference(discrete)) is not None:
            values[match.item].append(value)
    return {id: sum(known) / len(known) if known else None for id, known in values.items()}


def missing_reasons(matches: Sequence[Match], discrete: bool) -> dict[str, int]:
    """How many have no preference, by reason."""
    lost = [match for match in matches if match.preference(discrete) is None]
    return dict(Counter(match.reason or "no verdict" for match in lost))


def require_enough(
    name: str,
    judgements: Sequence[float | None],
    missing: Mapping[str, int],
    allowed: float,
    values: Sequence[float | None] | None = None,
    least: int = 2,
) -> None:
    """RunFailed where more than the allowed share of judgements (one a turn) is missing, or where fewer than `least` of
    the items' `values` are left (the judgements themselves, unless given)."""
    lost = sum(value is None for value in judgements)
    left = sum(value is not None for value in (judgements if values is None else values))
    if lost > allowed * len(judgements) or left < least:
        reasons = ", ".join(f"{why}: {count}" for why, count in missing.items()) or "none"
        raise RunFailed(
            f"{name}: {lost} of {len(judgements)} judgements are missing ({reasons}), and {allowed:.0%} are allowed "
            f"(`max_missing`; {least} must be left): a rate of what is left would not be the policy's. What was "
            "answered is kept and not asked again"
        )


def order_figures(matches: Sequence[Match]) -> dict[str, Any]:
    """How the order changed the verdicts: in how many the winner changed, and how often the first one won (ties half),
    each with its 95% interval; None where there is nothing to say it from."""
    flips = [flipped for match in matches if match.asked and (flipped := match.flipped()) is not None]
    by_match = [[p for p in match.first.values() if p is not None] for match in matches if match.asked]
    won = [sum((p > 0.5) + (p == 0.5) / 2 for p in firsts) / len(firsts) for firsts in by_match if firsts]
    return {
        "flip_rate": with_interval(wilson_interval(sum(flips), len(flips)), len(flips)) if flips else None,
        "first_rate": with_interval(share_interval(won), len(won)) if won else None,
    }


def with_interval(found: tuple[float, float, float], n: int) -> dict[str, float]:
    """(value, low, high) and n as an event's field."""
    return {"value": found[0], "low": found[1], "high": found[2], "n": n}
