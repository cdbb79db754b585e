"""Judges that know the truth, with a known share of labels turned round: `iterative_dpo.judge.function` names them."""

from __future__ import annotations

import hashlib

from benchmarks.lab.tasks import grade


def truth(prompt: str, response: str, answer: str | None) -> float:
    """The share of right places, 0 to 1."""
    return grade(str(answer), response)


def flipped(prompt: str, share: float) -> bool:
    """Whether a prompt's ranking is turned round; so many of all prompts, the same ones in every run."""
    return int.from_bytes(hashlib.sha256(f"flip|{prompt}".encode()).digest()[:8]) / 2**64 < share


def truth_20(prompt: str, response: str, answer: str | None) -> float:
    """The truth, turned round for 20% of the prompts: there the worst response becomes the chosen one."""
    return truth(prompt, response, answer) * (-1 if flipped(prompt, 0.2) else 1)


def truth_40(prompt: str, response: str, answer: str | None) -> float:
    """The truth, turned round for 40% of the prompts."""
    return truth(prompt, response, answer) * (-1 if flipped(prompt, 0.4) else 1)
