"""Rewards that are functions of stored log-likelihoods: summed log-probs and token counts per response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.data.rows import LogProbs, Responses, Scores
from selfimprove.recipe.judge_kind import JudgeKind

if TYPE_CHECKING:
    from selfimprove.inference import Inference
    from selfimprove.models.policy import Policy
    from selfimprove.recipe.judges import JudgeOptions


def implicit_reward(responses: Responses, policy: LogProbs, reward_reference: LogProbs) -> Scores:
    """r_ij = log pi(y_ij | x_j) - log pi_ref(y_ij | x_j): summed over response tokens (nats), not divided by
    length and without DPO's beta, which changes no ranking (arXiv 2410.12735, step b of Algorithm 1).

    It is length-sensitive, so a round reports its correlation with length.
    """
    return {
        prompt.id: [policy.of(response) - reward_reference.of(response) for response in its_responses]
        for prompt, its_responses in responses
    }


def mean_log_likelihood(responses: Responses, policy: LogProbs) -> Scores:
    """log pi(y_ij | x_j) divided by the number of response tokens (nats per token)."""
    return {
        prompt.id: [
            policy.of(response) / policy.tokens[response.prompt_id, response.index] for response in its_responses
        ]
        for prompt, its_responses in responses
    }


def _implicit(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Scores:
    assert loop.base_policy is not None
    return implicit_reward(responses, loop.log_probs(responses, policy), loop.log_probs(responses, loop.base_policy))


def _likelihood(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> Scores:
    return mean_log_likelihood(responses, loop.log_probs(responses, policy))


IMPLICIT_REWARD = JudgeKind("implicit_reward", _implicit, bounded=False, unit="nats")
LIKELIHOOD = JudgeKind("likelihood", _likelihood, bounded=False, unit="nats per token")
