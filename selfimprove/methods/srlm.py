"""SRLM with the implicit reward as judge: CREAM's baseline, which is its loop with C = 1 (arXiv 2410.12735, and
Yuan et al., arXiv 2401.10020, for self-rewarding; there the judge is prompted, here it is log pi_t - log pi_0).
A recipe's `judge` takes its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.judging.agreement import consistency
from selfimprove.judging.judges import ranking_of
from selfimprove.judging.likelihoods import implicit_reward
from selfimprove.judging.pairs import best_and_worst
from selfimprove.loop.round_parts import ROUND_PARTS
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


@method(needs=Needs(seed=True, prompts=True, responses=2), reads=("judge",), report=ROUND_PARTS)
def srlm(loop: Loop, options: None) -> Policy:
    """Rounds of plain DPO on pairs ranked by the policy itself. From round 2 on, the agreement with the previous
    model is measured and reported, and not used."""
    base = previous = loop.base_policy
    loop.evaluate(base)
    policy = loop.sft(base)
    loop.evaluate(policy)

    for round in loop.rounds():
        responses = loop.sample(policy, round.prompts)
        now = loop.log_probs(responses, policy)
        initial = loop.log_probs(responses, base)
        ranking, missing = ranking_of(loop, responses, policy, now, initial)
        loop.check_judged(ranking, missing)
        pairs, skipped = best_and_worst(responses, ranking, loop.recipe.training.truncated)

        agreement = before = None
        if round.number > 1:
            before = implicit_reward(responses, loop.log_probs(responses, previous), initial)
            agreement = {prompt.id: consistency(ranking[prompt.id], before[prompt.id]) for prompt, _ in responses}

        trained, margins, _ = loop.dpo(policy, pairs, reference=now, round=round)
        loop.report_round(round, trained, responses, ranking, pairs, skipped, agreement, missing, before, margins)
        policy, previous = trained, policy
        loop.evaluate(policy, round)
    return loop.kept(policy)
