"""The figures of one round of acceptance: how much was right, how varied, and where nothing was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from selfimprove.data.rows import Response, Responses, Scores
from selfimprove.judging.pairs import alike
from selfimprove.statistics import bootstrap_interval, share_interval

_EXAMPLES = 6


def acceptance_figures(
    responses: Responses,
    scores: Scores,
    accepted: set[tuple[str, int]],
    kept: Mapping[str, Sequence[Response]],
    lenient: Scores | None,
    by_threshold: bool,
) -> dict[str, Any]:
    """The `acceptance` event. Intervals are over prompts; responses whose score is missing are in no share.

    `accepted_share`: the mean share of a prompt's responses that were accepted. Where a threshold decided, so that
    accepted means right, it is `pass_1` too, and `pass_k` is the share of prompts with any among their k; `lenient_1`
    is pass@1 by the lenient check, where there is one. `distinct`: different accepted texts of a prompt, over prompts
    that have any. `entropy`: mean -log p of the samples' tokens (nats), the policy's entropy at temperature 1 and top_p
    1. `without`: by group, prompts with nothing accepted, and all prompts.
    """
    prompts = list(responses.prompts.values())
    everything = responses.all()
    right: list[list[float]] = []
    without: dict[str, list[int]] = {}
    distinct = []
    for prompt in prompts:
        rows = responses.by_prompt[prompt.id]
        known = [one for one in rows if scores[prompt.id][one.index] is not None]
        taken = [one for one in known if (prompt.id, one.index) in accepted]
        if taken:
            distinct.append(float(len({alike(one.text) for one in taken})))
        if known:
            right.append([float(one in taken) for one in known])
            counted = without.setdefault(prompt.group or "all", [0, 0])
            counted[0] += not taken
            counted[1] += 1
    lost = sum(score is None for row in scores.values() for score in row)
    share = _shares([float(np.mean(row)) for row in right]) if right else None
    forgiving = lenient and [[value for value in lenient[p.id] if value is not None] for p in prompts]
    forgiving = forgiving and [row for row in forgiving if row]
    return {
        "prompts": len(prompts),
        "responses": len(everything),
        "k": max(map(len, responses.by_prompt.values())),
        "accepted": len(accepted),
        "kept": sum(map(len, kept.values())),
        "accepted_share": share,
        "pass_1": share if by_threshold else None,
        "pass_k": _shares([float(any(row)) for row in right]) if right and by_threshold else None,
        "lenient_1": _shares([float(np.mean(row)) for row in forgiving]) if forgiving else None,
        "distinct": _means(distinct) if distinct else None,
        "entropy": _entropy(responses),
        "without": without,
        "missing_share": lost / len(everything),
        "truncated_share": sum(one.finish == "length" for one in everything) / len(everything),
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
