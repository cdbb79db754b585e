"""A judge's score as the expected value of one digit: the judge's first token, over the ten digits.

Self-J (arXiv 2409.00935): s = sum over k of k p(k), k = 0 to 9, p renormalised over the ten digit tokens. The authors'
code returns 0 where no digit is listed; here that is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from selfimprove.errors import InputError
from selfimprove.judging.outcomes import Verdict
from selfimprove.models.chat import Message, render_example

if TYPE_CHECKING:
    pass

DIGITS = "0123456789"


def expected_digit(log_probs: Mapping[str, float]) -> Verdict:
    """(expected value in [0, 9], None), or (None, reason).

    Args:
        log_probs: log-probability (nats) of the judge's likeliest first tokens, by token; they need not add up to 1. A
            digit counts with white space around it too (" 7", "▁7"), a digit that is not listed has probability 0.
    """
    listed: list[tuple[int, float]] = []
    for token, value in log_probs.items():
        text = token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n").strip()
        if len(text) == 1 and text in DIGITS:
            if math.isnan(value) or value > 1e-6:
                return None, "the judge's log-probs are no log-probabilities"
            listed.append((int(text), value))
    largest = max((value for _, value in listed), default=-math.inf)
    if largest == -math.inf:
        return None, "no digit is among the judge's first tokens"
    weights = [(digit, math.exp(value - largest)) for digit, value in listed]
    return sum(digit * weight for digit, weight in weights) / sum(weight for _, weight in weights), None


def stated_digit(text: str) -> Verdict:
    """The digit that the judge's answer begins with, where its log-probs are not known."""
    if found := re.match(r"\s*([0-9])(?!\d|[.,]\d)", text):
        return float(found[1]), None
    return None, "the judge's answer does not begin with a digit"


class DigitTokens(NamedTuple):
    """`opening`: what the model's template writes between the prompt and a digit (Llama 2: a space of its own), to be
    read and not predicted; `ids`: of the ten digits, in order."""

    opening: tuple[int, ...]
    ids: tuple[int, ...]


def digit_tokens(tokenizer: Any) -> DigitTokens:
    """The ten tokens that begin an answer which is one digit, under the tokenizer's own chat template, so that the
    digit is the first token to be predicted.

    Raises InputError where a digit is no token of its own.
    """
    return _digit_tokens(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=8)
def _digit_tokens(tokenizer: Any, template: str | None) -> DigitTokens:
    probe: list[Message] = [{"role": "user", "content": "question"}]
    answers = [tuple(render_example(tokenizer, probe, digit)[1]) for digit in DIGITS]
    opening = 0
    while len({answer[opening] for answer in answers if len(answer) > opening}) == 1:
        opening += 1
    ids = tuple(answer[opening] for answer in answers if len(answer) > opening)
    behind = {answer[opening + 1 :] for answer in answers}
    if len(set(ids)) < len(DIGITS) or len(behind) > 1:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        shown = ", ".join(
            f"{digit}: {list(answer)}"
            for digit, answer in zip("079", (answers[0], answers[7], answers[9]), strict=True)
        )
        raise InputError(
            f"judge: the tokenizer {name!r} has no token of its own for each of the ten digits as a whole answer "
            f"(ids {shown}), so no score can be read from one token; take a model whose tokenizer splits digits, or "
            "another rubric (parser `score`)"
        )
    return DigitTokens(answers[0][:opening], ids)
