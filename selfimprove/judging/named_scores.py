"""Several named scores in one verdict, as a JSON object: `{"Analysis": "...", "Relevance": 7, ...}`. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any


def named_scores(
    verdict: str, names: Sequence[str], low: float, high: float
) -> tuple[dict[str, int] | None, str | None]:
    """(score by name, None), or (None, reason): the verdict's JSON object must have a whole number from `low` to `high`
    under every name, whatever the case of the letters. Its other keys are ignored, as is the text around it.

    The object begins at the verdict's first brace: one that the judge quotes must never be read as its verdict.
    """
    start = verdict.find("{")
    try:
        found: Any = json.JSONDecoder(strict=False).raw_decode(verdict, start)[0] if start >= 0 else None
    except (ValueError, RecursionError):  # a number of thousands of digits, a thousand brackets
        found = None
    if not isinstance(found, dict):
        return None, "the verdict has no JSON object"
    given = {key.lower(): value for key, value in found.items()}
    scores: dict[str, int] = {}
    for name in names:
        value = given.get(name.lower())
        if isinstance(value, bool) or not isinstance(value, int):
            return None, f"the verdict has no whole number for {name}"
        if not low <= value <= high:
            return None, f"the score for {name} is out of bounds"
        scores[name] = value
    return scores, None
