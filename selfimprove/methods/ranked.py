"""What methods share that train on seed examples, or on pairs of ranked responses."""

from __future__ import annotations

from typing import Any

from selfimprove.recipe.recipe import Recipe
from selfimprove.steps.cost import Cost, Data, Tokens


def ranked_cost(recipe: Recipe, options: Any, middle: bool = False) -> Cost:
    """SFT on the seed examples, then a DPO training a round on one pair a prompt."""
    return Cost(
        lambda data: _tokens(recipe, data, recipe.sft.epochs),
        trains=("SFT", "DPO") if recipe.data.seed else ("DPO",),
        each_round=1,
        once=bool(recipe.data.seed),
        middle=middle,
    )


def sft_cost(recipe: Recipe, options: Any) -> Cost:
    """One SFT."""
    return Cost(
        lambda data: _tokens(recipe, data, recipe.training.epochs),
        trains=("SFT",),
        once=1,
        samples=bool(recipe.evaluate or recipe.development),
    )


def dpo_cost(recipe: Recipe, options: Any) -> Cost:
    """One preference training."""
    return Cost(
        lambda data: _tokens(recipe, data, recipe.sft.epochs),
        trains=("SFT", "DPO") if recipe.data.seed else ("DPO",),
        once=1,
        samples=bool(recipe.evaluate or recipe.development),
    )


def _tokens(recipe: Recipe, data: Data, sft_epochs: float) -> Tokens:
    rows, new, epochs = data.rows, recipe.sampling.max_new_tokens, recipe.training.epochs
    sampled = len(rows) * recipe.sampling.n * new
    return Tokens(
        read=sum(rows),
        sampled=sampled,
        scored=3 * (sum(rows) + sampled),
        trained=data.examples * sft_epochs + epochs * 2 * (sum(rows) + len(rows) * new),
        policies=len(data.prompts) + 2,
    )
