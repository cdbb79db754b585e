"""Whether a text is the reference, after steps that leave aside what does not count. Pure."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


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
