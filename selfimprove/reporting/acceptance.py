"""The figures of one round of acceptance: how much was right, how varied, and where nothing was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfimprove.data.rows import Response, Responses, Scores
from selfimprove.evaluation.statistics import bootstrap_interval, share_interval
from selfimprove.gates import response_health

_EXAMPLES = 6


def acceptance_figures(
    responses: Responses,
    scores: Scores,
    accepted: set[tuple[str, int]],
    kept: Mapping[str, Sequence[Response]],
    lenient: Scores | None,
    right_from: float,
) -> dict[str, Any]:
    """The `acceptance` event. Intervals are over prompts.

    `pass_1`: the mean share of a prompt's responses that were accepted, `pass_k` the share of prompts with any among
    their k; `lenient_1` and `lenient_k` the same by the lenient check, where there is one. `entropy`: mean -log p of
    the samples' tokens (nats), the policy's entropy at temperature 1 and top_p 1. `distinct`: different accepted texts
    of a prompt, over prompts that have any. `without`: by group, prompts with nothing accepted, and all prompts.
    """
    prompts = list(responses.prompts.values())
    everything = responses.all()
    right = [[float((p.id, one.index) in accepted) for one in responses.by_prompt[p.id]] for p in prompts]
    without: dict[str, list[int]] = {}
    for prompt, row in zip(prompts, right, strict=True):
        counted = without.setdefault(prompt.group or "all", [0, 0])
        counted[0] += not any(row)
        counted[1] += 1
    distinct = [len(rows) for rows in kept.values()]
    lost = sum(score is None for row in scores.values() for score in row)
    forgiving = lenient and [[float((value or 0.0) >= right_from) for value in lenient[p.id]] for p in prompts]
    return {
        "prompts": len(prompts),
        "responses": len(everything),
        "k": max(map(len, right)),
        "accepted": len(accepted),
        "kept": sum(distinct),
        "pass_1": _shares([float(np.mean(row)) for row in right]),
        "pass_k": _shares([float(any(row)) for row in right]),
        "lenient_1": _shares([float(np.mean(row)) for row in forgiving]) if forgiving else None,
        "lenient_k": _shares([float(any(row)) for row in forgiving]) if forgiving else None,
        "distinct": _means([float(many) for many in distinct]) if distinct else None,
        "entropy": _entropy(responses),
        "without": without,
        "missing_share": lost / len(everything),
        "truncated_share": sum(one.finish == "length" for one in everything) / len(everything),
        "health": response_health(list(responses.by_prompt.values())),
        "examples": _examples(responses, kept),
    }


def _shares(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), share_interval(values), strict=True)) | {"n": len(values)}


def _means(values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), bootstrap_interval(values), strict=True)) | {"n": len(values)}


def _entropy(responses: Responses) -> dict[str, float] | None:
    """Mean -log p by prompt, each prompt weighing the same; None where the sampler gave no log-probs."""
    by_prompt = []
    for _, row in responses:
        known = [(one.sampler_log_prob, len(one.ids)) for one in row if one.sampler_log_prob is not None]
        if known:
            by_prompt.append(-sum(log_prob for log_prob, _ in known) / sum(tokens for _, tokens in known))
    return _means(by_prompt) if by_prompt else None


def _examples(responses: Responses, kept: Mapping[str, Sequence[Response]]) -> list[dict[str, Any]]:
    """The first kept responses, which no eye has chosen, each beside a response of its prompt that was not kept."""
    found = []
    for id, rows in list(kept.items())[:_EXAMPLES]:
        others = [one for one in responses.by_prompt[id] if one not in rows]
        found.append(
            {
                "prompt": responses.prompts[id].text,
                "group": responses.prompts[id].group,
                "kept": rows[0].text,
                "not_kept": others[0].text if others else None,
            }
        )
    return found
