"""The figures of one round, from what the method had in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from selfimprove.data.rows import Pair, Response, Responses, Scores
from selfimprove.gates import response_health
from selfimprove.judging.agreement import consistency, tie_rate
from selfimprove.judging.checkers.exact import exact_match
from selfimprove.loop.reward_length import reward_by_length
from selfimprove.statistics import bounded_interval, wilson_interval

_EXAMPLES = 8
_DOUBTFUL = 3


@dataclass(frozen=True)
class Ranking:
    """How the round ranked: who judged (`judge`, its scores in `unit`), and whose ranking it is compared with.

    `current` and `previous` name the two successive models, or what stands for the previous one. `mode` says how the
    agreement, taken by `measure`, softens labels: "avg", "dyn", "constant", or "none".
    """

    judge: str
    unit: str
    current: str
    previous: str
    measure: str
    mode: str


def round_figures(
    responses: Responses,
    scores: Scores,
    pairs: Sequence[Pair],
    skipped: Mapping[str, int],
    agreement: Mapping[str, float | None] | None,
    *,
    margins: Sequence[float],
    ranking: Ranking,
    before: Scores | None = None,
) -> dict[str, Any]:
    """The `round` event: consistency, the two rankings' correlation, rewards, lengths (tokens), labels, margins (nats),
    health and examples. `before`: the previous model's scores of the same responses."""
    groups = [
        [
            (score, len(response.ids))
            for score, response in zip(scores[prompt.id], its_responses, strict=True)
            if score is not None
        ]
        for prompt, its_responses in responses
    ]
    known = [one for group in groups for one in group]
    ties = [tie_rate([s for s in row if s is not None]) for row in scores.values()]
    everything = responses.all()
    by_length = reward_by_length(groups)
    tau = {prompt.id: _tau(scores[prompt.id], before[prompt.id]) for prompt, _ in responses} if before else {}
    return {
        "prompts": len(responses.by_prompt),
        "responses": len(everything),
        "judge": ranking.judge,
        "consistency": {"measure": ranking.measure, "mode": ranking.mode, **_over_prompts(agreement, (0, 1))}
        if agreement
        else None,
        "rankings": {"current": ranking.current, "previous": ranking.previous, "tau": _over_prompts(tau, (-1, 1))}
        if before
        else None,
        "rewards": {
            "mean": float(np.mean([score for score, _ in known])) if known else None,
            "chosen": [pair.chosen_reward for pair in pairs],
            "rejected": [pair.rejected_reward for pair in pairs],
            "unit": ranking.unit,
        },
        "lengths": {
            "mean": float(np.mean([len(r.ids) for r in everything])),
            "chosen": [len(pair.chosen.ids) for pair in pairs],
            "rejected": [len(pair.rejected.ids) for pair in pairs],
            "truncated_share": float(np.mean([r.finish == "length" for r in everything])),
            "unit": "tokens",
        },
        "reward_length_correlation": by_length["value"] if by_length else None,
        "reward_by_length": by_length,
        "missing_share": 1 - len(known) / len(everything),
        "tie_rate": float(np.mean(ties)) if ties else 0.0,
        "pairs": len(pairs),
        "skipped": dict(skipped),
        "label_accuracy": label_accuracy(pairs),
        "margins": {
            "mean_abs": float(np.mean(np.abs(margins))) if margins else None,
            "values": list(margins),
        },
        "health": response_health(list(responses.by_prompt.values())),
        "examples": [
            _example(pair, why, responses, scores, before, agreement, tau) for pair, why in _picked(pairs, tau)
        ],
    }


def _tau(now: Sequence[float | None], before: Sequence[float | None]) -> float | None:
    """Kendall's tau-a of a prompt's two rankings, whatever measure the recipe takes."""
    agreement = consistency(now, before, "kendall")
    return None if agreement is None else 2 * agreement - 1


def _over_prompts(by_prompt: Mapping[str, float | None], bounds: tuple[float, float]) -> dict[str, Any]:
    """The values over prompts, their mean with its interval, and how many are undefined."""
    known = [value for value in by_prompt.values() if value is not None]
    mean, low, high = bounded_interval(known, bounds) if known else (None, None, None)
    return {"mean": mean, "low": low, "high": high, "values": known, "undefined": len(by_prompt) - len(known)}


def _is_right(response: Response, answer: str | None) -> bool | None:
    """Whether a response is the prompt's reference answer; None where the prompt has none."""
    return None if answer is None else response.finish == "stop" and exact_match(response.text, answer)


def right(pair: Pair) -> tuple[bool, bool] | None:
    """Whether chosen and rejected are the prompt's reference answer; None where it has none."""
    chosen, rejected = (_is_right(response, pair.prompt.answer) for response in (pair.chosen, pair.rejected))
    return None if chosen is None or rejected is None else (chosen, rejected)


def label_accuracy(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Share of right labels among pairs with exactly one right response, with Wilson's interval."""
    verdicts = [both for pair in pairs if (both := right(pair)) is not None]
    telling = [both for both in verdicts if both[0] != both[1]]
    if not telling:
        return None
    hits = sum(chosen for chosen, _ in telling)
    value, low, high = wilson_interval(hits, len(telling))
    return {"right": hits, "n": len(telling), "value": value, "low": low, "high": high}


def _picked(pairs: Sequence[Pair], tau: Mapping[str, float | None]) -> list[tuple[Pair, str]]:
    """The first pairs, which no eye has chosen, and of the others those whose two rankings disagree most."""
    known = [(value, place) for place, pair in enumerate(pairs) if (value := tau.get(pair.prompt.id)) is not None]
    doubtful = [pairs[place] for _, place in sorted(known) if place >= _EXAMPLES][:_DOUBTFUL]
    return [(pair, "first") for pair in pairs[:_EXAMPLES]] + [(pair, "least agreement") for pair in doubtful]


def _example(
    pair: Pair,
    picked: str,
    responses: Responses,
    scores: Scores,
    before: Scores | None,
    agreement: Mapping[str, float | None] | None,
    tau: Mapping[str, float | None],
) -> dict[str, Any]:
    both = right(pair)
    prompt, its_responses = pair.prompt, responses.by_prompt[pair.prompt.id]
    rows: list[dict[str, Any]] = []
    for place, response in enumerate(its_responses):
        role = {pair.chosen: "chosen", pair.rejected: "rejected"}.get(response)
        rows.append(
            {
                "role": role,
                "text": None if role else response.text,  # chosen and rejected are there already
                "tokens": len(response.ids),
                "truncated": response.finish == "length",
                "right": _is_right(response, prompt.answer),
                "reward": scores[prompt.id][place],
                "previous": before[prompt.id][place] if before else None,
            }
        )
    return {
        "prompt": prompt.text,
        "picked": picked,
        "chosen": pair.chosen.text,
        "rejected": pair.rejected.text,
        "confidence": pair.confidence,
        "consistency": agreement.get(prompt.id) if agreement else None,
        "tau": tau.get(prompt.id),
        "chosen_reward": pair.chosen_reward,
        "rejected_reward": pair.rejected_reward,
        "chosen_right": both[0] if both else None,
        "rejected_right": both[1] if both else None,
        "responses": rows,
    }
