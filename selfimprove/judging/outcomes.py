"""What judges and checkers say of a text: a value, or missing with a reason."""

from __future__ import annotations

from typing import NamedTuple

TRUNCATED = "truncated"


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
