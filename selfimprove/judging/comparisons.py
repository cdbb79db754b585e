"""Responses of a prompt ranked by a rubric that compares two: each pair is shown in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.judging.asking import Judge, ask_judge
from selfimprove.judging.outcomes import Verdict
from selfimprove.models.chat import Message

if TYPE_CHECKING:
    from selfimprove.inference import Inference


def won_shares(n: int, first_wins: Mapping[tuple[int, int], Verdict]) -> list[Verdict]:
    """Of `n` responses, each one's mean probability to be the better one of a pair, over those pairs whose verdicts of
    both orders are known; (None, a reason) where none is.

    Args:
        first_wins: by (shown first, shown second): the probability that the first one is the better one, or missing.
            A judge that names whoever is shown first gives .5 to all.

    >>> won_shares(2, {(0, 1): (1.0, None), (1, 0): (0.0, None)})
    [(1.0, None), (0.0, None)]
    >>> won_shares(2, {(0, 1): (1.0, None), (1, 0): (1.0, None)})
    [(0.5, None), (0.5, None)]
    >>> won_shares(2, {(0, 1): (1.0, None), (1, 0): (None, "cut")})
    [(None, 'cut'), (None, 'cut')]
    """
    shares: list[list[float]] = [[] for _ in range(n)]
    reasons: list[str | None] = [None] * n
    for one, other in combinations(range(n), 2):
        (straight, why), (switched, why_switched) = first_wins[one, other], first_wins[other, one]
        if straight is None or switched is None:
            reasons[one] = reasons[other] = why or why_switched
        else:
            share = (straight + 1 - switched) / 2
            shares[one].append(share)
            shares[other].append(1 - share)
    return [
        (sum(won) / len(won), None) if won else (None, why or "there is no other response to compare it with")
        for won, why in zip(shares, reasons, strict=True)
    ]


def compared(loop: Inference, judge: Judge, responses: Responses) -> dict[str, list[Verdict]]:
    """`won_shares` of every prompt's responses. Equal texts are a tie, and nobody is asked about them."""
    asked: dict[str, Sequence[Message]] = {}
    for prompt, its_responses in responses:
        for first, second in _orders(its_responses):
            if first.text != second.text:
                asked[_id(prompt, first, second)] = judge.rubric.messages(
                    {"instruction": prompt.conversation, "output_1": first.text, "output_2": second.text}
                )
    verdicts = ask_judge(loop, judge, asked, "rubric").verdicts if asked else {}
    tie: Verdict = (0.5, None)
    return {
        prompt.id: won_shares(
            len(its_responses),
            {(a.index, b.index): verdicts.get(_id(prompt, a, b), tie) for a, b in _orders(its_responses)},
        )
        for prompt, its_responses in responses
    }


def _orders(responses: Sequence[Response]) -> list[tuple[Response, Response]]:
    return [pair for one, other in combinations(responses, 2) for pair in ((one, other), (other, one))]


def _id(prompt: RenderedPrompt, first: Response, second: Response) -> str:
    return f"{prompt.id}#{first.index}>{second.index}"
