"""Iterative DPO with any judge: sample, judge, pair best and worst, train, again (Xu et al., arXiv 2312.16682;
Yuan et al., arXiv 2401.10020)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from selfimprove.judging.pairs import best_and_worst
from selfimprove.loop.round_parts import ROUND_PARTS
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, Options, method
from selfimprove.recipe.judges import JudgeOptions
from selfimprove.recipe.recipe import Recipe

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


class IterativeDpo(Options):
    """Section `iterative_dpo`."""

    judge: JudgeOptions = JudgeOptions(kind="implicit_reward")
    """Who ranks the responses."""
    dpo_reference: Literal["current", "initial"] = "current"
    """The loss reference of every round: the policy that sampled (as CREAM and SRLM have it), or the one before round
    1."""
    sft: bool = True
    """Begin with SFT on `data.seed`."""


_UNLABELLED = "rubric, reward_model, function, constraints, likelihood, majority"


def _suits(recipe: Recipe, options: IterativeDpo) -> None:
    if options.sft and recipe.data.seed is None:
        raise ValueError(
            "iterative_dpo begins with SFT on `data.seed`: give it, or set iterative_dpo.sft=false with a judge "
            f"that needs no labels: {_UNLABELLED} (`selfimprove cp smollm2-135m/prompts-only` has one)"
        )
    if not options.sft and options.judge.kind == "implicit_reward":
        raise ValueError(
            "without SFT the implicit reward of every response is 0 in round 1, as the policy is still the model: "
            f"give `iterative_dpo.judge` a kind that needs no labels: {_UNLABELLED}"
        )


@method(options=IterativeDpo, needs=Needs(prompts=True, responses=2), suits=_suits, report=ROUND_PARTS)
def iterative_dpo(loop: Loop, options: IterativeDpo) -> Policy:
    """`dpo_reference: current` (the policy that sampled, as CREAM and SRLM do) or `initial` (the policy before
    round 1). The reward reference of the implicit reward is M0 in either case."""
    base = loop.base_policy
    loop.evaluate(base)
    initial = loop.sft(base) if options.sft else base
    if options.sft:
        loop.evaluate(initial)

    policy = initial
    for round in loop.rounds():
        responses = loop.sample(policy, round.prompts)
        scores, missing = loop.judge(options.judge, responses, policy)
        pairs, skipped = best_and_worst(responses, scores, loop.recipe.training.truncated)
        loss_reference = policy if options.dpo_reference == "current" else initial
        reference = loop.log_probs(responses, loss_reference)
        trained, margins, _ = loop.dpo(policy, pairs, reference=reference, round=round)
        loop.report_round(round, trained, responses, scores, pairs, skipped, missing=missing, margins=margins)
        policy = trained
        loop.evaluate(policy, round)
    return loop.kept(policy)
