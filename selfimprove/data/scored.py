"""Responses that bring a score of their own (people's, a stronger model's), to hold a judge's scores against."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from selfimprove.data.sources import DataSource, Ids, Prompt, source_rows


@dataclass(frozen=True)
class Scored:
    """One response to a prompt, and what it is worth: higher is better."""

    prompt_id: str
    text: str
    score: float


def load_scored(source: DataSource, search: Sequence[Path]) -> tuple[list[Prompt], list[Scored]]:
    """(prompts, responses), in file order; rows of the same question are responses to one prompt, the first of them.

    Columns: the question as for prompts; `response`; `score`, any finite number. Raises InputError for anything wrong
    in the source.
    """
    prompts: dict[tuple[tuple[str, str], ...], Prompt] = {}
    names: dict[str, str] = {}
    responses = []
    for row in source_rows(source, search):
        asked, text, score = row.asked(), row.text(row.value("response"), "response"), row.value("score")
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise row.wrong(f"score must be a finite number, found {score!r}")
        prompt = row.prompt(asked, Ids())  # an id may come again, with the next response
        key = tuple((turn["role"], turn["content"]) for turn in asked)
        if key not in prompts:
            if prompt.id in names:
                raise row.wrong(f"id {prompt.id!r} is that of another question ({names[prompt.id]}); give each its own")
            names[prompt.id] = row.place
            prompts[key] = replace(prompt, output=None)
        responses.append(Scored(prompts[key].id, text, float(score)))
    return list(prompts.values()), responses
