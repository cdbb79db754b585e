"""A question whose answer is one digit, as token ids that fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from selfimprove.judging.digits import digit_tokens
from selfimprove.models.chat import accepted_turns, render_prompt

if TYPE_CHECKING:
    from selfimprove.judging.rubric import Rubric


class Question(NamedTuple):
    """Token ids up to where the digit is predicted; whether the response in it was `cut`."""

    ids: tuple[int, ...]
    cut: bool


def question_ids(tokenizer: Any, rubric: Rubric, values: Mapping[str, str], variant: str, most: int) -> Question | None:
    """A rubric's question in at most `most` tokens. Of a longer one the end of the response is cut, never that of the
    question, where the digit is asked for. None where it is too long even with an empty response.

    Args:
        values, variant: as for `Rubric.messages`; `values` has a `response`.
    """
    opening = digit_tokens(tokenizer).opening

    def rendered(response: str) -> tuple[int, ...]:
        messages = rubric.messages({**values, "response": response}, variant)
        return (*render_prompt(tokenizer, accepted_turns(tokenizer, messages)), *opening)

    ids = rendered(values["response"])
    if len(ids) <= most:
        return Question(ids, False)
    tokens = tokenizer(values["response"], add_special_tokens=False)["input_ids"]
    left = len(tokens)
    while left > 0:
        left = max(0, left - max(1, len(ids) - most))
        ids = rendered(tokenizer.decode(tokens[:left]))
        if len(ids) <= most:
            return Question(ids, True)
    return None
