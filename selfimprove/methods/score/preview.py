"""What `selfimprove check` shows of SCoRe."""

from __future__ import annotations

from typing import Any

from selfimprove.methods.score.loss import effective_beta
from selfimprove.methods.score.options import Score
from selfimprove.methods.score.run import require_trainable
from selfimprove.models.chat import append_turn
from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import Preview


def preview(loop: Any, options: Score) -> Preview:
    """What the stages go through, the KL's weights in force, and how an update samples."""
    require_trainable(loop)
    between = len(append_turn(loop.tokenizer, [], options.instruction)) if options.turns == 2 else 0
    prompts = len(loop.data.round_prompts[0])
    return Preview([_updates(loop.recipe, prompts), _betas(loop.recipe), *_decode_steps(loop, between)])


def _updates(recipe: Recipe, prompts: int) -> str:
    """What SCoRe's stages go through."""
    score, n = recipe.options, recipe.sampling.n
    stages = [("Stage I", score.stage_one.updates), ("Stage II", score.stage_two.updates)]
    each = recipe.training.batch_size // n
    times = each * sum(updates for _, updates in stages) / prompts
    parts = " and ".join(f"{updates:,} updates in {name}" for name, updates in stages if updates)
    return f"{parts}: each {n} samples of {each} prompts; the {prompts:,} prompts are used {times:.1f} times"


def _betas(recipe: Recipe) -> str:
    """The KL's weights in force."""
    score, tokens = recipe.options, recipe.sampling.max_new_tokens
    weights = {
        name: effective_beta(beta, score.policy_reduction, score.kl_reduction, tokens)
        for name, beta in (("beta1", score.beta1), ("beta2", score.beta2))
    }
    said = ", ".join(f"{name} {weight:.3g}" for name, weight in weights.items())
    if score.policy_reduction == score.kl_reduction:
        return f"weights of the KL in force: {said}, as given (both terms are reduced by {score.kl_reduction})"
    return (
        f"weights of the KL in force at answers of {tokens} tokens: {said} (score.policy_reduction is "
        f"{score.policy_reduction}, score.kl_reduction {score.kl_reduction}: as given they are where both are the same)"
    )


def _decode_steps(loop: Any, between: int) -> list[str]:
    """How often the transformers sampler goes through the model for an update's samples: each batch of rows takes as
    many steps as its longest answer has tokens, and sampling.batch_tokens bounds the batch."""
    if loop.backend != "transformers":
        return []
    recipe, new = loop.recipe, loop.recipe.sampling.max_new_tokens
    longest = max(len(prompt.prompt_ids) for prompt in loop.data.round_prompts[0])
    rows, batches = recipe.training.batch_size // recipe.training.processes, 0
    for turn in range(recipe.options.turns):
        length = longest + new + turn * (new + between)
        each = max(1, recipe.sampling.batch_tokens // (length * recipe.sampling.n)) * recipe.sampling.n
        batches += -(-rows // each)
    return [
        f"sampling for an update: at most {batches * new:,} decode steps, {batches} batches of {new} "
        "(a larger sampling.batch_tokens takes fewer)"
    ]
