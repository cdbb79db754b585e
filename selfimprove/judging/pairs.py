"""From scores to preference pairs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from selfimprove.data.rows import Pair, Responses, Scores


def best_and_worst(responses: Responses, scores: Scores, truncated: str = "keep") -> tuple[list[Pair], dict[str, int]]:
    """One pair per prompt: the response with the highest score over the one with the lowest.

    Missing scores are left out, never read as a low score. Among equal scores the first response counts.

    Args:
        truncated: "drop" leaves responses without an end of turn out.

    Returns:
        The pairs, with confidence 1, and how many prompts have none, by reason.
    """
    pairs, skipped = [], Counter[str]()
    for prompt, its_responses in responses:
        scored = [
            (score, response)
            for score, response in zip(scores[prompt.id], its_responses, strict=True)
            if score is not None and not (truncated == "drop" and response.finish == "length")
        ]
        if len({response.text for _, response in scored}) < 2:
            few = len({response.text for response in its_responses}) < 2
            skipped["all responses the same" if few else "fewer than two usable scores"] += 1
            continue
        best = max(scored, key=lambda one: one[0])
        worst = min(scored, key=lambda one: one[0])
        if best[0] == worst[0] or best[1].text == worst[1].text:
            skipped["best and worst are equal"] += 1
            continue
        pairs.append(Pair(prompt, best[1], worst[1], best[0], worst[0]))
    return pairs, dict(skipped)


def alike(text: str) -> str:
    """What two texts have in common that count as one: everything but case and white space.

    >>> alike("Rain  falls.\\n") == alike("rain falls.")
    True
    """
    return " ".join(text.casefold().split())


def softened(pairs: list[Pair], confidence: float | Mapping[str, float | None], mean: float = 1.0) -> list[Pair]:
    """Pairs with a confidence: one for all, or by prompt id, where a missing one gets `mean`."""
    if isinstance(confidence, Mapping):
        own = [confidence.get(pair.prompt.id) for pair in pairs]
        known = [mean if value is None else value for value in own]
        return [replace(pair, confidence=value) for pair, value in zip(pairs, known, strict=True)]
    return [replace(pair, confidence=confidence) for pair in pairs]


def random_scores(responses: Responses, seed: int) -> Scores:
    """Scores without meaning, the baseline that says what the judge is worth."""
    return {
        prompt.id: [random.Random(f"{seed}|{prompt.id}|{response.index}").random() for response in its_responses]
        for prompt, its_responses in responses
    }
