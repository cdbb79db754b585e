"""CREAM: consistency-regularised self-rewarding (Wang et al., ICLR 2025, arXiv 2410.12735).

The policy is its own judge: it ranks its responses by the DPO implicit reward. Where two successive models rank
the same responses differently, the preference label is unreliable, so it is softened by how far they agree.

Read from the authors' code, where the paper is silent: in round 1 the previous model is M0 itself, whose implicit
reward is zero everywhere, so the second ranking is M0's length-normalised log-likelihood; and `dyn` gives a prompt
without a consistency the mean. Chosen differently from that code, each with a test: consistencies are kept by
prompt id, TopOrder compares best and worst, ties count 0 (tau-a), SFT trains no prompt or padding token, and LoRA
starts as the identity.

A recipe's `judge` takes the place of J, as the ranking that makes the pairs; K stays the implicit reward of theta_{t-1}
(and in round 1 what `first_round` says), so that C is how far the judge and the previous model agree. This is our
choice: no paper has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from selfimprove import gates
from selfimprove.data.rows import LogProbs, Responses, Scores
from selfimprove.errors import RunFailed
from selfimprove.judging.agreement import consistency
from selfimprove.judging.judges import ranking_of
from selfimprove.judging.likelihoods import implicit_reward, mean_log_likelihood
from selfimprove.judging.pairs import best_and_worst, softened
from selfimprove.loop.round_parts import ROUND_PARTS
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, Options, method
from selfimprove.recipe.sections import Share

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


class Cream(Options):
    """Section `cream`."""

    measure: Literal["kendall", "kendall_b", "spearman", "top_order"] = "kendall"
    """How two rankings agree: tau-a, tau-b, Spearman's rho, or whether best and worst are the same."""
    weight: Literal["avg", "dyn", "constant"] = "avg"
    """`avg`: C for every pair; `dyn`: each its own C_j; `constant`: the same whatever was measured."""
    constant: Share = 1.0
    """C of every pair, for `weight: constant`."""
    first_round: Literal["likelihood", "sft_middle", "none"] = "likelihood"
    """The second ranking of round 1: M0's likelihood per token (the authors' code), the model from the middle of the
    SFT, or none."""
    floor: bool = False
    """Train nothing where C <= 0.5."""


# Whose ranking K is where theta_{t-1} is M0, whose implicit reward is zero everywhere; for the report.
_STANDS_IN = {"likelihood": "M0's likelihood per token", "sft_middle": "M1 half-way through its SFT"}


@method(
    options=Cream,
    needs=Needs(seed=True, prompts=True, responses=2),
    reads=("judge",),
    report=ROUND_PARTS,
)
def cream(loop: Loop, options: Cream) -> Policy:
    """Algorithm 1. Returns theta_{T+1}, or the best by development accuracy if the recipe keeps that."""
    base = previous = loop.base_policy  # theta_0
    loop.evaluate(base)
    policy, sft_middle = loop.sft_with_middle(base, middle=options.first_round == "sft_middle")  # theta_1
    loop.evaluate(policy)

    for round in loop.rounds():
        responses = loop.sample(policy, round.prompts)  # a. N responses per prompt from theta_t
        now = loop.log_probs(responses, policy)
        initial = loop.log_probs(responses, base)
        ranking, missing = ranking_of(loop, responses, policy, now, initial)  # b. J: log pi_t - log pi_0, or a judge's
        loop.check_judged(ranking, missing)

        before: Scores | None  # c. K: the same with theta_{t-1}
        if previous.digest != base.digest:
            before = implicit_reward(responses, loop.log_probs(responses, previous), initial)
        else:  # round 1, and later ones while the floor keeps theta_1
            before = _first_second_ranking(loop, responses, initial, sft_middle)

        agreement = {  # d. C_j per prompt, and C
            prompt.id: consistency(ranking[prompt.id], before[prompt.id], options.measure)
            for prompt, _ in responses
            if before
        }
        mean = mean_consistency(agreement) if before else 1.0
        pairs, skipped = best_and_worst(responses, ranking, loop.recipe.training.truncated)  # e.

        if options.weight == "avg":
            pairs = softened(pairs, mean)
        elif options.weight == "dyn":
            pairs = softened(pairs, agreement, mean)
        else:
            pairs = softened(pairs, options.constant)
        if options.floor:  # C_lambda >= 1/2 in theory; at 1/2 there is nothing to learn
            skipped["consistency at or below the floor of 0.5"] = sum(pair.confidence <= 0.5 for pair in pairs)
            pairs = [pair for pair in pairs if pair.confidence > 0.5]
        if before:
            verdict = gates.consistent_enough(options.weight, mean, list(agreement.values()))
            loop.check(verdict, stop=not options.floor)  # with the floor on, a low C trains nothing

        # f. theta_{t+1}, with theta_t as the loss reference: its log-probs are the scores made above
        trained, margins, _ = loop.dpo(policy, pairs, reference=now, round=round, may_be_empty=options.floor)
        loop.report_round(
            round,
            trained,
            responses,
            ranking,
            pairs,
            skipped,
            agreement,
            missing,
            before,
            margins,
            measure=options.measure,
            weight=options.weight,
            first_previous=_STANDS_IN.get(options.first_round),
        )
        if trained.digest != policy.digest:  # kept by the floor, theta_t is not its own predecessor: C would be 1
            policy, previous = trained, policy
        loop.evaluate(policy, round)
    return loop.kept(policy)


def mean_consistency(agreement: Mapping[str, float | None]) -> float:
    """C: the mean of the prompts' C_j, over those where it is defined."""
    known = [value for value in agreement.values() if value is not None]
    if not known:
        raise RunFailed(
            "the consistency is undefined for every prompt (each has equal scores, or fewer than two responses). "
            "Raise sampling.temperature, or sampling.n"
        )
    return float(np.mean(known))


def _first_second_ranking(
    loop: Loop, responses: Responses, initial: LogProbs, sft_middle: Policy | None
) -> Scores | None:
    """K where theta_{t-1} is M0 and its own implicit reward is zero: in round 1.

    likelihood: M0's length-normalised log-likelihood, as in the authors' code. Where SFT moved the model far, it
        opposes log pi_1 - log pi_0 by construction, and C falls below 1/2.
    sft_middle: the implicit reward of the model from the middle of the SFT, which is a model "between" M0 and M1.
    none: no second ranking; the labels of round 1 are not softened (C = 1).
    """
    if loop.recipe.options.first_round == "none":
        return None
    if sft_middle is not None:
        return implicit_reward(responses, loop.log_probs(responses, sft_middle), initial)
    return mean_log_likelihood(responses, initial)
