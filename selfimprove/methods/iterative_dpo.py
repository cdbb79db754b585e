"""Iterative DPO with any judge: sample, judge, pair best and worst, train, again (Xu et al., arXiv 2312.16682;
Yuan et al., arXiv 2401.10020)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.judging.judges import judge_responses
from selfimprove.judging.pairs import best_and_worst
from selfimprove.models.policy import Policy

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


def iterative_dpo(loop: Loop) -> Policy:
    """`dpo_reference: current` (the policy that sampled, as CREAM and SRLM do) or `initial` (the policy before
    round 1). The reward reference of the implicit reward is M0 in either case."""
    options = loop.recipe.iterative_dpo
    base = loop.base_policy
    loop.evaluate(base)
    initial = loop.sft(base) if options.sft else base
    if options.sft:
        loop.evaluate(initial)

    policy = initial
    for round in loop.rounds():
        responses = loop.sample(policy, round.prompts)
        scores, missing = judge_responses(loop, options.judge, responses, policy)
        loop.check_judged(scores, missing)
        pairs, skipped = best_and_worst(responses, scores, loop.recipe.training.truncated)
        loop_reference = policy if options.dpo_reference == "current" else initial
        reference = loop.log_probs(responses, loop_reference)
        trained = loop.dpo(policy, pairs, reference=reference, round=round)
        loop.report_round(round, trained, responses, scores, pairs, skipped, missing=missing)
        policy = trained
        loop.evaluate(policy, round)
    return loop.kept(policy)
