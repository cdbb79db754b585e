"""SCoRe: self-correction by multi-turn reinforcement learning (Kumar et al., ICLR 2025, arXiv 2409.12917).

The policy answers (y1), reads a fixed instruction that does not say whether it was right, and answers again (y2). Both
answers are its own samples, so it learns to correct the mistakes that it makes.

    Stage I  (Eq. 3)   max E[ r2 - beta2 KL(y1) - beta1 KL(y2) ]                          from the base model
    Stage II (Eq. 4)   max E[ r1 + r2 + alpha (r2 - r1) - beta1 (KL(y1) + KL(y2)) ]       from Stage I's weights

KL is KL(policy || base), in both stages. Credit is per turn: y1's tokens learn from r1, those of y2 from
r2 + alpha (r2 - r1). There is no official code. Where the paper is silent, each with an option: the baseline is the
mean of the prompt's other samples, per turn (`second_baseline`), and advantages are not divided by their spread, which
would cancel alpha (`whiten`); the KL is exact, per position (`kl`); reward and KL are both averaged over a turn's
tokens, which keeps the formula's ratio of the two (`policy_reduction`, `kl_reduction`); both stages have as many
updates; a truncated answer is wrong (`truncated`); no base-model first attempts are mixed in
(`stage_two.base_first_attempts`; the paper does so in some experiments). `keep: highest_reward` is the paper's choice
of the checkpoint.

Its controls are options: single-turn RL (`turns: 1`), plain multi-turn RL (`stage_one.updates: 0, alpha: 0`), Stage II
only (`stage_one.updates: 0`), Stage I with alpha 0 (`alpha: 0`); STaR and Pair-SFT are `methods/star.py`, Self-Refine
is a suite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.methods.score.options import Score
from selfimprove.methods.score.preview import preview
from selfimprove.methods.score.report import training_part
from selfimprove.methods.score.run import probe, require_trainable, train_stage
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method
from selfimprove.recipe.recipe import Recipe

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


def _suits(recipe: Recipe, options: Score) -> None:
    """What a policy gradient needs of the other sections."""
    rows, n, processes = recipe.training.batch_size, recipe.sampling.n, recipe.training.processes
    if rows % (n * processes):
        raise ValueError(
            f"`training.batch_size` ({rows} samples an update) must be a multiple of `sampling.n` ({n} samples a "
            f"prompt) times `training.processes` ({processes})"
        )
    if options.first_attempts and n % options.first_attempts:
        raise ValueError(f"`sampling.n` ({n}) must be a multiple of `score.first_attempts`")
    if options.sampler_weights != "none" and recipe.sampling.temperature != 1:
        raise ValueError("`score.sampler_weights` needs `sampling.temperature` 1, where samplers give log-probs")
    if recipe.sampling.top_p != 1:
        raise ValueError("`sampling.top_p` must be 1: the policy that is trained is the one that is sampled from")
    if shaped := next(iter(recipe.sampling.shaping), None):
        raise ValueError(f"`sampling.{shaped}` must be off: the policy that is trained is the one sampled from")
    if recipe.sampling.backend == "openai":
        raise ValueError("`sampling.backend`: a server cannot be given new weights every update; vllm, transformers")
    if recipe.training.truncated != "keep":
        raise ValueError("`training.truncated` is about preference pairs; see `score.truncated`")


@method(
    options=Score,
    needs=Needs(prompts=True, responses=2, rounds=False),
    defaults={"sampling.temperature": 1.0, "sampling.top_p": 1.0},
    suits=_suits,
    turns=lambda options: (options.instruction,) if options.turns == 2 else (),
    preview=preview,
    report=(training_part,),
)
def score(loop: Loop, options: Score) -> Policy:
    """Stage I, then Stage II, each a durable training step; a stage with 0 updates is left out."""
    require_trainable(loop)
    policy = base = loop.base_policy
    loop.evaluate(base)
    of_base = probe(loop, base, "base")

    for number, own in ((1, options.stage_one), (2, options.stage_two)):
        if own.updates:
            stage = loop.over_all(number, f"Stage {'I' * number}")
            policy = train_stage(loop, policy, stage, of_base)  # the reference stays the base
            probe(loop, policy, f"stage {number}")
            loop.evaluate(policy, stage)
    return loop.kept(policy)
