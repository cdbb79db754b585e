"""The figures of one round, from what the method had in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from selfimprove.data.rows import Pair, Responses, Scores
from selfimprove.evaluation.statistics import bootstrap_interval, wilson_interval
from selfimprove.evaluation.suites import exact_match
from selfimprove.gates import response_health
from selfimprove.judging.agreement import tie_rate

_EXAMPLES = 8


def round_figures(
    responses: Responses,
    scores: Scores,
    pairs: Sequence[Pair],
    skipped: Mapping[str, int],
    agreement: Mapping[str, float | None] | None,
    *,
    margins: Sequence[float],
    measure: str,
    weight: str,
) -> dict[str, Any]:
    """The `round` event: consistency, rewards (nats), lengths (tokens), labels, margins, health and examples."""
    flat = [
        (score, len(response.ids))
        for prompt, its_responses in responses
        for score, response in zip(scores[prompt.id], its_responses, strict=True)
    ]
    known = [(score, length) for score, length in flat if score is not None]
    ties = [tie_rate([s for s in row if s is not None]) for row in scores.values()]
    everything = responses.all()
    return {
        "prompts": len(responses.by_prompt),
        "responses": len(everything),
        "consistency": _consistency(agreement, measure, weight),
        "rewards": {
            "mean": float(np.mean([score for score, _ in known])) if known else None,
            "chosen": [pair.chosen_reward for pair in pairs],
            "rejected": [pair.rejected_reward for pair in pairs],
        },
        "lengths": {
            "mean": float(np.mean([len(r.ids) for r in everything])),
            "chosen": [len(pair.chosen.ids) for pair in pairs],
            "rejected": [len(pair.rejected.ids) for pair in pairs],
            "truncated_share": float(np.mean([r.finish == "length" for r in everything])),
            "unit": "tokens",
        },
        "reward_length_correlation": _correlation(known),
        "missing_share": 1 - len(known) / len(flat),
        "tie_rate": float(np.mean(ties)) if ties else 0.0,
        "pairs": len(pairs),
        "skipped": dict(skipped),
        "label_accuracy": label_accuracy(pairs),
        "margins": {
            "mean_abs": float(np.mean(np.abs(margins))) if margins else None,
            "values": list(margins),
        },
        "health": response_health(list(responses.by_prompt.values())),
        "examples": [_example(pair) for pair in pairs[:_EXAMPLES]],
    }


def _consistency(agreement: Mapping[str, float | None] | None, measure: str, weight: str) -> dict[str, Any] | None:
    if agreement is None:
        return None
    known = [value for value in agreement.values() if value is not None]
    mean, low, high = bootstrap_interval(known) if known else (None, None, None)
    return {
        "measure": measure,
        "mode": weight,
        "mean": mean,
        "low": low,
        "high": high,
        "values": known,
        "undefined": len(agreement) - len(known),
    }


def _correlation(known: Sequence[tuple[float, int]]) -> float | None:
    """Spearman's rank correlation of reward and length over all responses; None where one of them is constant."""
    rewards, lengths = [one[0] for one in known], [one[1] for one in known]
    if len(set(rewards)) < 2 or len(set(lengths)) < 2:
        return None
    return float(stats.spearmanr(rewards, lengths).statistic)


def right(pair: Pair) -> tuple[bool, bool] | None:
    """Whether chosen and rejected are the prompt's reference answer; None where it has none."""
    if pair.prompt.answer is None:
        return None
    return tuple(r.finish == "stop" and exact_match(r.text, pair.prompt.answer) for r in (pair.chosen, pair.rejected))  # type: ignore[return-value]


def label_accuracy(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Share of right labels among pairs with exactly one right response, with Wilson's interval."""
    verdicts = [both for pair in pairs if (both := right(pair)) is not None]
    telling = [both for both in verdicts if both[0] != both[1]]
    if not telling:
        return None
    hits = sum(chosen for chosen, _ in telling)
    value, low, high = wilson_interval(hits, len(telling))
    return {"right": hits, "n": len(telling), "value": value, "low": low, "high": high}


def _example(pair: Pair) -> dict[str, Any]:
    both = right(pair)
    return {
        "prompt": pair.prompt.text,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "confidence": pair.confidence,
        "chosen_reward": pair.chosen_reward,
        "rejected_reward": pair.rejected_reward,
        "chosen_right": both[0] if both else None,
        "rejected_right": both[1] if both else None,
    }
