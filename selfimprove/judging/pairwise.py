"""Pairwise verdicts: what a judge's first token says of two outputs, and in which order it saw them. Pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping

from selfimprove.judging.functions import Verdict


def weighted_preference(log_probs: Mapping[str, float], first: str = "m", second: str = "M") -> Verdict:
    """(probability that the judge prefers the output labelled `first`, None), or (None, reason).

    P(first) / (P(first) + P(second)) over the judge's first token (AlpacaEval 2's weighted preference). A label that
    is not listed has probability 0: a server lists its likeliest few tokens only.

    Args:
        log_probs: log-probability (nats) of the likeliest first tokens, by token.
    """
    values = [log_probs.get(label, -math.inf) for label in (first, second)]
    if any(math.isnan(value) or value > 1e-6 for value in values):
        return None, "the judge's log-probs are no log-probabilities"
    largest = max(values)
    if largest == -math.inf:
        return None, "neither label is among the judge's first tokens"
    weights = [math.exp(value - largest) for value in values]
    return weights[0] / sum(weights), None


def stated_preference(text: str, first: str = "m", second: str = "M") -> Verdict:
    """The same from what the judge wrote, where its log-probs are not known: 1.0, 0.0, or (None, reason)."""
    word = text.strip().strip("\"'`.*").strip()
    if word not in (first, second):
        return None, "the judge's answer is none of the labels"
    return float(word == first), None


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval shows the judge the second output first: a coin per instruction, the authors' own."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]
