"""A rubric: a folder with `prompt.txt` and `rubric.yaml`, which names a parser. It holds no code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from selfimprove.errors import InputError
from selfimprove.shipped import suites_folder


class RubricOptions(BaseModel):
    """`rubric.yaml`. parser `score`: the last "Score: N" of the verdict; `low` and `high` bound it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    parser: Literal["score"]
    low: float
    high: float
    max_new_tokens: int = 128


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked about one response, and how its verdict is read."""

    template: str
    options: RubricOptions

    @property
    def max_new_tokens(self) -> int:
        return self.options.max_new_tokens

    def question(self, instruction: str, response: str) -> str:
        """The judge's prompt. What is judged stands between tags that it cannot close itself."""
        parts = {"{instruction}": _fenced(instruction), "{response}": _fenced(response)}
        return re.sub(r"\{instruction\}|\{response\}", lambda found: parts[found.group()], self.template)

    def parse(self, verdict: str) -> tuple[float | None, str | None]:
        """(score, None), or (None, reason): a verdict that cannot be read is missing, not a low score."""
        found = re.findall(r"score\s*[:=]\s*(-?\d+(?:\.\d+)?)", verdict, flags=re.IGNORECASE)
        if not found:
            return None, "the verdict has no score"
        score = float(found[-1])
        if not self.options.low <= score <= self.options.high:
            return None, "the score is out of bounds"
        return score, None


def _fenced(text: str) -> str:
    return re.sub(r"<(?=\s*/?\s*(?:instruction|response)\b)", "‹", text, flags=re.IGNORECASE)


def load_rubric(name: str, search: Sequence[Path]) -> Rubric:
    """A rubric by folder (looked for in `search`) or by the name of a shipped one."""
    places = [*(folder / name for folder in search), suites_folder() / "judges" / name]
    folder = next((place for place in places if (place / "rubric.yaml").is_file()), None)
    if folder is None:
        raise InputError(f"rubric: no folder {name!r} with a rubric.yaml; looked at {', '.join(map(str, places))}")
    try:
        options = RubricOptions(**yaml.safe_load((folder / "rubric.yaml").read_text()))
        template = (folder / "prompt.txt").read_text(encoding="utf-8")
    except (OSError, yaml.YAMLError, TypeError, ValidationError) as error:
        raise InputError(f"{folder}: not a rubric: {error}") from error
    if "{response}" not in template:
        raise InputError(f"{folder / 'prompt.txt'}: has no {{response}} placeholder")
    return Rubric(template, options)
