"""Rewards that are functions of stored log-likelihoods: summed log-probs and token counts per response."""

from __future__ import annotations

from selfimprove.data.rows import LogProbs, Responses, Scores


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
