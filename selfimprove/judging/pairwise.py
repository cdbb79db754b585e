"""Pairwise verdicts: what a judge's first token says of two outputs, and in which order it saw them. Pure functions."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from selfimprove.judging.outcomes import Verdict

_UNLISTED = "neither label is among the judge's first tokens"


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
        return None, _UNLISTED
    weights = [math.exp(value - largest) for value in values]
    return weights[0] / sum(weights), None


def stated_preference(text: str, first: str = "m", second: str = "M") -> Verdict:
    """The same from what the judge wrote, where its log-probs are not known: 1.0, 0.0, or (None, reason)."""
    word = text.strip().strip("\"'`.*").strip()
    if word not in (first, second):
        return None, "the judge's answer is none of the labels"
    return float(word == first), None


def label_preference(
    text: str, log_probs: Mapping[str, float] | None = None, first: str = "m", second: str = "M"
) -> Verdict:
    """`weighted_preference` where a label is among the judge's first tokens, else `stated_preference` of its answer.

    Labels are looked for as AlpacaEval's `logprob_parser` does, as exact tokens: where it has a value, this is it. Only
    where neither is listed are tokens with white space around a label counted too (" m", or "Ġm" and "▁m" from servers
    that list a vocabulary's own spelling), their probabilities added up.

    Args:
        text: what the judge wrote.
        log_probs: log-probability (nats) of the likeliest first tokens, by token; None or none where not known.
    """
    if not log_probs:
        return stated_preference(text, first, second)
    value, why = weighted_preference(_by_label(log_probs, first, second), first, second)
    if why == _UNLISTED:
        value, _ = stated_preference(text, first, second)
    return (value, None) if value is not None else (None, why)


def _by_label(log_probs: Mapping[str, float], *labels: str) -> dict[str, float]:
    exact = {label: log_probs[label] for label in labels if label in log_probs}
    if exact:
        return exact
    found: dict[str, list[float]] = {}
    for token, value in log_probs.items():
        label = token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n").strip()
        if label in labels:
            found.setdefault(label, []).append(value)
    return {label: _log_of_sum(values) for label, values in found.items()}


def _log_of_sum(log_probs: Sequence[float]) -> float:
    """log(sum(exp(.))); NaN and infinities pass through."""
    largest = max(log_probs)
    if any(math.isnan(value) for value in log_probs):
        return math.nan
    if math.isinf(largest):
        return largest
    return largest + math.log(sum(math.exp(value - largest) for value in log_probs))


def named_winner(text: str) -> Verdict:
    """The winner that an MT-Bench verdict names: [[A]] (shown first) 1.0, [[B]] 0.0, [[C]] (tie) 0.5.

    As FastChat's `run_judge_pair` (llm_judge/common.py) wherever only one is named. Where several are, FastChat takes
    A before B before C, wherever they stand, so that a judge that repeats its instructions votes for what it saw first;
    here that is missing: which of them is meant cannot be known, and the last one is no better a guess.
    """
    named = [value for winner, value in (("A", 1.0), ("B", 0.0), ("C", 0.5)) if f"[[{winner}]]" in text]
    if len(named) == 1:
        return named[0], None
    return None, "the verdict names several winners" if named else "the verdict names no winner"


def is_switched(instruction: str, seed: int = 0) -> bool:
    """Whether AlpacaEval shows the judge the second output first: a coin per instruction, the authors' own."""
    return random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]
