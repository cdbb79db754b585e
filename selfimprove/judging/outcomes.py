"""What judges and checkers say of a text: a value, or missing with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

TRUNCATED = "truncated"
NO_REFERENCE = "the prompt has no reference answer"


class Answered(NamedTuple):
    """A question and what was answered. `answer`: the reference; for kind `code` the task's row of the data as JSON."""

    prompt: str
    text: str
    answer: str | None
    truncated: bool


class Rewarded(NamedTuple):
    """`value` None is missing, for the reason `missing`; `failure` is why an answer is wrong without having been
    compared with anything."""

    value: float | None
    failure: str | None = None
    missing: str | None = None


# (score, None), or (None, why it is missing)
Verdict = tuple[float | None, str | None]

Advance = Callable[[int], None]
# What looks at answers, one outcome for each in order; it tells `advance` of those that are done.
Look = Callable[[Sequence[Answered], Advance], list[Rewarded]]


def reward_of(verdict: Verdict) -> Rewarded:
    """A judge's verdict as a reward."""
    return Rewarded(verdict[0], missing=verdict[1])
