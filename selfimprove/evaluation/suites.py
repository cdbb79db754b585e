"""Evaluation suites: a YAML file in `eval/` (or anywhere) and its items; grading is pure."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from selfimprove.data.sources import DataSource, Prompt, load_prompts
from selfimprove.errors import InputError
from selfimprove.shipped import shipped_suites, suites_folder

Normalize = Literal["lower", "strip", "final_period", "after_answer"]


class Suite(BaseModel):
    """What is asked and how an answer is graded.

    kind `exact_match`: greedy answer, normalised as listed, equal to the normalised reference. kind
    `multiple_choice`: the choice with the highest log-likelihood (`score`: summed, or per token) is the reference.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    kind: Literal["exact_match", "multiple_choice"]
    data: Annotated[DataSource, BeforeValidator(lambda v: {"path": v} if isinstance(v, str) else v)]
    description: str = ""
    max_new_tokens: int = 256
    normalize: tuple[Normalize, ...] = ("lower", "strip", "final_period")
    score: Literal["summed", "per_token"] = "per_token"


def load_suite(name: str, search: Sequence[Path] = ()) -> tuple[Suite, list[Prompt]]:
    """A suite and its items, by shipped name or by path (looked for in `search`)."""
    path = shipped_suites().get(name) or next((p for s in search if (p := s / name).is_file()), None)
    if path is None:
        looked = ", ".join(map(str, [*search, suites_folder()]))
        raise InputError(
            f"evaluate: no suite {name!r}; shipped: {', '.join(shipped_suites())}; or a YAML file's path "
            f"(looked in {looked})"
        )
    try:
        suite = Suite(**yaml.safe_load(path.read_text()))
    except (yaml.YAMLError, TypeError, ValidationError) as error:
        raise InputError(f"{path}: not a suite: {error}") from error
    items = load_prompts(suite.data, [path.parent, *search])
    for item in items:
        if item.answer is None:
            raise InputError(f"{path}: item {item.id!r} has no answer")
        if suite.kind == "multiple_choice" and (not item.choices or item.answer not in item.choices):
            raise InputError(f"{path}: item {item.id!r}: its answer {item.answer!r} is none of its choices")
    return suite, items


def normalized(text: str, steps: Sequence[str]) -> str:
    """The text as it is compared. `after_answer`: what follows the last "Answer:" (CREAM's evaluation)."""
    text = unicodedata.normalize("NFKC", text)
    for step in steps:
        if step == "after_answer":
            text = re.split(r"answer\s*:", text, flags=re.IGNORECASE)[-1]
        elif step == "lower":
            text = text.lower()
        elif step == "strip":
            text = " ".join(text.split())
        elif step == "final_period":
            text = text.strip().removesuffix(".")
    return text.strip()


def exact_match(text: str, answer: str, steps: Sequence[str] = ("lower", "strip", "final_period")) -> bool:
    """Whether an answer is the reference, after the same normalisation of both."""
    return normalized(text, steps) == normalized(answer, steps)


def graded(items: Sequence[Prompt], right: Sequence[bool]) -> dict[str, dict[str, float]]:
    """Accuracy and number of items by group."""
    n, hits = Counter[str](), Counter[str]()
    for item, correct in zip(items, right, strict=True):
        group = item.group or "all"
        n[group] += 1
        hits[group] += correct
    return {group: {"value": hits[group] / n[group], "n": n[group]} for group in n}
