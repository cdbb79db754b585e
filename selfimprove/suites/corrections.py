"""How a policy's answers change from one attempt to the next, and what a vote over attempts says. Pure functions.

The figures are those of SCoRe (arXiv 2409.12917): Acc@t1, Acc@t2, their difference, i->c, c->i, and how much of the
first attempt stands in the second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from selfimprove.statistics import paired_difference, share_interval, wilson_interval
from selfimprove.suites.matches import with_interval

BINS = 10  # of the edit ratio, from 0 to 1
TRUNCATED, TOO_LONG = "truncated", "prompt too long"


@dataclass(frozen=True)
class Attempt:
    """One turn's answer to one item. `value`: 1.0 right, 0.0 wrong, None where the checker failed (`missing` says why).
    `failure`: why it is wrong before it was compared with anything, or why it could not be compared. `text` is None
    where there was no answer; `answer` is what is compared of it: the normalised text, or the part that was read."""

    value: float | None
    text: str | None = None
    answer: str | None = None
    failure: str | None = None
    missing: str | None = None


def edit_distance(first: str, second: str) -> int:
    """Levenshtein's distance: the fewest characters to insert, delete or replace that make one text of the other.

    A column of the table of distances is one integer of len(first) bits, so 1,000 by 1,000 characters take about a
    millisecond. Source: Hyyrö, A bit-vector algorithm for computing Levenshtein and Damerau edit distances, Nordic
    Journal of Computing 10 (2003), figure 7, after Myers (1999).
    """
    if not first or not second:
        return len(first) + len(second)
    places: dict[str, int] = {}
    for place, character in enumerate(first):
        places[character] = places.get(character, 0) | 1 << place
    every, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down = every, 0  # where the distance grows, and falls, from one row to the next
    distance = len(first)
    for character in second:
        equal = places.get(character, 0)
        diagonal = (((equal & up) + up) ^ up) | equal | down
        right = down | ~(diagonal | up) & every  # where it grows, and falls, from one column to the next
        left = up & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1 | 1) & every, left << 1 & every
        up = left | ~(diagonal | right) & every
        down = right & diagonal
    return distance


def edit_ratio(first: str, second: str) -> float:
    """Edit distance / (length of both), in [0, 1]: 0 for a copy, 1 where one of the two is empty; two texts of equal
    length that share nothing have 0.5."""
    return edit_distance(first, second) / (len(first) + len(second)) if first or second else 0.0


def correction_figures(turns: Sequence[Sequence[Attempt]]) -> dict[str, Any]:
    """Everything about attempts `turns[t][item]`, as an event's field; shares are of the problems.

    `turns`: of each turn its accuracy, its truncated share, and failures by reason. From the first to the last turn:
    `delta`, `i_to_c`, `c_to_i`, `c_to_c`, `i_to_i`, `change`, `copy`, `edit_ratio` (see `between`). `steps`: the same
    from each turn to the next, where there are more than two. Each with its 95% interval and n.
    """
    steps = [
        {"from": place, "to": place + 1, **between(before, after)}
        for place, (before, after) in enumerate(pairwise(turns), 1)
    ]
    return {
        "turns": {str(place): _turn(attempts) for place, attempts in enumerate(turns, 1)},
        **between(turns[0], turns[-1]),
        "steps": steps if len(turns) > 2 else [],
    }


def _turn(attempts: Sequence[Attempt]) -> dict[str, Any]:
    truncated = sum(one.failure == TRUNCATED for one in attempts)
    return {
        **accuracy([one.value for one in attempts]),
        "truncated": with_interval(wilson_interval(truncated, len(attempts)), len(attempts)),
        "failures": dict(Counter(one.failure for one in attempts if one.failure)),
        "missing": dict(Counter(one.missing for one in attempts if one.missing)),
    }


def between(first: Sequence[Attempt], second: Sequence[Attempt]) -> dict[str, Any]:
    """What became of first attempts: None where nothing is known of any.

    `delta` and the four transitions are over the items whose value is known in both, so that delta = i_to_c - c_to_i
    and the four sum to one. `change` (another answer), `copy` (the whole text, character for character), `edit_ratio`
    (mean and counts of ten equal bins from 0 to 1) are over those with a text in both. A share's interval is Wilson's;
    those of `delta` and of the ratio's mean are of its kind (`bounded_interval`).
    """
    pairs = list(zip(first, second, strict=True))
    known = [(a.value, b.value) for a, b in pairs if a.value is not None and b.value is not None]
    said = [(a, b) for a, b in pairs if a.text is not None and b.text is not None]
    ratios = [edit_ratio(str(a.text), str(b.text)) for a, b in said]
    return {
        "delta": difference([one.value for one in first], [one.value for one in second]),
        "i_to_c": share([a < b for a, b in known]),
        "c_to_i": share([a > b for a, b in known]),
        "c_to_c": share([a == b == 1.0 for a, b in known]),
        "i_to_i": share([a == b == 0.0 for a, b in known]),
        "change": share([a.answer != b.answer for a, b in said]),
        "copy": share([a.text == b.text for a, b in said]),
        "edit_ratio": {
            **with_interval(share_interval(ratios), len(ratios)),
            "histogram": np.histogram(ratios, BINS, (0, 1))[0].tolist(),
        }
        if ratios
        else None,
    }


def difference(first: Sequence[float | None], second: Sequence[float | None]) -> dict[str, float] | None:
    """The mean of second - first over the items known in both, with its interval over items; None without any."""
    known = [(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    return with_interval(paired_difference([a for a, _ in known], [b for _, b in known]), len(known)) if known else None


def accuracy(values: Sequence[float | None]) -> dict[str, Any]:
    """The share that is right of those with a value; `value` is None without any."""
    return share([value == 1.0 for value in values if value is not None]) or {"value": None, "n": 0}


def share(found: Sequence[bool]) -> dict[str, float] | None:
    """The share that holds, with Wilson's 95% interval; None of nothing."""
    return with_interval(wilson_interval(sum(found), len(found)), len(found)) if found else None


def majority(answers: Sequence[str]) -> int:
    """The place where the most frequent answer stands first; of equally frequent ones, the one seen first.

    ValueError where there is none.
    """
    if not answers:
        raise ValueError("no answer to vote over")
    winner, _ = max(Counter(answers).items(), key=lambda one: one[1])  # a Counter keeps the order of first sight
    return answers.index(winner)


def vote(attempts: Sequence[Attempt]) -> float | None:
    """1.0 if the most frequent answer is right, else 0.0. What has no end, no answer or no value does not vote; where
    none does, the vote is wrong, or missing if the checker failed at any."""
    voters = [one for one in attempts if one.value is not None and one.failure is None]
    if voters:
        return voters[majority([str(one.answer) for one in voters])].value
    return None if any(one.value is None for one in attempts) else 0.0
